"""Attention of chunks through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.pages import Fresh, Lists, Narrow, News, Slots


def attend_chunks(  # noqa: PLR0913  (operators are told all they need)
    q: Float[Tensor, "T H D"],
    news: News,
    counts: Int[Tensor, " B"],
    fresh: Fresh | None,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    window_tokens: int,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """As `reference.attend_chunks`, for float32 queries and pages of float32 or bfloat16."""
    keys, values, evict = (None, None, None) if fresh is None else fresh
    torch.ops.snello.chunk_attend(
        q,
        *news,
        counts,
        None if keys is None else keys.float(),
        None if values is None else values.float(),
        evict,
        *slots,
        *lists,
        shape.num_heads,
        shape.value_in_key,
        window_tokens,
        shape.horizon.span_tokens or 0,
        shape.horizon.kind == "chunked",
        scale,
        out,
        num_seen,
        None if narrow is None else narrow.scales,
        narrow is not None and narrow.dtype == torch.float8_e4m3fn,
        0 if narrow is None else narrow.ring_pages,
    )
