"""How close to the machine's read bandwidth is a product with one row, and to its peak with many?

Shapes of Qwen3-0.6B's layers. One row: all weights of `--layers` layers, far more than the caches
hold, are streamed once for each reading, next to a plain read of the same bytes. Many rows: one
layer. Correctness is checked first, in the same run.

    python -m benchmarks.matmul --layers 28 --rows 2048 --bits 8 4 --cores 2
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
import tyro
from torch.nn import functional

from benchmarks.kernel_setting import KernelSetting
from benchmarks.record import record, shorten
from benchmarks.timing import take_turns
from snello.ops.limits import multiply_in_registers, read_all
from snello.ops.matmul import resolve
from snello.ops.matmul.packing import Packed, pack, pack_gated

HIDDEN, QUERIES, KEYS, INNER = 1024, 2048, 1024, 3072
SHAPES = {  # what a layer multiplies: outputs and inputs
    "qkv": (QUERIES + 2 * KEYS, HIDDEN),
    "o": (HIDDEN, QUERIES),
    "gate and up": (2 * INNER, HIDDEN),
    "down": (HIDDEN, INNER),
}
PEER_LAYERS = 8
"""Layers that float peers stream: their weights are two to four times as large."""
NUM_CHECKED_ROWS, TOLERANCE, ONE_CODE = 7, 1e-5, 1e-3

Layer = dict[str, Packed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(KernelSetting):
    """How near to the machine is a product with rounded weights?"""

    layers: int = 28
    """Layers whose weights are streamed with one row."""

    rows: int = 2048
    group: int = 64
    bits: tuple[int, ...] = (8, 4)
    repeats: int = 9


def main(options: Options) -> None:
    """Check, measure one row, measure many rows."""
    options.prepare()
    for bits in options.bits:
        layer = make_layer(bits, options.group)
        error = check(layer)
        measure_one_row(layer, options, error)
        measure_many_rows(layer, options, error)


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


def check(layer: Layer) -> float:
    """Return the middle row's distance between kernel and reference, on this run's weights.

    A row may be off by one code of one activation, which lay halfway between two; no more than one.
    """
    middles = []
    for name, packed in layer.items():
        x = torch.randn(NUM_CHECKED_ROWS, packed.num_inputs)
        ours, theirs = resolve("cpu")(x, packed), resolve("reference")(x, packed)
        errors = ((ours - theirs).abs().amax(dim=1) / theirs.abs().max()).tolist()
        num_off = sum(error > TOLERANCE for error in errors)
        is_right = num_off <= 1 and max(errors) < ONE_CODE
        assert is_right, f"{name}: kernel and reference differ by {max(errors):.1e}, {num_off} rows"
        middles.append(median(errors))
    return shorten(max(middles))


def measure_one_row(layer: Layer, options: Options, error: float) -> None:
    """Stream all layers' weights, one row at a time, beside a plain read and the float peers."""
    layers = [layer, *(copy_layer(layer) for _ in range(options.layers - 1))]
    num_bytes = sum(packed.num_bytes for each in layers for packed in each.values())
    bits = layer["o"].bits
    cases: dict[str, Callable[[], object]] = {
        "read": lambda: [read_all(packed.data) for each in layers for packed in each.values()],
        f"int{bits}": lambda: [run_layer(each, 1) for each in layers],
    }
    sizes = {"read": num_bytes, f"int{bits}": num_bytes}
    for dtype in (torch.float32, torch.bfloat16) if bits == 8 else ():
        floats = [make_floats(dtype) for _ in range(min(PEER_LAYERS, options.layers))]
        name = str(dtype).removeprefix("torch.")
        cases[name] = lambda floats=floats: [run_floats(each, 1) for each in floats]
        sizes[name] = sum(w.numel() * w.element_size() for each in floats for w in each)
    times = take_turns(cases, options.repeats)
    speed = {name: sizes[name] / median(seconds) for name, seconds in times.items()}
    print(f"\none row, group {options.group}, {options.cores} threads, {options.layers} layers")
    for name, seconds in times.items():
        figures = {
            "weight_mb": round(sizes[name] / 1e6, 1),
            "read_gb_s": round(speed["read"] / 1e9, 2),
            "percent_of_read": round(100 * speed[name] / speed["read"], 1),
            "kernel_error": error,
        }
        case = describe(options, bits, name, num_rows=1)
        says = f"{figures['weight_mb']:9.1f} MB {speed[name] / 1e9:7.2f} GB/s"
        report(options, case, seconds, figures, f"{says} {figures['percent_of_read']:6.1f} %")


def measure_many_rows(layer: Layer, options: Options, error: float) -> None:
    """One layer with many rows, beside the peak in registers and the peers."""
    bits, num_rows = layer["o"].bits, options.rows
    num_products = num_rows * sum(n * c for n, c in SHAPES.values())
    rounds = num_products // (12 * 64 * options.cores)
    cases: dict[str, Callable[[], object]] = {
        "peak": partial(multiply_in_registers, rounds),
        f"int{bits}": partial(run_layer, layer, num_rows),
    }
    if bits == 8:
        floats = make_floats(torch.float32)
        halves = [each.to(torch.bfloat16) for each in floats]
        whole = [torch.randint(-127, 127, each.shape, dtype=torch.int8) for each in floats]
        cases["float32"] = partial(run_floats, floats, num_rows)
        cases["bfloat16"] = partial(run_floats, halves, num_rows)
        cases["torch._int_mm, no scales"] = partial(run_whole, whole, num_rows)
    work = dict.fromkeys(cases, num_products) | {"peak": multiply_in_registers(rounds)}
    times = take_turns(cases, options.repeats)
    speed = {name: work[name] / median(seconds) for name, seconds in times.items()}
    print(f"\n{num_rows} rows, group {options.group}, {options.cores} threads, one layer")
    for name, seconds in times.items():
        figures = {
            "gproducts_per_s": round(speed[name] / 1e9, 2),
            "percent_of_peak": round(100 * speed[name] / speed["peak"], 1),
            "kernel_error": error,
        }
        case = describe(options, bits, name, num_rows=num_rows)
        says = f"{figures['gproducts_per_s']:9.1f} G products/s"
        report(
            options,
            case,
            seconds,
            figures,
            f"{says} {figures['percent_of_peak']:6.1f} % of the peak",
        )


def describe(options: Options, bits: int, name: str, *, num_rows: int) -> dict[str, Any]:
    """Return a case; `beside` tells the runs apart that a peer or a peak was measured in."""
    num_layers = options.layers if num_rows == 1 else 1
    return {
        "rows": num_rows, "what": name, "beside": f"int{bits}", "group": options.group,
        "layers": num_layers, "cores": options.cores,
    }  # fmt: skip


def report(
    options: Options,
    case: dict[str, Any],
    seconds: Sequence[float],
    figures: dict[str, Any],
    says: str,
) -> None:
    """Write a line and print it: p20, p50, p80 in milliseconds, and what they mean."""
    samples = [1e3 * each for each in seconds]
    row = record(options.results, "matmul", "ms", samples, case=case, figures=figures)
    each = " ".join(f"{row[name]:9.2f}" for name in ("p20", "p50", "p80"))
    print(f"  {case['what']:<26} {each} ms  {says}", flush=True)


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


if __name__ == "__main__":
    main(tyro.cli(Options))
