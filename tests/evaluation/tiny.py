"""A model folder so small that everything runs in a second, and engines on it."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from snello.bundled.tokenizer import CHAT_TEMPLATE, build_tokenizer
from snello.cache.open import choose_memory
from snello.config.dms import DecisionConfig
from snello.config.engine import EngineConfig
from snello.engine.build import Served, build_engine
from snello.engine.text import TextCodec
from snello.models.adapter import LoadedModel
from snello.models.checkpoint import load_decoder

WINDOW = 6


def write_tiny(folder: Path) -> Path:
    """Write a Qwen3 folder with random weights and the bundled tokenizer."""
    tokenizer = build_tokenizer()
    torch.manual_seed(3)
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.3,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def open_tiny(folder: Path, kind: str, window_tokens: int | None = None) -> Served:
    """An engine on the tiny model, whose heads forget about half of what they see."""
    decision = DecisionConfig(window_tokens=WINDOW)
    decoder = load_decoder(folder, decision=decision)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("decision.proj.weight"):
                parameter.normal_(std=0.05)
    loaded = LoadedModel(decoder=decoder.eval(), folder=folder, decision=decision, card=None)
    codec = TextCodec(folder)
    plan = choose_memory(decision, kind, window_tokens)
    engine = build_engine(loaded, plan, EngineConfig(max_sequences=4), eos_ids=codec.eos_ids)
    return Served(engine=engine, codec=codec, plan=plan)
