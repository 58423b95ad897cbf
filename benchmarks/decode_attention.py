"""What does decode attention cost, dense and sparse, and do uneven heads cost more than even ones?

One layer of Qwen3-0.6B's shape (8 key-value heads, 16 query heads, 128 numbers each), or one of
DeepSeek-V3's absorbed latent attention (128 queries on one latent of 576 numbers), read from as
many layers as exceed the last-level cache, on huge pages, as pools lie. Every case is first
compared with the reference.

    python -m benchmarks.decode_attention --contexts 512 4096 --batches 1 8 --dtype bfloat16
    python -m benchmarks.decode_attention --form latent --contexts 4096 --batches 1
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.kernel_setting import KernelSetting
from benchmarks.record import record, shorten
from benchmarks.timing import take_turns
from snello.config.model import CacheShape
from snello.ops.huge import allocate_zeros
from snello.ops.page_attend import resolve
from snello.ops.pages import Lists, News, Slots

PAGE_TOKENS, WINDOW_TOKENS, FACTOR = 16, 256, 8
EMPTY = 2**30
LEAST_BYTES, MOST_BYTES = 2**27, 2**30  # all layers together; one layer alone
TOLERANCE = 1e-4


class Form(NamedTuple):
    """What a layer stores, and how many queries share a head."""

    shape: CacheShape
    group: int

    @property
    def num_queries(self) -> int:
        """Query heads of a layer."""
        return self.shape.num_heads * self.group

    @property
    def products_per_token(self) -> int:
        """Multiplications that one live token of one head costs."""
        return self.group * (self.shape.key_size + self.shape.value_size)


FORMS = {
    "grouped": Form(CacheShape(num_heads=8, key_size=128, value_size=128), 2),
    "latent": Form(CacheShape(num_heads=1, key_size=576, value_size=512, value_in_key=True), 128),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(KernelSetting):
    """What does decode attention cost?"""

    form: Literal["grouped", "latent"] = "grouped"
    """`latent`: DeepSeek-V3's, whose value is the first 512 numbers of its key."""

    contexts: tuple[int, ...] = (512, 4096, 32768)
    batches: tuple[int, ...] = (1, 8)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class Layer:
    """Pages of one layer, in the random order that a pool has after a while."""

    form: Form
    slots: Slots
    lists: Lists

    @property
    def num_live(self) -> int:
        """Live tokens of all heads."""
        return int((self.slots.positions < EMPTY).sum())

    @property
    def num_bytes(self) -> int:
        """What one step has to read: keys, values and positions of live tokens."""
        numbers = self.form.shape.numbers_per_slot * self.slots.keys.element_size()
        return self.num_live * (numbers + self.slots.positions.element_size())


def live_tokens(context: int, kind: str, batch: int, num_heads: int) -> torch.Tensor:
    """How many tokens each head holds: `dense`, `even` at factor 8, `uneven` 1 to 20 with them."""
    if kind == "dense":
        return torch.full((batch, num_heads), context)
    recent = min(context, WINDOW_TOKENS + 1)
    survivors = (context - recent) / FACTOR
    if kind == "even":
        return torch.full((batch, num_heads), int(recent + survivors))
    shares = torch.linspace(1, 20, num_heads)
    lengths = (recent + survivors) * shares / shares.mean()
    return torch.stack([lengths.roll(b) for b in range(batch)]).long()


def build_layer(form: Form, lengths: torch.Tensor, dtype: torch.dtype) -> Layer:
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
    value_size = form.shape.numbers_per_slot - form.shape.key_size
    keys, values = (
        allocate_zeros((num_pages + 1, S, size), dtype, positions.device).normal_()
        for size in (form.shape.key_size, value_size)
    )
    evict = torch.zeros_like(positions, dtype=torch.bool)
    return Layer(form, Slots(keys, values, positions, evict), Lists(pages, num_held))


def read(backend: str, layer: Layer, q: torch.Tensor) -> torch.Tensor:
    """One layer's attention."""
    batch = len(q)
    news = News(torch.arange(batch), torch.full((batch,), EMPTY - 1), torch.arange(batch))
    shape = layer.form.shape
    out = q.new_zeros(*q.shape[:2], shape.value_size)
    num_seen = torch.zeros(batch, dtype=torch.int64)
    given = q, news, layer.slots, layer.lists, shape
    resolve(backend)(*given, scale=shape.key_size**-0.5, out=out, num_seen=num_seen)
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
    dtype, form = getattr(torch, options.dtype), FORMS[options.form]
    q = torch.randn(batch, form.num_queries, form.shape.key_size)
    kinds: dict[str, list[Layer]] = {}
    for kind in ("dense", "even", "uneven")[: 2 if form.shape.num_heads == 1 else 3]:
        lengths = live_tokens(context, kind, batch, form.shape.num_heads)
        num_bytes = int(lengths.sum()) * form.shape.numbers_per_slot * dtype.itemsize
        if num_bytes <= MOST_BYTES:
            num_layers = max(1, -(-LEAST_BYTES // num_bytes))
            kinds[kind] = [build_layer(form, lengths, dtype) for _ in range(num_layers)]
    errors = {kind: check(layers[0], q) for kind, layers in kinds.items()}
    cases: dict[str, Callable[[], object]] = {"read": bandwidth.measure}
    cases |= {kind: partial(read_all, layers, q) for kind, layers in kinds.items()}
    times = take_turns(cases, options.repeats)
    medians = {}
    for kind, layers in kinds.items():
        samples = [1e3 * seconds / len(layers) for seconds in times[kind]]
        medians[kind] = median(samples)
        case = {"context": context, "batch": batch, "kind": kind, "dtype": options.dtype}
        case["form"] = options.form
        figures = describe(layers[0], medians[kind] / 1e3, bandwidth)
        report(options, case, samples, figures | {"error": shorten(errors[kind])})
    for kind in medians.keys() - {"even"}:
        print(f"{'':14}{kind} / even {medians[kind] / medians['even']:.2f}")


def describe(layer: Layer, seconds: float, bandwidth: Bandwidth) -> dict[str, Any]:
    """Return what was read and multiplied, and how near the reading is to the machine."""
    num_bytes, products = layer.num_bytes, layer.num_live * layer.form.products_per_token
    return {
        "gflop_per_s": round(2e-9 * products / seconds, 1),
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
        f"{figures['read_gb_s']:.2f} GB/s  {figures['gflop_per_s']:>4.0f} GFLOP/s  "
        f"error {figures['error']:.0e}",
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
