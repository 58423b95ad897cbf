"""Attention over gathered keys in plain torch, with the logsumexp that merging needs.

Knows nothing of blocks: all scores stand in memory at once.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from snello.ops.attend.parts import Part


def attend_part(
    q: Float[Tensor, "B Q H D"],
    keys: Float[Tensor, "B K N D"],
    values: Float[Tensor, "B K N E"],
    visible: Bool[Tensor, "B K Q N"],
    *,
    scale: float,
) -> Part:
    """Attend over the visible keys; a row that sees none gives zeros and minus infinity.

    Scores and the softmax are float32 at least, whatever the inputs are.
    """
    B, Q, H, D = q.shape
    K, N = keys.shape[1:3]
    wide = torch.promote_types(q.dtype, torch.float32)
    grouped = q.view(B, Q, K, H // K, D).permute(0, 2, 3, 1, 4)  # (B, K, g, Q, D)
    scores = (grouped.flatten(2, 3) @ keys.transpose(2, 3)).to(wide) * scale  # (B, K, g * Q, N)
    scores = scores.view(B, K, H // K, Q, N).masked_fill(~visible[:, :, None], -torch.inf)
    lse = scores.logsumexp(dim=-1, keepdim=True)
    weights = (scores - lse.clamp_min(torch.finfo(wide).min)).exp()
    out = weights.to(q.dtype).flatten(2, 3) @ values  # (B, K, g * Q, E)
    out = out.view(B, K, H // K, Q, -1).permute(0, 3, 1, 2, 4)  # (B, Q, K, g, E)
    return Part(out.flatten(2, 3), lse[..., 0].permute(0, 3, 1, 2).flatten(2, 3))
