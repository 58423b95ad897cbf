"""What does the attention of a prompt cost, dense and at factor 8, and how close to the arithmetic?

One layer of Qwen3-0.6B's shape, through the whole memory: chunks are stored, retired and read as in
serving. Every case is first compared with plain torch. The peak is that of a product of matrices.

    python benchmarks/prefill_attention.py [--tokens 2048 8192] [--chunk 512] [--dtype bfloat16]
"""

import argparse
from typing import NamedTuple

import torch
from measuring import measure_seconds, quantiles, record

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape
from snello.ops.native import load_library
from snello.policies import Random

SHAPE = CacheShape(num_heads=8, key_size=128, value_size=128)
GROUP, PAGE_TOKENS, WINDOW_TOKENS, FACTOR = 2, 16, 256, 8
TOLERANCE = 1e-4
CHECKED_TOKENS = 1024


class Prompt(NamedTuple):
    """The numbers of one prompt: queries, keys and values of one layer."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def invent(num_tokens: int) -> Prompt:
    """Random numbers."""
    K, D = SHAPE.num_heads, SHAPE.key_size
    return Prompt(*(torch.randn(num_tokens, heads, D) for heads in (K * GROUP, K, K)))


def open_memory(case: dict, backend: str | None = None) -> DenseMemory | SparseMemory:
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


def check(case: dict) -> float:
    """The largest difference from plain torch on the first tokens."""
    small = case | {"tokens": CHECKED_TOKENS}
    prompt = invent(CHECKED_TOKENS)
    reads = [prefill(open_memory(small, b), prompt, case["chunk"]) for b in (None, "reference")]
    error = float((reads[0] - reads[1]).abs().max())
    assert error < TOLERANCE, f"the kernel is off by {error} in {case}"
    return error


def measure_peak() -> float:
    """Floating-point operations a second of a float32 product of matrices that fit a cache."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    seconds = [measure_seconds(lambda: a @ b) for _ in range(5)]
    return 2 * 1024**3 / quantiles(seconds)["p50"]


@torch.inference_mode()
def measure(case: dict, repeats: int) -> float:
    """Time one case, print and keep it; the median in seconds."""
    error, prompt, memory = check(case), invent(case["tokens"]), open_memory(case)
    seconds, peaks = [], []
    for _ in range(repeats):
        peaks.append(measure_peak())
        seconds.append(measure_seconds(lambda: prefill(memory, prompt, case["chunk"])))
    reads = memory.kv_reads(0) * SHAPE.num_heads * GROUP
    speed = 4 * SHAPE.key_size * reads / quantiles(seconds)["p50"]
    percent = 100 * speed / quantiles(peaks)["p50"]
    median = quantiles(seconds)["p50"]
    print(
        f"{case['tokens']:>7} {case['kind']:>9} {median:>8.3f} s "
        f"{speed / 1e9:>7.1f} GFLOP/s {percent:>4.0f} % of a product  error {error:.0e}"
    )
    more = {"flops": speed, "percent_of_product": percent, "error": error}
    record("prefill_attention", case, seconds, **more)
    return median


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    assert load_library().is_loaded, load_library().reason
    for tokens in given.tokens:
        case = {"tokens": tokens, "chunk": given.chunk, "dtype": given.dtype}
        dense, sparse = (
            measure(case | {"kind": kind}, given.repeats) for kind in ("dense", "factor 8")
        )
        print(" " * 8 + f"dense / factor 8 {dense / sparse:.2f}")


if __name__ == "__main__":
    main()
