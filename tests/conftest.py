"""What every test stands on: a device, fixed seeds, and poisoned uninitialised memory."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is imported
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network must fail at once


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poison_empty():
    """Fill `torch.empty` with NaN (integers: the largest value): a missed write fails a test."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random Qwen3 of two layers with the bundled tokenizer, as Hugging Face writes a folder."""
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    from snello.bundled.tokenizer import CHAT_TEMPLATE, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(3)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(), eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_folder, tmp_path_factory):
    """An adapter folder for `tiny_folder` whose random decisions evict about half the tokens."""
    from safetensors.torch import save_file

    from snello.config.dms import DecisionConfig
    from snello.models.adapter import CARD, WEIGHTS, Card

    folder = tmp_path_factory.mktemp("tiny") / "adapter"
    folder.mkdir()
    torch.manual_seed(4)
    decision = DecisionConfig(window_tokens=6)
    card = Card(base_model=str(tiny_folder), decision=decision, factor=2.0)
    (folder / CARD).write_text(card.as_json())
    weights = {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.decision"
        weights[f"{prefix}.norm.weight"] = torch.ones(32)
        weights[f"{prefix}.proj.weight"] = torch.randn(2, 32) * 0.05
    save_file(weights, folder / WEIGHTS)
    return folder
