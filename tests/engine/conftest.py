"""A tiny decoder with random decisions, and engines over each memory."""

import random
from dataclasses import dataclass

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.dms import DecisionConfig
from snello.config.model import LayerConfig, ModelConfig, RopeConfig
from snello.engine.engine import Engine
from snello.models.decoder import Decoder
from snello.policies import Learned, Never

VOCABULARY = 97
DECISION = DecisionConfig(window_tokens=6)


def build_decoder(seed=0, max_positions=512):
    torch.manual_seed(seed)
    config = ModelConfig(
        family="llama",
        vocab_size=VOCABULARY,
        hidden_size=32,
        mlp_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_size=8,
        layers=(LayerConfig(), LayerConfig()),
        rope=RopeConfig(size=8),
        max_positions=max_positions,
        attention_scale=8**-0.5,
    )
    decoder = Decoder(config, DECISION)
    decoder.reset_derived()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("decision.proj.weight"):
                parameter.normal_(std=0.05)
            elif parameter.ndim == 2:
                parameter.normal_(std=0.3)
            else:
                parameter.fill_(1.0)
    return decoder.eval().requires_grad_(False)


def open_memory(decoder, kind="sparse", num_pages=2000, max_sequences=64, device="cpu"):
    common = {
        "num_pages": num_pages,
        "page_tokens": 4,
        "max_sequences": max_sequences,
        "dtype": torch.float32,
        "device": device,
    }
    if kind == "dense":
        return DenseMemory(decoder.cache_shapes, **common)
    policy = Never() if kind == "never" else Learned()
    if kind in ("int8", "fp8"):
        common["survivors"] = kind
    return SparseMemory(
        decoder.cache_shapes,
        window_tokens=DECISION.window_tokens,
        shift=DECISION.shift,
        policy=policy,
        **common,
    )


@dataclass
class Bench:
    """One decoder, engines on demand."""

    decoder: Decoder

    def open(self, kind="sparse", *, num_pages=2000, eos_ids=(0, 1, 2, 3, 4, 5), **settings):
        memory = open_memory(self.decoder, kind, num_pages)
        return Engine(self.decoder, memory, eos_ids=eos_ids, **settings)


@pytest.fixture(scope="module")
def bench():
    return Bench(build_decoder())


@pytest.fixture(scope="module")
def prompts():
    dice = random.Random(7)
    sizes = [1, 2, 5, 17, 40, 3, 29, 48, 11, 8]
    return [[dice.randrange(6, VOCABULARY) for _ in range(size)] for size in sizes]
