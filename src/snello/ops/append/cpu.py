"""Append and retire through the compiled kernel. Knows nothing of layers, pools or queries."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.pages import Lists, Narrow, News, Slots, Tails


def append_token(  # noqa: PLR0913  (operators are told all they need)
    k: Float[Tensor, "T K D"],
    v: Float[Tensor, "T K E"],
    marks: Bool[Tensor, "T K"],
    news: News,
    about: Int[Tensor, " B"],
    slots: Slots,
    lists: Lists,
    tails: Tails,
    shape: CacheShape,
    ring_tokens: int,
    narrow: Narrow | None = None,
) -> None:
    """As `reference.append_token`, for pages of float32 or bfloat16."""
    horizon = shape.horizon
    torch.ops.snello.append_token(
        k.float(),
        v.float(),
        marks,
        *news,
        about,
        *slots,
        *lists,
        *tails,
        ring_tokens,
        horizon.span_tokens or 0,
        horizon.kind == "chunked",
        None if narrow is None else narrow.scales,
        narrow is not None and narrow.dtype == torch.float8_e4m3fn,
    )
