"""What does decode attention cost, dense and sparse, and do uneven heads cost more than even ones?

One layer of Qwen3-0.6B's shape (8 key-value heads, 16 query heads, 128 numbers each), read from as
many layers as exceed the last-level cache. Every case is first compared with the reference.

    python -m benchmarks.decode_attention --contexts 512 4096 --batches 1 8 --dtype bfloat16
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.kernel_setting import KernelSetting
from benchmarks.record import record, shorten
from benchmarks.timing import take_turns
from snello.config.model import CacheShape
from snello.ops.page_attend import resolve
from snello.ops.pages import Lists, News, Slots

SHAPE = CacheShape(num_heads=8, key_size=128, value_size=128)
GROUP, PAGE_TOKENS, WINDOW_TOKENS, FACTOR = 2, 16, 256, 8
EMPTY = 2**30
LEAST_BYTES, MOST_BYTES = 2**27, 2**30  # all layers together; one layer alone
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(KernelSetting):
    """What does decode attention cost?"""

    contexts: tuple[int, ...] = (512, 4096, 32768)
    batches: tuple[int, ...] = (1, 8)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class Layer:
    """Pages of one layer, in the random order that a pool has after a while."""

    slots: Slots
    lists: Lists

    @property
    def num_bytes(self) -> int:
        """What one step has to read: keys, values and positions of live tokens."""
        num_live = int((self.slots.positions < EMPTY).sum())
        numbers = SHAPE.numbers_per_slot * self.slots.keys.element_size()
        return num_live * (numbers + self.slots.positions.element_size())


def live_tokens(context: int, kind: str, batch: int) -> torch.Tensor:
    """How many tokens each head holds: `dense`, `even` at factor 8, `uneven` 1 to 20 with them."""
    if kind == "dense":
        return torch.full((batch, SHAPE.num_heads), context)
    recent = min(context, WINDOW_TOKENS + 1)
    survivors = (context - recent) / FACTOR
    if kind == "even":
        return torch.full((batch, SHAPE.num_heads), int(recent + survivors))
    shares = torch.linspace(1, 20, SHAPE.num_heads)
    lengths = (recent + survivors) * shares / shares.mean()
    return torch.stack([lengths.roll(b) for b in range(batch)]).long()


def build_layer(lengths: torch.Tensor, dtype: torch.dtype) -> Layer:
    """Random keys and values for so many tokens of each head."""
    S = PAGE_TOKENS
    num_held = (lengths + S - 1) // S
    num_pages = int(num_held.sum())
    pages = torch.full((*num_held.shape, int(num_held.max())), num_pages)
    columns = torch.arange(pages.shape[-1])
    pages[columns < num_held[..., None]] = torch.randperm(num_pages)
    positions = torch.full((num_pages + 1, S), EMPTY, dtype=torch.int32)
    tokens = torch.arange(pages.shape[-1] * S).view(-1, S)
    for length, row in zip(lengths.flatten(), pages.flatten(0, 1), strict=True):
        positions[row] = tokens.where(tokens < length, EMPTY).int()
    positions[num_pages] = EMPTY
    size = (num_pages + 1, S, SHAPE.key_size)
    keys, values = (torch.randn(size, dtype=dtype) for _ in range(2))
    evict = torch.zeros_like(positions, dtype=torch.bool)
    return Layer(Slots(keys, values, positions, evict), Lists(pages, num_held))


def read(backend: str, layer: Layer, q: torch.Tensor) -> torch.Tensor:
    """One layer's attention."""
    batch = len(q)
    news = News(torch.arange(batch), torch.full((batch,), EMPTY - 1), torch.arange(batch))
    out, num_seen = torch.zeros_like(q), torch.zeros(batch, dtype=torch.int64)
    attend = resolve(backend)
    given = q, news, layer.slots, layer.lists, SHAPE
    attend(*given, scale=SHAPE.key_size**-0.5, out=out, num_seen=num_seen)
    return out


def check(layer: Layer, q: torch.Tensor) -> float:
    """Return the largest difference from the reference, which must be that of rounding."""
    error = float((read("cpu", layer, q) - read("reference", layer, q)).abs().max())
    assert error < TOLERANCE, f"the kernel is off by {error}"
    return error


def read_all(layers: list[Layer], q: torch.Tensor) -> None:
    """Attention of all layers."""
    for layer in layers:
        read("cpu", layer, q)


@torch.inference_mode()
def measure(options: Options, bandwidth: Bandwidth, context: int, batch: int) -> None:
    """Check and time one context, all kinds in turns with a plain reading of memory."""
    dtype = getattr(torch, options.dtype)
    q = torch.randn(batch, SHAPE.num_heads * GROUP, SHAPE.key_size)
    kinds: dict[str, list[Layer]] = {}
    for kind in ("dense", "even", "uneven"):
        lengths = live_tokens(context, kind, batch)
        num_bytes = int(lengths.sum()) * SHAPE.numbers_per_slot * dtype.itemsize
        if num_bytes <= MOST_BYTES:
            num_layers = max(1, -(-LEAST_BYTES // num_bytes))
            kinds[kind] = [build_layer(lengths, dtype) for _ in range(num_layers)]
    errors = {kind: check(layers[0], q) for kind, layers in kinds.items()}
    cases: dict[str, Callable[[], object]] = {"read": bandwidth.measure}
    cases |= {kind: partial(read_all, layers, q) for kind, layers in kinds.items()}
    times = take_turns(cases, options.repeats)
    medians = {}
    for kind, layers in kinds.items():
        samples = [1e3 * seconds / len(layers) for seconds in times[kind]]
        medians[kind] = median(samples)
        case = {"context": context, "batch": batch, "kind": kind, "dtype": options.dtype}
        figures = describe(layers[0].num_bytes, medians[kind] / 1e3, bandwidth)
        report(options, case, samples, figures | {"error": shorten(errors[kind])})
    for kind in medians.keys() - {"even"}:
        print(f"{'':14}{kind} / even {medians[kind] / medians['even']:.2f}")


def describe(num_bytes: int, seconds: float, bandwidth: Bandwidth) -> dict[str, Any]:
    """Return what was read, and how near that is to the machine."""
    return {
        "kv_mb": round(num_bytes / 1e6, 3),
        "read_gb_s": round(bandwidth.median / 1e9, 2),
        "percent_of_read": round(100 * num_bytes / seconds / bandwidth.median, 1),
    }


def report(
    options: Options, case: dict[str, Any], samples: list[float], figures: dict[str, Any]
) -> None:
    """Write a line and print it."""
    row = record(options.results, "decode_attention", "ms", samples, case=case, figures=figures)
    print(
        f"{case['context']:>7} {case['batch']:>5} {case['kind']:>7} {row['p50']:>9.3f} ms "
        f"{figures['kv_mb']:>8.1f} MB {figures['percent_of_read']:>4.0f} % of "
        f"{figures['read_gb_s']:.2f} GB/s  error {figures['error']:.0e}",
        flush=True,
    )


def main(options: Options) -> None:
    """Run all cases."""
    options.prepare()
    bandwidth = Bandwidth()
    for batch in options.batches:
        for context in options.contexts:
            measure(options, bandwidth, context, batch)


if __name__ == "__main__":
    main(tyro.cli(Options))
