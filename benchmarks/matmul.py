"""How close to the machine's read bandwidth is a product with one row, and to its peak with many?

Shapes of Qwen3-0.6B's layers. One row: all weights of `--layers` layers, far more than the caches
hold, are streamed once for each reading, next to a plain read of the same bytes. Many rows: one
layer. Correctness is checked first, in the same run.

    python benchmarks/matmul.py [--layers 28] [--rows 2048] [--repeats 9] [--threads 2]
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from record import append, interleave, quantile
from torch.nn import functional

from snello.ops.limits import multiply_in_registers, read_all
from snello.ops.matmul import resolve
from snello.ops.matmul.packing import Packed, pack, pack_gated
from snello.ops.native import load_library

HIDDEN, QUERIES, KEYS, INNER = 1024, 2048, 1024, 3072
SHAPES = {  # what a layer multiplies: outputs and inputs
    "qkv": (QUERIES + 2 * KEYS, HIDDEN),
    "o": (HIDDEN, QUERIES),
    "gate and up": (2 * INNER, HIDDEN),
    "down": (HIDDEN, INNER),
}
PEER_LAYERS = 8
"""Layers that float peers stream: their weights are two to four times as large."""

Layer = dict[str, Packed]


def main() -> None:
    """Check, measure one row, measure many rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    flags = parser.parse_args()
    if not load_library().is_loaded:
        raise SystemExit(f"no kernels: {load_library().reason}")
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    for bits in flags.bits:
        layer = make_layer(bits, flags.group)
        check(layer)
        measure_one_row(layer, flags)
        measure_many_rows(layer, flags)


def make_layer(bits: int, group: int) -> Layer:
    """Random codes in the packed layout."""
    layer = {}
    for name, (num_outputs, num_inputs) in SHAPES.items():
        high = 1 << (bits - 1)
        codes = torch.randint(1 - high, high, (num_outputs, num_inputs), dtype=torch.int8)
        scales = (torch.rand(num_outputs, num_inputs // group) / high).to(torch.bfloat16)
        if name == "gate and up":
            pair = codes.unflatten(0, (2, -1)), scales.unflatten(0, (2, -1))
            layer[name] = pack_gated(*pair, bits)
        else:
            layer[name] = pack(codes, scales, bits)
    return layer


def check(layer: Layer) -> None:
    """The kernel gives what the reference gives, on rows of this run's weights."""
    for name, packed in layer.items():
        x = torch.randn(7, packed.num_inputs)
        ours, theirs = resolve("cpu")(x, packed), resolve("reference")(x, packed)
        off = float((ours - theirs).abs().max() / theirs.abs().max())
        if off > 1e-5:
            raise SystemExit(f"{name}: kernel and reference differ by {off:.1e}")


def measure_one_row(layer: Layer, flags: argparse.Namespace) -> None:
    """Stream all layers' weights, one row at a time, beside a plain read and the float peers."""
    layers = [layer, *(copy_layer(layer) for _ in range(flags.layers - 1))]
    num_bytes = sum(packed.num_bytes for each in layers for packed in each.values())
    bits = layer["o"].bits
    cases: dict[str, Callable[[], object]] = {
        "read": lambda: [read_all(packed.data) for each in layers for packed in each.values()],
        f"int{bits}": lambda: [run_layer(each, 1) for each in layers],
    }
    sizes = {"read": num_bytes, f"int{bits}": num_bytes}
    for dtype in (torch.float32, torch.bfloat16) if bits == 8 else ():
        floats = [make_floats(dtype) for _ in range(min(PEER_LAYERS, flags.layers))]
        name = str(dtype).removeprefix("torch.")
        cases[name] = lambda floats=floats: [run_floats(each, 1) for each in floats]
        sizes[name] = sum(w.numel() * w.element_size() for each in floats for w in each)
    times = interleave(cases, flags.repeats)
    speed = {name: sizes[name] / quantile(each, 0.5) for name, each in times.items()}
    print(f"\none row, group {flags.group}, {flags.threads} threads, {flags.layers} layers")
    for name, seconds in times.items():
        share = speed[name] / speed["read"]
        facts = {"mb": round(sizes[name] / 1e6, 1), "share_of_read": round(share, 3)}
        show(name, seconds, f"{facts['mb']:9.1f} MB {speed[name] / 1e9:7.2f} GB/s {share:7.1%}")
        append("matmul", f"one row, {name}", seconds, **facts, **vars(flags))


def measure_many_rows(layer: Layer, flags: argparse.Namespace) -> None:
    """One layer with many rows, beside the peak in registers and the peers."""
    bits, num_products = layer["o"].bits, flags.rows * sum(n * c for n, c in SHAPES.values())
    rounds = num_products // (12 * 64 * flags.threads)
    floats = make_floats(torch.float32)
    halves = [each.to(torch.bfloat16) for each in floats]
    cases: dict[str, Callable[[], object]] = {
        "peak": lambda: multiply_in_registers(rounds),
        f"int{bits}": lambda: run_layer(layer, flags.rows),
    }
    work = {"peak": multiply_in_registers(rounds)}
    if bits == 8:
        whole = [torch.randint(-127, 127, each.shape, dtype=torch.int8) for each in floats]
        cases["float32"] = lambda: run_floats(floats, flags.rows)
        cases["bfloat16"] = lambda: run_floats(halves, flags.rows)
        cases["torch._int_mm, no scales"] = lambda: run_whole(whole, flags.rows)
    times = interleave(cases, flags.repeats)
    speed = {n: work.get(n, num_products) / quantile(each, 0.5) for n, each in times.items()}
    print(f"\n{flags.rows} rows, group {flags.group}, {flags.threads} threads, one layer")
    for name, seconds in times.items():
        share = speed[name] / speed["peak"]
        show(name, seconds, f"{speed[name] / 1e9:9.1f} G products/s {share:7.1%} of the peak")
        append(
            "matmul", f"many rows, {name}", seconds, share_of_peak=round(share, 3), **vars(flags)
        )


def copy_layer(layer: Layer) -> Layer:
    """The same weights elsewhere in memory, on huge pages as `pack` would have it."""
    copies = {}
    for name, packed in layer.items():
        data = torch.ops.snello.zeros_huge(packed.data.numel()).view_as(packed.data)
        copies[name] = replace(packed, data=data.copy_(packed.data))
    return copies


def run_layer(layer: Layer, rows: int) -> None:
    """A layer's four products as a decoder calls them."""
    multiply, norm = resolve("cpu"), (torch.ones(HIDDEN), 1e-6)
    x = torch.ones(rows, HIDDEN)
    multiply(x, layer["qkv"], norm=norm)
    multiply(torch.ones(rows, QUERIES), layer["o"], residual=x)
    multiply(multiply(x, layer["gate and up"], norm=norm), layer["down"], residual=x)


def make_floats(dtype: torch.dtype) -> list[torch.Tensor]:
    """Random weights of one layer."""
    return [torch.randn(shape).mul_(0.02).to(dtype) for shape in SHAPES.values()]


def run_floats(weights: list[torch.Tensor], rows: int) -> None:
    """The same products through torch's own linear."""
    for weight in weights:
        functional.linear(torch.ones(rows, weight.shape[1], dtype=weight.dtype), weight)


def run_whole(weights: list[torch.Tensor], rows: int) -> None:
    """The bare products of whole numbers: no groups, no scales, no rounding of activations."""
    for weight in weights:
        torch._int_mm(torch.ones(rows, weight.shape[1], dtype=torch.int8), weight.t())


def show(name: str, seconds: list[float], rest: str) -> None:
    """One line of the table: p20, p50, p80 in milliseconds, and what they mean."""
    each = " ".join(f"{quantile(seconds, share) * 1e3:9.2f}" for share in (0.2, 0.5, 0.8))
    print(f"  {name:<26} {each} ms  {rest}")


if __name__ == "__main__":
    main()
