"""What does decode attention cost, dense and sparse, and do uneven heads cost more than even ones?

One layer of Qwen3-0.6B's shape (8 key-value heads, 16 query heads, 128 numbers each), read from as
many layers as exceed the last-level cache. Every case is first compared with the reference.

    python benchmarks/decode_attention.py [--contexts 512 4096] [--batches 1 8] [--dtype bfloat16]
"""

import argparse
from dataclasses import dataclass

import torch
from measuring import Bandwidth, measure_seconds, quantiles, record

from snello.config.model import CacheShape
from snello.ops.native import load_library
from snello.ops.page_attend import resolve
from snello.ops.pages import Lists, News, Slots

SHAPE = CacheShape(num_heads=8, key_size=128, value_size=128)
GROUP, PAGE_TOKENS, WINDOW_TOKENS, FACTOR = 2, 16, 256, 8
EMPTY = 2**30
LEAST_BYTES, MOST_BYTES = 2**27, 2**30  # all layers together; one layer alone
TOLERANCE = 1e-4


@dataclass
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


@torch.inference_mode()
def measure(case: dict, bandwidth: Bandwidth, repeats: int) -> list[float] | None:
    """Time one case and print it; the seconds of one layer, or None if it is too large."""
    lengths = live_tokens(case["context"], case["kind"], case["batch"])
    dtype = getattr(torch, case["dtype"])
    num_bytes = int(lengths.sum()) * SHAPE.numbers_per_slot * dtype.itemsize
    if num_bytes > MOST_BYTES:
        return None
    layers = [build_layer(lengths, dtype) for _ in range(max(1, -(-LEAST_BYTES // num_bytes)))]
    q = torch.randn(case["batch"], SHAPE.num_heads * GROUP, SHAPE.key_size)
    error = float((read("cpu", layers[0], q) - read("reference", layers[0], q)).abs().max())
    assert error < TOLERANCE, f"the kernel is off by {error} in {case}"
    seconds = []
    for _ in range(repeats):
        bandwidth.measure()
        total = measure_seconds(lambda: [read("cpu", layer, q) for layer in layers])
        seconds.append(total / len(layers))
    report(case, seconds, layers[0].num_bytes, error, bandwidth)
    return seconds


def report(case: dict, seconds: list, num_bytes: int, error: float, bandwidth: Bandwidth) -> None:
    """Print a row of the table, and keep it."""
    median = quantiles(seconds)["p50"]
    speed = num_bytes / median / 1e9
    percent = 100 * speed / bandwidth.gigabytes_per_second
    print(
        f"{case['context']:>7} {case['batch']:>5} {case['kind']:>7} {1e3 * median:>9.3f} ms "
        f"{num_bytes / 2**20:>8.1f} MiB {speed:>6.2f} GB/s {percent:>4.0f} %  error {error:.0e}"
    )
    more = {"bytes": num_bytes, "percent_of_bandwidth": percent, "error": error}
    more["bandwidth_gb_per_s"] = bandwidth.gigabytes_per_second
    record("decode_attention", case, seconds, **more)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 4096, 32768])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    assert load_library().is_loaded, load_library().reason
    bandwidth = Bandwidth()
    for batch in given.batches:
        for context in given.contexts:
            medians = {}
            for kind in ("dense", "even", "uneven"):
                case = {"context": context, "batch": batch, "kind": kind, "dtype": given.dtype}
                if seconds := measure(case, bandwidth, given.repeats):
                    medians[kind] = quantiles(seconds)["p50"]
            ratios = [f"uneven / even {medians['uneven'] / medians['even']:.2f}"]
            if "dense" in medians:
                ratios.append(f"dense / factor 8 {medians['dense'] / medians['even']:.2f}")
            print(" " * 14 + ", ".join(ratios))
    print(f"read bandwidth {bandwidth.gigabytes_per_second:.2f} GB/s")


if __name__ == "__main__":
    main()
