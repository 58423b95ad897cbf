"""Folders of quantized weights: written, read, and refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from snello.engine.build import pack_weights
from snello.models.adapter import load_model
from snello.models.checkpoint import base_parameters, load_decoder
from snello.models.compressed import pack_words, unpack_words
from snello.models.packing import pack_decoder
from snello.models.quantized_folder import write_quantized
from snello.ops.matmul.reference import look_up
from snello.quant.rounding import dequantize, quantize
from tests.models.test_packing import run
from tests.models.wide import save_wide

PRODUCT = "model.layers.0.self_attn.q_proj"
CASES = ["qwen3 tied with layer types", "nemotron", "qwen3_moe", "deepseek_v3"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_wide("qwen3 tied with layer types", tmp_path_factory.mktemp("plain") / "model")


def write(source, target, bits=8, group=32):
    write_quantized(target, load_model(source), bits, group)
    return target


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def weights_of(config):
    return config["config_groups"]["group_0"]["weights"]


@pytest.mark.parametrize("bits", [8, 4])
def test_words_on_a_page_of_paper(bits):
    """Codes are offset to be positive; the first input stands in the lowest bits."""
    codes = torch.zeros(1, 8, dtype=torch.int8)
    codes[0, 0], codes[0, 1] = -3, 2
    word = pack_words(codes, bits)[0, 0].item() & 0xFFFFFFFF
    assert word == {8: 0x8080827D, 4: 0x888888A5}[bits]
    assert torch.equal(unpack_words(pack_words(codes, bits), bits), codes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_written_folder_gives_the_logits_of_quantizing_on_load(case, bits, tmp_path):
    source = save_wide(case, tmp_path / "in")
    written = load_decoder(write(source, tmp_path / "out", bits))
    assert written.stored is not None
    assert written.stored.bits == bits
    pack_weights(written, None, 128)
    on_load = load_decoder(source)
    pack_decoder(on_load, bits, 32)
    assert torch.equal(run(written), run(on_load))


def test_the_tensors_are_those_of_the_layout(plain, tmp_path):
    write(plain, tmp_path / "out", 4)
    held = load_file(tmp_path / "out" / "model.safetensors")
    weight = load_file(plain / "model.safetensors")[f"{PRODUCT}.weight"]
    rounded = quantize(weight, 4, 32)
    assert held[f"{PRODUCT}.weight_shape"].tolist() == list(weight.shape)
    assert held[f"{PRODUCT}.weight_scale"].dtype == torch.bfloat16
    assert held[f"{PRODUCT}.weight_packed"].shape == (weight.shape[0], weight.shape[1] // 8)
    assert torch.equal(unpack_words(held[f"{PRODUCT}.weight_packed"], 4), rounded.codes)
    assert f"{PRODUCT}.weight" not in held
    assert held["model.embed_tokens.weight"].is_floating_point()
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    assert config["ignore"] == ["lm_head"]


def test_scales_of_another_rounding_are_kept(plain, tmp_path):
    """Codes that stop at 5: rounding them anew, by the largest weight, would move them."""
    folder = write(plain, tmp_path / "out", 4)
    held = load_file(folder / "model.safetensors")
    codes = unpack_words(held[f"{PRODUCT}.weight_packed"], 4).clamp(-5, 5)
    held[f"{PRODUCT}.weight_packed"] = pack_words(codes, 4)
    save_file(held, folder / "model.safetensors")
    decoder = load_decoder(folder)
    expected = codes.float().unflatten(1, (-1, 32)) * held[f"{PRODUCT}.weight_scale"][..., None]
    assert torch.equal(base_parameters(decoder)[f"{PRODUCT}.weight"], expected.flatten(1).float())
    pack_weights(decoder, None, 64)
    packed = decoder.model.layers[0].attention.qkv.packed
    assert torch.equal(look_up(packed, torch.arange(len(codes))), expected.flatten(1).float())


def test_int_quantized_with_a_scale_for_each_row_is_read(plain, tmp_path):
    folder = write(plain, tmp_path / "out")
    held = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if f"{name}_packed" not in held:
            weights[name] = tensor
            continue
        scale = (tensor.abs().amax(dim=1, keepdim=True) / 127).bfloat16()
        weights[name] = (tensor / scale.float()).round().clamp(-128, 127).to(torch.int8)
        weights[f"{name}_scale"] = scale
    save_file(weights, folder / "model.safetensors")

    def change(config):
        config["format"] = "int-quantized"
        weights_of(config).update(strategy="channel", group_size=None)

    edit(folder, change)
    decoder = load_decoder(folder)
    original = base_parameters(load_decoder(plain))[f"{PRODUCT}.weight"]
    assert (base_parameters(decoder)[f"{PRODUCT}.weight"] - original).abs().max() < 0.05
    exact = run(decoder)
    pack_weights(decoder, None, 64)
    assert (run(decoder) - exact).norm() < 0.05 * exact.norm()


def test_an_adapter_becomes_part_of_the_weights(tmp_path):
    """LoRA on a product, and a decision: the folder stands alone and decides as before."""
    from snello.config.dms import DecisionConfig
    from snello.models.adapter import Card, LoraNote, write_adapter

    source = save_wide("llama", tmp_path / "base")
    card = Card(
        base_model=str(source),
        decision=DecisionConfig(window_tokens=6),
        factor=2.0,
        lora=LoraNote(rank=2, alpha=4),
    )
    weights = {
        f"{PRODUCT}.lora_A.weight": torch.randn(2, 64) * 0.1,
        f"{PRODUCT}.lora_B.weight": torch.randn(64, 2) * 0.1,
    }
    for layer in range(2):
        weights[f"model.layers.{layer}.decision.norm.weight"] = torch.rand(64)
        weights[f"model.layers.{layer}.decision.proj.weight"] = torch.randn(2, 64)
    write_adapter(tmp_path / "adapter", card, weights)
    written = load_model(write(tmp_path / "adapter", tmp_path / "out"))
    assert written.card is not None
    assert written.card.base_model is None
    whole = dict(load_model(tmp_path / "adapter").decoder.named_parameters())
    ours = dict(written.decoder.named_parameters())
    for layer in range(2):
        name = f"model.layers.{layer}.decision.proj.weight"
        assert torch.equal(ours[name], whole[name])
    rounded = dequantize(quantize(whole[f"{PRODUCT}.weight"], 8, 32))
    assert torch.equal(ours[f"{PRODUCT}.weight"], rounded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(quant_method="gptq"), r"weights are quantized \(gptq\); allowed are"),
        (lambda c: c.update(format="marlin-24"), r"\(compressed-tensors, marlin-24\)"),
        (lambda c: weights_of(c).update(symmetric=False), "symmetric False"),
        (lambda c: weights_of(c).update(num_bits=3), "3 bits"),
        (lambda c: weights_of(c).update(group_size=16), "group 16"),
        (lambda c: weights_of(c).update(group_size=64), "do not fit groups of 64"),
        (lambda c: c.update(config_groups={}), "0 formats of quantized weights"),
    ],
)
def test_other_ways_of_quantizing_are_refused(change, message, plain, tmp_path):
    folder = write(plain, tmp_path / "out")
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        load_decoder(folder)


def test_a_part_that_is_missing_is_told(plain, tmp_path):
    folder = write(plain, tmp_path / "out")
    held = load_file(folder / "model.safetensors")
    del held[f"{PRODUCT}.weight_scale"]
    save_file(held, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"q_proj\.weight_packed' without the tensors that belong"):
        load_decoder(folder)


def test_what_is_quantized_is_not_quantized_again(plain, tmp_path):
    folder = write(plain, tmp_path / "out")
    with pytest.raises(ValueError, match="has weights in int8 already"):
        write(folder, tmp_path / "again")
    with pytest.raises(ValueError, match="weights is 'int4', and the folder's are int8 already"):
        pack_weights(load_decoder(folder), "int4", 32)


def test_experts_that_stand_stacked_on_disk_are_refused(tmp_path):
    source = save_wide("llama4", tmp_path / "in")
    with pytest.raises(ValueError, match="stores its experts stacked"):
        write(source, tmp_path / "out")
