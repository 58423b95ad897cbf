"""The decoder as a whole: recomputed layers, what a step is asked, and half precision."""

import pytest
import torch

from snello.config.dms import DecisionConfig
from snello.config.model import CacheShape, TemperatureConfig
from snello.models.attention import compute_temperature
from snello.models.checkpoint import base_parameters, build_empty, load_decoder
from snello.models.decoder import Decoder
from tests.models.naive_memory import NaiveMemory
from tests.models.running import run_ragged
from tests.models.tiny import build_tiny, ragged_prompts

CASES = ["qwen3 tied with layer types", "mixtral", "llama4", "deepseek_v3"]


@pytest.fixture(scope="module", params=CASES)
def decoder(request, tmp_path_factory) -> Decoder:
    folder = tmp_path_factory.mktemp("model")
    build_tiny(request.param).save_pretrained(folder)
    return load_decoder(folder, decision=DecisionConfig())


def gradients(decoder, checkpoint_layers):
    decoder.checkpoint_layers = checkpoint_layers
    decoder.zero_grad()
    memory = NaiveMemory(decoder.cache_shapes, wants_decisions=True)
    step = memory.begin([memory.add(), memory.add()], [4, 6])
    hidden = decoder(torch.arange(10), Forgetful(step))
    decoder.project(hidden).square().sum().backward()
    return {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}


class Forgetful:
    """A step whose layers may be run twice: what a layer stored before is dropped first."""

    wants_decisions = True

    def __init__(self, step):
        self.step = step
        self.positions = step.positions
        self.lengths = step.lengths

    def attend(self, layer, *rest, scale):
        for sequence in self.step.memory.sequences.values():
            sequence.keys.pop(layer, None)
            sequence.values.pop(layer, None)
        return self.step.attend(layer, *rest, scale=scale)


def test_recomputing_layers_changes_no_gradient(decoder):
    kept, recomputed = gradients(decoder, False), gradients(decoder, True)
    assert kept.keys() == recomputed.keys()
    assert any("experts" in name or "mlp" in name for name in kept)
    for name, gradient in kept.items():
        assert torch.allclose(gradient, recomputed[name], atol=1e-6), name
    decoder.checkpoint_layers = False


def test_a_batch_is_its_sequences_one_by_one(decoder):
    texts = ragged_prompts((13, 4, 22))
    memory = NaiveMemory(decoder.cache_shapes)
    together = run_ragged(decoder, memory, texts, num_decoded=3, chunks=(5, 22, 8))
    for text, ours in zip(texts, together, strict=True):
        alone = run_ragged(decoder, memory, [text], num_decoded=3, chunks=[22])[0]
        assert (ours - alone).abs().max() <= 1e-5


def test_a_latent_is_stored_as_one_head_whose_value_is_in_its_key(tmp_path):
    build_tiny("deepseek_v3").save_pretrained(tmp_path)
    shapes = load_decoder(tmp_path).cache_shapes
    assert shapes == (CacheShape(num_heads=1, key_size=20, value_size=12, value_in_key=True),) * 2


def test_latents_are_never_expanded_to_heads(tmp_path):
    """The product that would expand them is read as a matrix, and never applied to tokens."""
    build_tiny("deepseek_v3").save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path)
    called = []
    for layer in decoder.model.layers:
        layer.self_attn.kv_b_proj.register_forward_hook(lambda *_: called.append(1))
    memory = NaiveMemory(decoder.cache_shapes)
    run_ragged(decoder, memory, ragged_prompts((9,)), num_decoded=2, chunks=[9])
    assert not called


def test_bfloat16_stays_bfloat16_from_keys_to_logits(decoder):
    half = build_empty(decoder.config, None, dtype=torch.bfloat16, device="cpu")
    for name, parameter in base_parameters(half).items():
        parameter.copy_(base_parameters(decoder)[name])
    half.reset_derived()
    texts = ragged_prompts((12,))
    memory = NaiveMemory(half.cache_shapes)
    logits = run_ragged(half, memory, texts, num_decoded=2, chunks=[10])[0]
    assert logits.dtype == torch.bfloat16
    assert memory.sequences[0].keys[0][0].dtype == torch.bfloat16


def test_the_temperature_of_queries_on_a_page_of_paper():
    """Floor 4, strength 0.5: up to position 2 plain; from 3 on 1 + 0.5 log 2; from 7 on log 3."""
    scales = compute_temperature(
        TemperatureConfig(floor_tokens=4, strength=0.5), torch.tensor([0, 2, 3, 7])
    )
    assert scales.tolist() == pytest.approx([1.0, 1.0, 1.34657, 1.54931], abs=1e-4)
