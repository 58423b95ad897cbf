"""What is wrong with a folder is told in one line: what came, what is allowed, what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from snello.models.checkpoint import load_decoder, save_weights
from tests.models.tiny import build_tiny


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two sound folders: one with experts, and the same in shards."""
    folder = tmp_path_factory.mktemp("good")
    model = build_tiny("mixtral")
    model.save_pretrained(folder / "single")
    model.save_pretrained(folder / "sharded", max_shard_size="20KB")
    return folder


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good / "single", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(good, tmp_path):
    shutil.copytree(good / "sharded", tmp_path / "sharded")
    return tmp_path / "sharded"


def refuse(folder, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        load_decoder(folder)
    assert "\n" not in str(caught.value)


def change_config(folder, **changes):
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value != "absent"}))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


NAME = "model.layers.0.self_attn.k_proj.weight"
EXPERT = "model.layers.1.block_sparse_moe.experts.3.w3.weight"


def test_an_unknown_family_gets_the_known_ones_and_how_to_add_it(folder):
    change_config(folder, model_type="gpt_neox")
    refuse(folder, r"'gpt_neox'; known: deepseek_v2, .*qwen3_moe. .*families.py and its parity")


def test_a_config_without_a_family_is_refused(folder):
    change_config(folder, model_type="absent")
    refuse(folder, r"model_type is 'missing'")


def test_a_path_that_is_nowhere_is_refused(tmp_path):
    refuse(tmp_path / "nowhere", r"nowhere does not exist; give a model folder, or a hub name")


def test_a_hub_name_that_cannot_be_had_is_refused():
    refuse("nobody-here/no-such-model", r"no-such-model is no folder here, and the hub did not")


def test_a_file_instead_of_a_folder_is_refused(folder):
    refuse(folder / "model.safetensors", r"is a file; give the model folder")


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    refuse(folder, r"has no config.json")


@pytest.mark.parametrize("text", ["{", "[]", "3", "\xff"])
def test_a_damaged_config_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refuse(folder, r"config.json.*(is not JSON|must be a JSON object)")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"hidden_size": "absent"}, r"no 'hidden_size', which this family needs"),
        ({"hidden_size": "wide"}, r"'hidden_size' is 'wide'; it must be a whole number"),
        ({"num_attention_heads": 0}, r"'num_attention_heads' is 0"),
        ({"num_hidden_layers": 0}, r"layers is empty"),
        ({"num_key_value_heads": 3}, r"4 query heads and 3 key-value heads"),
        ({"hidden_act": "swish9"}, r"'hidden_act' is 'swish9'; it must be one of gelu"),
        ({"rms_norm_eps": "small"}, r"'rms_norm_eps' is 'small'; it must be a number"),
        ({"tie_word_embeddings": "yes"}, r"'tie_word_embeddings' is 'yes'; it must be true or"),
        ({"num_experts_per_tok": 9}, r"num_active is 9; it must be between 1 and .* 5"),
        ({"head_dim": 7}, r"RopeConfig.size is 7; it must be even"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"weights are quantized \(fp8\)"),
    ],
)
def test_a_wrong_value_in_the_config_is_named(folder, changes, pattern):
    change_config(folder, **changes)
    refuse(folder, pattern)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refuse(folder, r"holds neither model.safetensors nor")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused(folder, file):
    (folder / "model.safetensors").rename(folder / file)
    refuse(folder, rf"pickles \({file}\), which can run any code .* allowed are \*.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file_is_refused(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refuse(folder, r"model.safetensors cannot be read \(.*\); it is truncated or damaged")


def test_a_scrambled_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"\x07" * 4096)
    refuse(folder, r"model.safetensors cannot be read")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    change_weights(folder, lambda tensors: tensors[EXPERT][1].fill_(value))
    refuse(folder, rf"'{EXPERT}' holds NaN or Inf; weights must be finite")


def test_a_wrong_shape_is_refused(folder):
    change_weights(folder, lambda tensors: tensors.update({NAME: tensors[NAME][:-1].clone()}))
    refuse(folder, rf"'{NAME}' has shape \(15, 32\); config.json makes it \(16, 32\)")


@pytest.mark.parametrize("name", [NAME, EXPERT, "lm_head.weight", "model.norm.weight"])
def test_a_missing_tensor_is_named(folder, name):
    change_weights(folder, lambda tensors: tensors.pop(name))
    refuse(folder, rf"lacks '{name}' \(1 of its tensors are missing\)")


def test_an_unknown_tensor_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update({"score.weight": torch.ones(2, 32)}))
    refuse(folder, r"holds 'score.weight', which a mixtral decoder .* does not have")


def test_more_layers_than_the_config_says_are_refused(folder):
    change_config(folder, num_hidden_layers=1)
    refuse(folder, r"holds 'model.layers.1.*', which a mixtral decoder")


def test_more_experts_than_the_config_says_are_refused(folder):
    change_config(folder, num_local_experts=4)
    refuse(folder, r"experts.4.w1.weight' is of expert 4, but config.json says there are 4")


def test_a_dtype_that_is_no_float_is_refused(folder):
    change_weights(folder, lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.int8)}))
    refuse(folder, rf"'{NAME}' is torch.int8; allowed are float32, float16 and bfloat16")


def test_values_that_do_not_fit_float16_are_refused(folder):
    change_weights(folder, lambda tensors: tensors[NAME].fill_(1e6))
    with pytest.raises(ValueError, match=r"does not fit float16"):
        load_decoder(folder, dtype=torch.float16)


def test_a_head_of_its_own_in_a_tied_folder_is_refused(folder):
    change_config(folder, tie_word_embeddings=True)
    refuse(folder, r"the embeddings are tied, but 'lm_head.weight' differs")


def test_an_index_that_names_a_missing_file_is_refused(sharded):
    sorted(sharded.glob("*.safetensors"))[1].unlink()
    refuse(sharded, r"names model-00002-of-.*, which is not beside it \(1 of")


def test_an_index_that_promises_too_much_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["model.layers.7.x"] = "model-00001-of-00004.safetensors"
    raw["weight_map"] = {
        name: file if file in {p.name for p in sharded.iterdir()} else "model-00001-of-00002"
        for name, file in raw["weight_map"].items()
    }
    first = sorted(sharded.glob("*.safetensors"))[0].name
    raw["weight_map"]["model.layers.7.x"] = first
    index.write_text(json.dumps(raw))
    refuse(sharded, r"does not hold 'model.layers.7.x', which .* promises")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    refuse(sharded, r"index.json cannot be read")


def test_a_write_that_fails_leaves_the_folder_as_it_was(folder, monkeypatch):
    decoder = load_decoder(folder)
    before = sorted(path.name for path in folder.iterdir())
    content = (folder / "model.safetensors").read_bytes()

    def fill_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snello.models.weight_writer.save_file", fill_disk)
    with pytest.raises(ValueError, match=r"cannot be written \(.*No space left on device\)"):
        save_weights(decoder, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "model.safetensors").read_bytes() == content
