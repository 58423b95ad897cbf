"""What the benchmarks for a GPU share: how large everything is, a clock, an engine, a table.

Without a device they run on toy sizes in Triton's interpreter, to show that they run, and write
nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks.record import Place, record, shorten, summarize
from benchmarks.timing import time_once
from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.model import LayerConfig, ModelConfig, RopeConfig
from snello.engine.engine import Engine
from snello.models.decoder import Decoder
from snello.policies import Random

WINDOW_TOKENS, FACTOR, PAGE_TOKENS = 512, 8, 16


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is: Qwen3-8B on a device, a toy in the interpreter."""

    device: str
    dtype: torch.dtype
    model: ModelConfig
    window_tokens: int
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    repeats: int
    copy_bytes: int
    budget_bytes: int
    reply_tokens: int
    """Median of the lengths drawn in `budget`; one in ten is four times as long."""

    num_requests: int


def build_model(num_layers: int, hidden: int, heads: int, kv_heads: int, size: int) -> ModelConfig:
    """Qwen3's shape, at any size."""
    return ModelConfig(
        family="qwen3",
        vocab_size=151_936 if hidden > 64 else 97,
        hidden_size=hidden,
        mlp_size=3 * hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=size,
        layers=tuple(LayerConfig() for _ in range(num_layers)),
        rope=RopeConfig(size=size, theta=1e6),
        max_positions=40_960,
        attention_scale=size**-0.5,
        qk_norm="rms",
    )


FULL = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    model=build_model(36, 4096, 32, 8, 128),
    window_tokens=WINDOW_TOKENS,
    batches=(1, 8, 32, 64),
    contexts=(512, 4096, 32_768),
    repeats=50,
    copy_bytes=2**32,
    budget_bytes=16 * 2**30,
    reply_tokens=4000,
    num_requests=256,
)
TOY = replace(
    FULL,
    device="cpu",
    dtype=torch.float32,
    model=build_model(1, 16, 4, 2, 8),
    window_tokens=8,
    batches=(1, 2),
    contexts=(40,),
    repeats=1,
    copy_bytes=2**20,
    budget_bytes=2**16,
    reply_tokens=3,
    num_requests=2,
)


class Clock:
    """Seconds of device work: events around it, or the host's clock where there is no device."""

    def __init__(self, device: str) -> None:
        self.is_cuda = device == "cuda"

    def measure(self, work: Callable[[], object], repeats: int) -> list[float]:
        """Run once to compile, then time each of `repeats` runs."""
        work()
        return [self._once(work) for _ in range(repeats)]

    def _once(self, work: Callable[[], object]) -> float:
        if not self.is_cuda:
            return time_once(work)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def measure_copy(scale: Scale, clock: Clock) -> float:
    """Bytes a second, read plus written, of one large copy on the device."""
    source = torch.ones(scale.copy_bytes // 4, device=scale.device)
    target = torch.empty_like(source)
    seconds = median(clock.measure(lambda: target.copy_(source), max(5, scale.repeats // 5)))
    return 2 * scale.copy_bytes / seconds


class Table:
    """Prints each result, and keeps it where it was measured on a device."""

    def __init__(self, place: Place, scale: Scale, question: str, unit: str) -> None:
        self._is_real = scale.device == "cuda"
        self._place, self._question, self._unit = place, question, unit

    def add(
        self, case: dict[str, Any], samples: Sequence[float], figures: dict[str, float]
    ) -> None:
        """One line."""
        short = {name: shorten(value) for name, value in figures.items()}
        percentiles = {
            f"{name}_{self._unit}": shorten(value) for name, value in summarize(samples).items()
        }
        row = {**case, **percentiles, **short}
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        if self._is_real:
            record(
                self._place.results,
                self._question,
                self._unit,
                samples,
                case=case,
                figures=short,
                device="cuda",
            )


def choose_scale() -> Scale:
    """The device there is."""
    if torch.cuda.is_available():
        return FULL
    print("No CUDA device: toy sizes in Triton's interpreter. The figures mean nothing.")
    return TOY


def build_decoder(scale: Scale) -> Decoder:
    """Random weights, made where they are used."""
    torch.manual_seed(0)
    torch.set_default_dtype(scale.dtype)
    with torch.device(scale.device):
        decoder = Decoder(scale.model)
    torch.set_default_dtype(torch.float32)
    decoder.cast(scale.dtype)
    decoder.reset_derived()
    return decoder.eval().requires_grad_(False)


def open_engine(scale: Scale, decoder: Decoder, kind: str, **pool: int) -> Engine:
    """An engine on dense memory, or on sparse memory that keeps one token in eight."""
    common = {"page_tokens": PAGE_TOKENS, "dtype": scale.dtype, "device": scale.device, **pool}
    common["backend"] = "triton"
    shapes = decoder.cache_shapes
    if kind == "dense":
        memory = DenseMemory(shapes, **common)
    else:
        policy = Random(rate=1 - 1 / FACTOR)
        window = {"window_tokens": scale.window_tokens, "shift": 1, "policy": policy}
        memory = SparseMemory(shapes, **window, **common)
    return Engine(decoder, memory, max_sequences=pool["max_sequences"], seed=0)
