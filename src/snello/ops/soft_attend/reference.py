"""Soft attention as its formula says, with the full matrix of scores.

Knows nothing of memory limits: use it to check the others, and on short texts.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from snello.ops.retain import in_sight, is_recent
from snello.ops.soft_attend import Layout


def soft_attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T E"],
    log_keep: Float[Tensor, "B K T"] | None,
    layout: Layout,
    *,
    scale: float,
) -> Float[Tensor, "B H T E"]:
    """Attend as `SoftAttend` says.

    Source: DMS, arXiv:2506.05345 (the training mask).
    """
    group = q.shape[1] // k.shape[1]
    positions, segments, window = layout.positions, layout.segments, layout.window_tokens
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, T, .)
    scores = scale * q @ k.transpose(-1, -2)  # (B, H, T, T)
    if log_keep is not None:
        recent = is_recent(positions[:, None, :, None] - positions[:, None, None, :], window)
        bias = log_keep.repeat_interleave(group, dim=1)[:, :, None, :]
        scores = scores + bias.masked_fill(recent, 0.0)
    same = segments[:, :, None] == segments[:, None, :]
    visible = same & in_sight(positions[:, :, None], positions[:, None], layout.horizon)
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v
