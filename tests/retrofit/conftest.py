"""A base so small that a whole retrofit takes a second, with a tokenizer of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from snello.bundled.tokenizer import CHAT_TEMPLATE, build_tokenizer
from snello.config.retrofit import RetrofitConfig
from snello.models.checkpoint import build_empty, save_weights
from snello.models.families import read_model_config

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "dtype": "float32",
    "eos_token_id": 2,
}


def write_base(folder: Path) -> Path:
    """Write a Qwen3 folder with random weights."""
    tokenizer = build_tokenizer()
    folder.mkdir()
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    decoder = build_empty(read_model_config(folder), None, dtype=torch.float32, device="cpu")
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            is_norm = name.endswith("norm.weight")
            parameter.fill_(1.0) if is_norm else parameter.normal_(std=0.3)
    save_weights(decoder, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """Twelve short conversations of words that the tokenizer knows."""
    path = tmp_path_factory.mktemp("data") / "talk.jsonl"
    rows = [
        {"prompt": f"what is {n} + {n}?", "response": f"<think> {n} + {n}</think> {' 1 2' * n}"}
        for n in range(1, 13)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tiny_base, data_file, tmp_path):
    """A retrofit of eight steps; `recipe(train="all")` changes what it says."""
    plain = RetrofitConfig(
        base=str(tiny_base),
        out=tmp_path / "run",
        data=str(data_file),
        factor=4.0,
        window_tokens=4,
        steps=8,
        ramp_steps=6,
        fade_steps=2,
        rows=2,
        sequence_tokens=48,
        accumulation=1,
        learning_rate=1e-2,
        precision="float32",
        log_every_steps=1,
        save_every_steps=2,
    )
    return lambda **changes: replace(plain, **changes)
