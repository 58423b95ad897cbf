"""Rotary embedding: every scaling against transformers, both spellings, and rows on their own."""

import itertools
import json
import math

import pytest
import torch
import transformers as hf

from snello.config.model import RopeConfig
from snello.models.checkpoint import load_decoder
from snello.models.families import read_model_config
from snello.models.rope import Rotary, compute_frequencies
from snello.ops.place.reference import rotate
from tests.models.naive_memory import NaiveMemory
from tests.models.running import run_ragged
from tests.models.tiny import COMMON, ragged_prompts, randomize

NUM_DECODED = 32
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    "yarn in all detail": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "attention_factor": 1.3,
        "beta_fast": 6.0,
        "beta_slow": 0.7,
        "truncate": False,
    },
    "yarn by its mscales": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "mscale": 0.9,
        "mscale_all_dim": 0.4,
    },
}


def save_llama(scaling, folder):
    rope = SCALINGS[scaling] | {"rope_theta": 500.0}
    config = hf.LlamaConfig(**COMMON | {"max_position_embeddings": 32}, rope_parameters=rope)
    model = randomize(hf.LlamaForCausalLM(config))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def run_transformers(model, text, chunk):
    """The logits of one text, in the same steps as ours: dynamic scaling depends on them."""
    model(text[None, :1])  # its frequencies outlive a call: a short one resets them
    end = len(text) - NUM_DECODED
    cuts = [*range(0, end, chunk), *range(end, len(text) + 1)]
    cache = hf.DynamicCache(config=model.config)
    steps = [text[None, a:b] for a, b in itertools.pairwise(cuts)]
    return torch.cat([model(step, cache=cache).logits[0] for step in steps])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_scaling_gives_the_logits_of_transformers(scaling, tmp_path):
    model = save_llama(scaling, tmp_path)
    decoder = load_decoder(tmp_path)
    texts = ragged_prompts((69, 37, 96, 69, 96))
    chunks = (64, 64, 64, 7, 7)
    memory = NaiveMemory(decoder.cache_shapes)
    logits = run_ragged(decoder, memory, texts, num_decoded=NUM_DECODED, chunks=chunks)
    for ours, text, chunk in zip(logits, texts, chunks, strict=True):
        assert (ours - run_transformers(model, text, chunk)).abs().max() <= 1e-4


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_old_spelling_reads_the_same_as_the_new(scaling, tmp_path):
    rope = SCALINGS[scaling] | {"rope_theta": 500.0}
    hf.LlamaConfig(**COMMON, rope_parameters=rope).save_pretrained(tmp_path)
    new = read_model_config(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    old_rope = raw.pop("rope_parameters")
    raw["rope_theta"] = old_rope.pop("rope_theta")
    old_rope["type"] = old_rope.pop("rope_type")
    raw["rope_scaling"] = None if old_rope["type"] == "default" else old_rope
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert new.rope.theta == 500.0
    assert read_model_config(tmp_path) == new


def test_dynamic_angles_of_a_row_do_not_depend_on_its_company():
    rotary = Rotary(RopeConfig(size=8, scaling="dynamic", factor=2.0, original_positions=16))
    short = rotary(torch.tensor([5]), torch.tensor([6]))
    mixed = rotary(torch.tensor([5, 70]), torch.tensor([6, 71]))
    assert torch.equal(short[0], mixed[0][:1])
    assert torch.equal(short[1], mixed[1][:1])


def test_rotation_on_a_page_of_paper():
    """A quarter turn carries (1, 0) to (0, 1), pairs being halves apart or neighbours."""
    x = torch.tensor([[[1.0, 2.0, 0.0, 0.0, 9.0]]])  # pairs (1, 0), (2, 0); 9 is not rotated
    cos, sin = torch.zeros(1, 2), torch.ones(1, 2)
    halves = rotate(x, cos, sin, interleaved=False)
    assert halves[0, 0].tolist() == [0.0, 0.0, 1.0, 2.0, 9.0]
    x = torch.tensor([[[1.0, 0.0, 2.0, 0.0, 9.0]]])
    neighbours = rotate(x, cos, sin, interleaved=True)
    assert neighbours[0, 0].tolist() == [0.0, 1.0, 0.0, 2.0, 9.0]


def test_frequencies_fall_from_one_to_the_base():
    frequencies = compute_frequencies(RopeConfig(size=4, theta=10_000.0))
    assert frequencies.tolist() == pytest.approx([1.0, 0.01])
    slowed = compute_frequencies(RopeConfig(size=4, theta=1e4, scaling="linear", factor=4.0))
    assert slowed.tolist() == pytest.approx([0.25, 0.0025])


def test_angles_are_float32_and_scaled_by_the_attention_factor():
    rotary = Rotary(RopeConfig(size=2, attention_factor=2.0))
    cos, sin = rotary(torch.tensor([1]), torch.tensor([2]))
    assert cos.dtype == torch.float32
    assert cos.item() == pytest.approx(2 * math.cos(1.0))
    assert sin.item() == pytest.approx(2 * math.sin(1.0))


def test_an_unknown_scaling_is_refused_with_the_known_ones(tmp_path):
    raw = hf.LlamaConfig(**COMMON).to_dict() | {"rope_scaling": {"type": "longrope", "factor": 4.0}}
    (tmp_path / "config.json").write_text(json.dumps(raw, default=str))
    with pytest.raises(ValueError, match=r"'longrope'; it must be one of default, dynamic, .*yarn"):
        read_model_config(tmp_path)
