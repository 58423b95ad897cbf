"""Attention of single queries over pages through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.pages import Lists, Narrow, News, Slots


def attend_pages(  # noqa: PLR0913  (operators are told all they need)
    q: Float[Tensor, "T H D"],
    news: News,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """As `reference.attend_pages`, for float32 queries and pages of float32 or bfloat16."""
    torch.ops.snello.page_attend(
        q,
        *news,
        *slots[:3],
        *lists,
        shape.num_heads,
        shape.value_in_key,
        shape.horizon.span_tokens or 0,
        shape.horizon.kind == "chunked",
        scale,
        out,
        num_seen,
        None if narrow is None else narrow.scales,
        narrow is not None and narrow.dtype == torch.float8_e4m3fn,
        0 if narrow is None else narrow.ring_pages,
    )
