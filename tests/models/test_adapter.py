"""Adapters on disk: written, read back, merged, refused; and the public layout beside ours."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from snello import bundled
from snello.config.dms import DecisionConfig
from snello.models.adapter import (
    CARD,
    WEIGHTS,
    Card,
    LoraNote,
    find_base,
    load_model,
    read_card,
    write_adapter,
    write_full,
)
from snello.models.borrowed import find_borrowed_rows, read_borrowed_rows
from snello.models.checkpoint import build_empty, load_decoder, save_weights
from snello.models.families import read_model_config

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "vocab_size": 40,
    "dtype": "float32",
}
DECISION = DecisionConfig(window_tokens=5)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    decoder = build_empty(read_model_config(folder), None, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.2)
    save_weights(decoder, folder)
    return folder


def card_of(base, **changes):
    return replace(Card(base_model=str(base), decision=DECISION, factor=4.0), **changes)


def decision_weights(scale=1.0):
    return {
        f"model.layers.{layer}.decision.{part}.weight": scale * torch.randn(shape)
        for layer in range(2)
        for part, shape in (("norm", (16,)), ("proj", (2, 16)))
    }


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def test_what_is_written_is_what_is_read(base, tmp_path):
    weights = decision_weights()
    card = card_of(base, provenance={"data": "a.jsonl", "measured_factor": 3.2})
    write_adapter(tmp_path / "adapter", card, weights)
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [WEIGHTS, CARD]
    loaded = load_model(tmp_path / "adapter")
    assert loaded.card == card
    assert loaded.decision == DECISION
    assert loaded.folder == base
    own = loaded.decoder.state_dict()
    for name, tensor in weights.items():
        assert torch.equal(own[name], tensor)


def test_a_base_folder_loads_without_decision_or_card(base):
    loaded = load_model(base)
    assert loaded.decision is None
    assert loaded.card is None
    assert loaded.decoder.decision is None


def test_bundled_is_a_name_that_travels(base, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "model_folder", lambda: base)
    assert find_base("bundled") == base
    write_adapter(tmp_path / "adapter", card_of("bundled"), decision_weights())
    assert '"base_model": "bundled"' in (tmp_path / "adapter" / CARD).read_text()
    assert load_model(tmp_path / "adapter").folder == base


def test_a_base_that_has_moved_can_be_given_by_hand(base, tmp_path):
    write_adapter(tmp_path / "adapter", card_of(base), decision_weights())
    moved = tmp_path / "moved"
    base.rename(moved)
    with pytest.raises(ValueError, match="base does not exist"):
        load_model(tmp_path / "adapter")
    assert load_model(tmp_path / "adapter", moved).folder == moved


def test_companions_are_merged_into_plain_weights(base, tmp_path):
    a, b = torch.randn(3, 16), torch.randn(32, 3)
    module = "model.layers.1.self_attn.q_proj"
    weights = decision_weights() | {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    write_adapter(tmp_path / "a", card_of(base, lora=LoraNote(rank=3, alpha=6)), weights)
    merged = load_model(tmp_path / "a").decoder.state_dict()[f"{module}.weight"]
    plain = load_decoder(base).state_dict()[f"{module}.weight"]
    torch.testing.assert_close(merged, plain + 2.0 * b @ a)


def test_borrowed_rows_are_the_last_of_each_groups_first_head(base, tmp_path):
    decision = replace(DECISION, variant="borrowed")
    decoder = load_decoder(base, decision=decision)
    assert [found.rows.tolist() for found in find_borrowed_rows(decoder)] == [[7, 23], [7, 23]]
    rows = {name: torch.full_like(rows, 0.5) for name, rows in read_borrowed_rows(decoder).items()}
    write_adapter(tmp_path / "a", card_of(base, decision=decision), rows)
    own = load_model(tmp_path / "a").decoder.state_dict()
    weight = own["model.layers.0.self_attn.q_proj.weight"]
    assert bool((weight[[7, 23]] == 0.5).all())
    others = [row for row in range(32) if row not in (7, 23)]
    assert torch.equal(weight[others], decoder.state_dict()[
        "model.layers.0.self_attn.q_proj.weight"][others])  # fmt: skip


def test_one_decision_for_a_layer_borrows_one_row(base):
    decision = replace(DECISION, variant="borrowed", granularity="layer")
    decoder = load_decoder(base, decision=decision)
    assert [found.rows.tolist() for found in find_borrowed_rows(decoder)] == [[7], [7]]


def test_a_full_folder_stands_alone_and_is_a_hugging_face_checkpoint(base, tmp_path):
    decoder = load_decoder(base, decision=DECISION)
    with torch.no_grad():
        decoder.get_parameter("model.norm.weight").mul_(2.0)
    card = card_of(base, base_model=None)
    write_full(tmp_path / "full", card, decision_weights(), decoder=decoder, base=base)
    shutil.rmtree(base)
    loaded = load_model(tmp_path / "full")
    assert loaded.folder == tmp_path / "full"
    expected = decoder.state_dict()["model.norm.weight"]
    assert torch.equal(loaded.decoder.state_dict()["model.norm.weight"], expected)
    names = {path.name for path in (tmp_path / "full").iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors", CARD, WEIGHTS}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.popitem(), "which its card asks for"),
        (lambda w: w.update({"model.layers.7.x": torch.ones(1)}), r"has no place for"),
        (
            lambda w: w.update({"model.layers.0.decision.proj.weight": torch.ones(3, 16)}),
            r"has the shape \(3, 16\), the model needs \(2, 16\)",
        ),
        (
            lambda w: w.update(
                {"model.layers.0.decision.norm.weight": torch.full((16,), torch.nan)}
            ),
            "holds NaN or Inf",
        ),
        (
            lambda w: w.update({"model.norm.lora_A.weight": torch.ones(2, 2)}),
            "has no model.norm.lora_B.weight",
        ),
        (
            lambda w: w.update(
                {
                    "model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 9),
                    "model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(32, 2),
                }
            ),
            "fits no product of this model",
        ),
    ],
)
def test_weights_that_do_not_fit_get_one_line(base, tmp_path, change, complaint):
    write_adapter(tmp_path / "a", card_of(base), decision_weights())
    rewrite(tmp_path / "a", change)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_model(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"format_version": 9}', "format version 9; this snello reads version 1"),
        ('{"format_version": 1, "lora": null, "decision": {"colour": 1}}', "is damaged"),
        (
            '{"format_version": 1, "lora": null, "decision": {"window_tokens": 0}}',
            "window_tokens is 0",
        ),
    ],
)
def test_a_bad_card_gets_one_line(tmp_path, content, complaint):
    (tmp_path / CARD).write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_card_without_weights_gets_one_line(base, tmp_path):
    write_adapter(tmp_path / "a", card_of(base), decision_weights())
    (tmp_path / "a" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="an adapter folder holds"):
        load_model(tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_model(tmp_path / "a")


def test_a_writing_that_fails_leaves_the_older_adapter_whole(base, tmp_path, monkeypatch):
    write_adapter(tmp_path / "a", card_of(base), decision_weights())
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_adapter(tmp_path / "a", card_of(base, factor=2.0), decision_weights())
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}


def add_keys(folder: Path, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_public_keys_tell_of_a_borrowed_neuron_with_a_shift_of_one(base):
    add_keys(base, dms_window_size=512, dms_cr=8, dms_alpha_scale=50.0, dms_initial_alpha_offset=3)
    loaded = load_model(base)
    assert loaded.decision == DecisionConfig(
        variant="borrowed", window_tokens=512, shift=1, scale=50.0, offset=3.0
    )
    assert loaded.card is not None
    assert loaded.card.factor == 8.0


@pytest.mark.parametrize("granularity", ["head", "layer"])
def test_public_adapters_are_read_under_their_own_names(base, granularity):
    add_keys(base, dms_separate_alpha=True, dms_alpha_per=granularity, dms_window_size=7)
    weights = load_file(base / "model.safetensors")
    for layer in range(2):
        place = f"model.layers.{layer}.self_attn.dms_proj_alpha"
        weights[f"{place}_norm.weight"] = torch.full((16,), 0.5)
        weights[f"{place}.weight"] = torch.arange(32.0).view(2, 16)
    save_file(weights, base / "model.safetensors")
    decoder = load_model(base).decoder
    proj = decoder.state_dict()["model.layers.1.decision.proj.weight"]
    rows = 2 if granularity == "head" else 1
    assert torch.equal(proj, torch.arange(32.0).view(2, 16)[:rows])
    assert bool((decoder.state_dict()["model.layers.0.decision.norm.weight"] == 0.5).all())


def test_public_keys_that_switch_eviction_off_make_a_plain_base(base):
    add_keys(base, dms_window_size=512, dms_disable_eviction=True)
    assert load_model(base).decision is None


def test_a_public_key_of_no_meaning_gets_one_line(base):
    add_keys(base, dms_window_size="wide")
    with pytest.raises(ValueError, match="the dms_\\* keys do not fit"):
        load_model(base)
