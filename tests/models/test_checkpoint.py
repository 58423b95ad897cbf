"""Weights in and out of ordinary folders: formats, shards, names, and what is kept beside."""

import json
import shutil

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from snello.config.dms import DecisionConfig
from snello.models.checkpoint import base_parameters, load_decoder, save_weights
from tests.models.naive_memory import NaiveMemory
from tests.models.running import run_ragged
from tests.models.tiny import CASES, COMMON, LLAMA4, build_tiny, ragged_prompts, randomize


def read_folder(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def save_copy(source, target, tensors):
    """A folder with the same config and these tensors instead."""
    target.mkdir()
    shutil.copy(source / "config.json", target)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        target / "model.safetensors",
    )
    return target


@pytest.mark.parametrize("case", CASES)
def test_weights_written_are_the_weights_read(case, tmp_path):
    build_tiny(case).save_pretrained(tmp_path / "in")
    decoder = load_decoder(tmp_path / "in", decision=DecisionConfig())
    save_weights(decoder, tmp_path / "out")
    assert_same(read_folder(tmp_path / "out"), read_folder(tmp_path / "in"))


@pytest.mark.parametrize("case", ["qwen3 tied with layer types", "mixtral"])
def test_shards_read_and_written_hold_the_same(case, tmp_path):
    build_tiny(case).save_pretrained(tmp_path / "in", max_shard_size="20KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    decoder = load_decoder(tmp_path / "in")
    save_weights(decoder, tmp_path / "out", shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert_same(read_folder(tmp_path / "out"), read_folder(tmp_path / "in"))
    shutil.copy(tmp_path / "in" / "config.json", tmp_path / "out")
    again = load_decoder(tmp_path / "out")
    assert_same(base_parameters(again), base_parameters(decoder))
    save_weights(decoder, tmp_path / "out")  # in one file now: the shards must not be left over
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_transformers_loads_what_was_written(tmp_path):
    model = build_tiny("qwen3_moe")
    model.save_pretrained(tmp_path)
    save_weights(load_decoder(tmp_path), tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly_and_into_the_dtype_asked_for(stored, tmp_path):
    build_tiny("deepseek_v3").to(stored).save_pretrained(tmp_path)
    wide, narrow = load_decoder(tmp_path), load_decoder(tmp_path, dtype=stored)
    held = read_folder(tmp_path)
    name = "model.layers.0.self_attn.o_proj.weight"
    assert base_parameters(wide)[name].dtype == torch.float32
    assert torch.equal(base_parameters(wide)[name], held[name].float())
    assert torch.equal(base_parameters(narrow)[name], held[name])
    assert narrow.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    texts = ragged_prompts((9,))
    memory = NaiveMemory(narrow.cache_shapes)
    half = run_ragged(narrow, memory, texts, num_decoded=2, chunks=[5])[0]
    full = run_ragged(wide, NaiveMemory(wide.cache_shapes), texts, num_decoded=2, chunks=[5])[0]
    assert half.dtype == stored
    assert (half.float() - full).abs().mean() < 0.1


@pytest.mark.parametrize("case", ["mixtral", "qwen3_moe", "deepseek_v2 greedy without query rank"])
def test_experts_stacked_on_disk_are_read_as_they_stand(case, tmp_path):
    build_tiny(case).save_pretrained(tmp_path / "single")
    decoder = load_decoder(tmp_path / "single")
    stacked = save_copy(tmp_path / "single", tmp_path / "stacked", base_parameters(decoder))
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in read_folder(stacked))
    assert_same(base_parameters(load_decoder(stacked)), base_parameters(decoder))


def test_single_experts_of_llama4_are_read_too(tmp_path):
    build_tiny("llama4").save_pretrained(tmp_path / "fused")
    decoder = load_decoder(tmp_path / "fused")
    tensors = read_folder(tmp_path / "fused")
    for name in [name for name in tensors if ".experts." in name]:
        stem, tensor = name.rpartition(".")[0], tensors.pop(name)
        for expert, matrix in enumerate(tensor.transpose(1, 2)):
            if name.endswith("down_proj"):
                tensors[f"{stem}.{expert}.down_proj.weight"] = matrix
            else:
                gate, up = matrix.chunk(2)
                tensors[f"{stem}.{expert}.gate_proj.weight"] = gate
                tensors[f"{stem}.{expert}.up_proj.weight"] = up
    single = save_copy(tmp_path / "fused", tmp_path / "single", tensors)
    assert_same(base_parameters(load_decoder(single)), base_parameters(decoder))


def test_llama4_with_a_vision_tower_runs_its_text_part_and_keeps_the_rest(tmp_path):
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vision_output_dim": 12,
        "image_size": 16,
        "patch_size": 8,
        "projector_input_dim": 12,
        "projector_output_dim": 12,
    }
    text = {key: value for key, value in LLAMA4.items() if key != "attn_implementation"}
    config = hf.Llama4Config(text_config=text, vision_config=vision)
    model = randomize(hf.Llama4ForConditionalGeneration(config))
    model.save_pretrained(tmp_path / "in")
    decoder = load_decoder(tmp_path / "in")
    texts = ragged_prompts((20,))
    memory = NaiveMemory(decoder.cache_shapes)
    logits = run_ragged(decoder, memory, texts, num_decoded=3, chunks=[10])[0]
    with torch.no_grad():
        expected = model.language_model(texts[0][None]).logits[0]
    assert (logits - expected).abs().max() <= 1e-4
    assert any(name.startswith("vision_model.") for name in decoder.set_aside)
    save_weights(decoder, tmp_path / "out")
    assert_same(read_folder(tmp_path / "out"), read_folder(tmp_path / "in"))


def test_multi_token_prediction_layers_are_kept_for_later(tmp_path):
    build_tiny("deepseek_v3").save_pretrained(tmp_path / "plain")
    raw = json.loads((tmp_path / "plain" / "config.json").read_text())
    raw["num_nextn_predict_layers"] = 1
    (tmp_path / "plain" / "config.json").write_text(json.dumps(raw))
    extra = {
        "model.layers.2.eh_proj.weight": torch.randn(32, 64),
        "model.layers.2.self_attn.o_proj.weight": torch.randn(32, 56),
    }
    tensors = read_folder(tmp_path / "plain") | extra
    folder = save_copy(tmp_path / "plain", tmp_path / "with", tensors)
    decoder = load_decoder(folder)
    assert_same(decoder.set_aside, extra)
    save_weights(decoder, tmp_path / "out")
    assert_same(read_folder(tmp_path / "out"), tensors)


def test_a_tied_folder_may_hold_a_copy_of_the_embedding(tmp_path):
    build_tiny("llama with biases, tied, one group").save_pretrained(tmp_path / "in")
    tensors = read_folder(tmp_path / "in")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    folder = save_copy(tmp_path / "in", tmp_path / "copy", tensors)
    assert load_decoder(folder).lm_head is None


def test_derived_frequencies_of_old_folders_are_passed_over(tmp_path):
    hf.LlamaForCausalLM(hf.LlamaConfig(**COMMON)).save_pretrained(tmp_path / "in")
    tensors = read_folder(tmp_path / "in")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    old = load_decoder(save_copy(tmp_path / "in", tmp_path / "old", tensors))
    own = load_decoder(tmp_path / "in").model.rotary
    positions = torch.arange(9)
    for part, expected in zip(
        old.model.rotary(positions, positions), own(positions, positions), strict=True
    ):
        assert torch.equal(part, expected)


def test_a_decision_starts_at_keep_nearly_all(tmp_path):
    build_tiny("qwen3").save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, decision=DecisionConfig(), dtype=torch.bfloat16)
    decision = decoder.model.layers[1].decision
    assert decision.proj.weight.dtype == torch.float32
    assert decision.proj.weight.shape == (2, 32)
    logits = decision(torch.randn(3, 32, dtype=torch.bfloat16))
    assert logits.tolist() == [[-5.0, -5.0]] * 3
