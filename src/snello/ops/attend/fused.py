"""Attention over gathered keys as fast as torch offers: same contract, without logsumexp.

Knows nothing of blocks: the caller bounds the number of queries.
"""

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    q: Float[Tensor, "B Q H D"],
    keys: Float[Tensor, "B K N D"],
    values: Float[Tensor, "B K N E"],
    visible: Bool[Tensor, "B K Q N"],
    *,
    scale: float,
) -> Float[Tensor, "B Q H E"]:
    """Attend over the visible keys, as `attend_part(...).out` does; seeing none gives zeros."""
    B, Q, H, D = q.shape
    K = keys.shape[1]
    grouped = q.view(B, Q, K, H // K, D).permute(0, 2, 3, 1, 4).flatten(0, 1)  # (B * K, g, Q, D)
    keys, values, mask = keys.flatten(0, 1), values.flatten(0, 1), visible.flatten(0, 1)
    if keys.shape[1] == 0:
        return q.new_zeros(B, Q, H, values.shape[-1])
    attend_rows = _attend_one if Q == 1 else _attend_many
    out = attend_rows(grouped, keys, values, _bias(mask, q.dtype), scale)
    sees_any = mask.view(torch.uint8).amax(dim=-1)[:, None, :, None]
    out = out * sees_any.to(out.dtype)
    return out.view(B, K, H // K, Q, -1).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _bias(visible: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What to add to a score: nothing, or the lowest number there is.

    Finite, so that a row that sees nothing is no NaN, and arithmetic, because torch fills by mask
    four times slower than it multiplies.
    """
    return visible.to(dtype).sub_(1).mul_(torch.finfo(dtype).max)


def _attend_one(
    q: Float[Tensor, "R g 1 D"],
    keys: Float[Tensor, "R N D"],
    values: Float[Tensor, "R N E"],
    bias: Float[Tensor, "R 1 N"],
    scale: float,
) -> Float[Tensor, "R g 1 E"]:
    """One query each: two products, in which the group shares each key that is read.

    Measured on CPU with keys of 32 numbers: 2 times faster than the fused kernel at 160 keys, and
    as fast at 1500.
    """
    scores = torch.bmm(q.flatten(1, 2) * scale, keys.transpose(1, 2))  # (R, g, N)
    return torch.bmm((scores + bias).softmax(dim=-1), values)[:, :, None]


def _attend_many(
    q: Float[Tensor, "R g Q D"],
    keys: Float[Tensor, "R N D"],
    values: Float[Tensor, "R N E"],
    bias: Float[Tensor, "R Q N"],
    scale: float,
) -> Float[Tensor, "R g Q E"]:
    """Many queries: torch's fused kernel, which is shown a group's keys without copying them."""
    shown = (-1, q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(
        q,
        keys[:, None].expand(shown),
        values[:, None].expand(shown),
        attn_mask=bias[:, None],
        scale=scale,
    )
