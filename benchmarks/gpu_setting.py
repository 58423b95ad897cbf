"""What the benchmarks for a GPU share: how large everything is, a clock, a table.

Without a device they run on toy sizes in Triton's interpreter, to show that they run, and write
nothing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from snello.config.model import LayerConfig, ModelConfig, RopeConfig

RESULTS = Path(__file__).parent / "results"
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
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
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

    def __init__(self, scale: Scale, question: str) -> None:
        self.is_real, self.question = scale.device == "cuda", question

    def add(self, case: dict, figures: dict) -> None:
        """One line."""
        row = {**case, **{k: _shorten(v) for k, v in figures.items()}}
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        if self.is_real:
            row["device"], row["torch"] = torch.cuda.get_device_name(), torch.__version__
            row["commit"], row["command"] = find_commit(), " ".join(sys.argv)
            RESULTS.mkdir(exist_ok=True)
            with (RESULTS / f"{self.question}.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


def find_commit() -> str:
    """The commit that is checked out, with `-dirty` where files differ from it."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _shorten(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def choose_scale() -> Scale:
    """The device there is."""
    if torch.cuda.is_available():
        return FULL
    print("No CUDA device: toy sizes in Triton's interpreter. The figures mean nothing.")
    return TOY
