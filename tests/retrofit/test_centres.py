"""Centres of queries: measured before rotation, and what the policy does with them."""

import torch

from snello.cache.open import choose_memory, open_memory
from snello.config.policy import parse_policy
from snello.config.sampling import SamplingConfig
from snello.engine.engine import Engine
from snello.models.checkpoint import load_decoder
from snello.retrofit.centres import measure_centres
from snello.retrofit.overhear import overhear

TEXTS = [list(range(5, 40)), [7, 9, 11, 13] * 6]


def test_centres_are_means_of_queries_before_they_are_rotated(tiny_folder):
    """A text of one token stands at position 0, where nothing is rotated."""
    decoder = load_decoder(tiny_folder)
    heard = overhear(decoder, [17])
    centres = measure_centres(decoder, [[17]])
    for layer, own in enumerate(heard):
        torch.testing.assert_close(centres.mean[layer], own.queries[0])
    torch.testing.assert_close(centres.spread, torch.zeros_like(centres.spread), atol=1e-6, rtol=0)


def test_the_first_layer_does_not_know_where_a_token_stands(tiny_folder):
    """Ten times the same token: in the first layer every unrotated query is the same."""
    decoder = load_decoder(tiny_folder)
    one, ten = (measure_centres(decoder, [[17] * count]) for count in (1, 10))
    torch.testing.assert_close(one.mean[0], ten.mean[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(ten.spread[0], torch.zeros_like(ten.spread[0]), atol=1e-4, rtol=0)
    assert float(measure_centres(decoder, TEXTS).spread.min()) > -1e-5


def test_what_is_overheard_is_what_attention_is_given(tiny_folder):
    decoder = load_decoder(tiny_folder)
    heard = overhear(decoder, TEXTS[0])
    layer = decoder.model.layers[1]
    torch.testing.assert_close(layer.input_layernorm(heard[1].stream), heard[1].normed)
    assert heard[0].keys.shape == (35, 2, 8)
    assert not layer._forward_pre_hooks


def test_the_policy_runs_in_the_engine(tiny_folder, tmp_path):
    decoder = load_decoder(tiny_folder)
    measure_centres(decoder, TEXTS).save(tmp_path / "centres")
    written = f"tri:budget=12,every=4,centres={tmp_path / 'centres'}"
    plan = choose_memory(None, None, None, "same", parse_policy(written, "a test"))
    room = {"budget_bytes": 2**20, "page_tokens": 4, "max_sequences": 4}
    memory = open_memory(decoder.cache_shapes, plan, **room)
    engine = Engine(decoder.requires_grad_(False).eval(), memory, eos_ids=())
    wish = SamplingConfig(max_new_tokens=30)
    together = engine.generate(TEXTS, wish)
    alone = [engine.generate([text], wish)[0] for text in TEXTS]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert {c.peak_live_tokens for c in together} == {12}
    memory.check()
    assert memory.num_bytes_in_use == 0
