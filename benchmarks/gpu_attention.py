"""How near does decode attention come to a GPU's memory bandwidth, and what do uneven heads cost?

One layer of Qwen3-8B's shape; 32 threads at 32K tokens are what issue 3 asks 80 percent for. Dense,
factor 8 with even heads, and with lengths 1:20. Each case is compared with the reference first.
Percent is of a large copy on the device, bytes read plus bytes written, measured between the cases.

    python -m benchmarks.gpu_attention
    TRITON_INTERPRET=1 python -m benchmarks.gpu_attention   # without a device: a toy
"""

from collections.abc import Callable
from statistics import median

import torch
import tyro

from benchmarks.gpu_setting import (
    FACTOR,
    PAGE_TOKENS,
    Clock,
    Scale,
    Table,
    choose_scale,
    measure_copy,
)
from benchmarks.record import Place
from snello.config.model import CacheShape
from snello.ops.append import resolve as resolve_append
from snello.ops.page_attend import resolve as resolve_attend
from snello.ops.pages import Lists, News, Slots, Tails

EMPTY = 2**30


def live_tokens(scale: Scale, context: int, batch: int, kind: str) -> torch.Tensor:
    """How many tokens each head holds."""
    K = scale.model.num_kv_heads
    recent = min(context, scale.window_tokens + 1)
    slim = recent + (context - recent) // FACTOR
    if kind == "uneven":
        shares = torch.linspace(1, 20, K)
        return torch.stack([(slim * shares / shares.mean()).roll(b) for b in range(batch)]).long()
    return torch.full((batch, K), context if kind == "dense" else slim)


def build_pages(scale: Scale, shape: CacheShape, lengths: torch.Tensor) -> tuple[Slots, Lists]:
    """Random tokens on pages in the random order that a pool has after a while."""
    S, device = PAGE_TOKENS, scale.device
    held = (lengths + S - 1) // S
    num_pages, width = int(held.sum()), int(held.max()) + 1
    pages = torch.full((*held.shape, width), num_pages)
    pages[torch.arange(width) < held[..., None]] = torch.randperm(num_pages)
    positions = torch.full((num_pages + 1, S), EMPTY, dtype=torch.int32)
    tokens = torch.arange(width * S).view(-1, S)
    for length, row in zip(lengths.flatten(), pages.flatten(0, 1), strict=True):
        positions[row] = tokens.where(tokens < length, EMPTY).int()
    positions[num_pages] = EMPTY
    size = num_pages + 1, S, shape.key_size
    keys, values = (torch.randn(size, dtype=scale.dtype, device=device) for _ in range(2))
    positions = positions.to(device)
    evict = torch.zeros_like(positions, dtype=torch.bool)
    return Slots(keys, values, positions, evict), Lists(pages.to(device), held.to(device))


def compare(read: Callable[[str, torch.Tensor], None], out: torch.Tensor) -> float:
    """The kernel's relative error against the reference, which must be that of rounding."""
    read("triton", out)
    expected = torch.empty_like(out)
    read("reference", expected)
    error = float((out - expected).float().norm() / expected.float().norm())
    assert error < 4 * torch.finfo(out.dtype).eps + 1e-5, f"the kernel is off by {error}"
    return error


def measure_attention(
    scale: Scale, clock: Clock, batch: int, context: int, kind: str
) -> tuple[list[float], dict[str, float]]:
    """Time one layer's attention; return its seconds, and figures, those of its append too."""
    model = scale.model
    shape, B = model.cache_shapes[0], batch
    lengths = live_tokens(scale, context, batch, kind)
    slots, lists = build_pages(scale, shape, lengths)
    rows = torch.arange(B, device=scale.device)
    news = News(rows, torch.full_like(rows, 2 * context * FACTOR), rows)
    q = torch.randn(B, model.num_heads, shape.key_size, dtype=scale.dtype, device=scale.device)
    out, num_seen = torch.empty_like(q), torch.zeros_like(rows)

    def read(backend: str, out: torch.Tensor) -> None:
        attend = resolve_attend(backend)
        given = q, news, slots, lists, shape
        attend(*given, scale=model.attention_scale, out=out, num_seen=num_seen)

    error = compare(read, out)
    seconds = clock.measure(lambda: read("triton", out), scale.repeats)
    k = torch.randn(B, model.num_kv_heads, shape.key_size, dtype=scale.dtype, device=scale.device)
    marks = torch.ones(k.shape[:2], dtype=torch.bool, device=scale.device)
    tails = Tails(torch.zeros_like(lists.num_held), torch.full_like(lists.num_held, -1))
    store = k, k, marks, news, news.positions, slots, lists, tails, shape, PAGE_TOKENS
    append_seconds = clock.measure(lambda: resolve_append("triton")(*store), scale.repeats)
    width = shape.numbers_per_slot * scale.dtype.itemsize + 4
    num_bytes = int(lengths.sum()) * width
    return seconds, {
        "append_ms": 1e3 * median(append_seconds),
        "kv_mb": num_bytes / 1e6,
        "gb_per_s": num_bytes / median(seconds) / 1e9,
        "error": error,
    }


@torch.inference_mode()
def main(options: Place) -> None:
    """Measure every case."""
    scale = choose_scale()
    clock, table = Clock(scale.device), Table(options, scale, "gpu_attention", "ms")
    for batch in scale.batches:
        for context in scale.contexts:
            for kind in ("dense", "even", "uneven"):
                copied = measure_copy(scale, clock) / 1e9
                seconds, figures = measure_attention(scale, clock, batch, context, kind)
                figures |= {
                    "copy_gb_s": copied,
                    "percent_of_copy": 100 * figures["gb_per_s"] / copied,
                }
                case = {"batch": batch, "context": context, "kind": kind}
                table.add(case, [1e3 * each for each in seconds], figures)


if __name__ == "__main__":
    main(tyro.cli(Place, description=__doc__))
