"""What does the attention of a prompt cost, dense and at factor 8, and how close to the arithmetic?

One layer of Qwen3-0.6B's shape, through the whole memory: chunks are stored, retired and read as in
serving. Every case is first compared with plain torch. The peak is that of a product of matrices.

    python -m benchmarks.prefill_attention --tokens 2048 8192 --chunk 512 --dtype bfloat16
"""

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
import tyro

from benchmarks.kernel_setting import KernelSetting
from benchmarks.record import record, shorten
from benchmarks.timing import take_turns
from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape
from snello.policies import Random

SHAPE = CacheShape(num_heads=8, key_size=128, value_size=128)
GROUP, PAGE_TOKENS, WINDOW_TOKENS, FACTOR = 2, 16, 256, 8
TOLERANCE = 1e-4
MOST_CHECKED_TOKENS = 1024
PRODUCT_SIZE, NUM_PRODUCTS = 1024, 5
KINDS = ("dense", "factor 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(KernelSetting):
    """What does the attention of a prompt cost?"""

    tokens: tuple[int, ...] = (2048, 8192)
    chunk: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 3


class Prompt(NamedTuple):
    """The numbers of one prompt: queries, keys and values of one layer."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def invent(num_tokens: int) -> Prompt:
    """Random numbers."""
    K, D = SHAPE.num_heads, SHAPE.key_size
    return Prompt(*(torch.randn(num_tokens, heads, D) for heads in (K * GROUP, K, K)))


def open_memory(case: dict[str, Any], backend: str | None = None) -> DenseMemory | SparseMemory:
    """A memory for one prompt; factor 8 evicts seven in eight by chance."""
    common = {
        "num_pages": SHAPE.num_heads * (case["tokens"] // PAGE_TOKENS + 40),
        "page_tokens": PAGE_TOKENS,
        "max_sequences": 1,
        "dtype": getattr(torch, case["dtype"]),
        "backend": backend,
    }
    if case["kind"] == "dense":
        return DenseMemory((SHAPE,), **common)
    rule = {"window_tokens": WINDOW_TOKENS, "shift": 1, "policy": Random(1 - 1 / FACTOR)}
    return SparseMemory((SHAPE,), **rule, **common)


def prefill(memory: DenseMemory | SparseMemory, prompt: Prompt, chunk: int) -> torch.Tensor:
    """Take the prompt in, chunk by chunk; what its queries read."""
    sequence, outs = memory.add(), []
    for first in range(0, len(prompt.q), chunk):
        part = [numbers[first : first + chunk] for numbers in prompt]
        step = memory.begin([sequence], [len(part[0])])
        outs.append(step.attend(0, *part, None, scale=SHAPE.key_size**-0.5))
        memory.commit(step)
    memory.release(sequence)
    return torch.cat(outs)


def check(case: dict[str, Any]) -> float:
    """Return the largest difference from plain torch on the first tokens."""
    small = case | {"tokens": min(case["tokens"], MOST_CHECKED_TOKENS)}
    prompt = invent(small["tokens"])
    reads = [prefill(open_memory(small, b), prompt, case["chunk"]) for b in (None, "reference")]
    error = float((reads[0] - reads[1]).abs().max())
    assert error < TOLERANCE, f"the kernel is off by {error} in {case}"
    return error


@torch.inference_mode()
def measure(options: Options, num_tokens: int) -> None:
    """Check and time one length, both kinds in turns with products of matrices that fit a cache."""
    common = {"tokens": num_tokens, "chunk": options.chunk, "dtype": options.dtype}
    cases = {kind: common | {"kind": kind} for kind in KINDS}
    errors = {kind: check(case) for kind, case in cases.items()}
    prompt = invent(num_tokens)
    memories = {kind: open_memory(case) for kind, case in cases.items()}
    square = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    works = {
        kind: partial(prefill, memory, prompt, options.chunk) for kind, memory in memories.items()
    }
    products = partial(multiply_again, square)
    times = take_turns({"products": products, **works}, options.repeats)
    peak = NUM_PRODUCTS * 2 * PRODUCT_SIZE**3 / median(times["products"])
    for kind, case in cases.items():
        reads = memories[kind].kv_reads(0) * SHAPE.num_heads * GROUP
        speed = 4 * SHAPE.key_size * reads / median(times[kind])
        figures = {
            "gflop_per_s": round(speed / 1e9, 1),
            "percent_of_product": round(100 * speed / peak, 1),
            "error": shorten(errors[kind]),
        }
        report(options, case, times[kind], figures)
    dense, sparse = (median(times[kind]) for kind in KINDS)
    print(f"{'':8}dense / factor 8 {dense / sparse:.2f}")


def multiply_again(square: torch.Tensor) -> None:
    """Some float32 products of matrices."""
    for _ in range(NUM_PRODUCTS):
        square @ square


def report(
    options: Options, case: dict[str, Any], seconds: list[float], figures: dict[str, Any]
) -> None:
    """Write a line and print it."""
    row = record(options.results, "prefill_attention", "s", seconds, case=case, figures=figures)
    print(
        f"{case['tokens']:>7} {case['kind']:>9} {row['p50']:>8.3f} s "
        f"{figures['gflop_per_s']:>7.1f} GFLOP/s {figures['percent_of_product']:>4.0f} % of a "
        f"product  error {figures['error']:.0e}",
        flush=True,
    )


def main(options: Options) -> None:
    """Run all cases."""
    options.prepare()
    for num_tokens in options.tokens:
        measure(options, num_tokens)


if __name__ == "__main__":
    main(tyro.cli(Options))
