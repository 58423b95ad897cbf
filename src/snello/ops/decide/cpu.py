"""Eviction logits through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float
from torch import Tensor


def decide(
    x: Float[Tensor, "T C"],
    norm: Float[Tensor, " C"],
    weight: Float[Tensor, "K C"],
    *,
    eps: float,
    scale: float,
    offset: float,
) -> Float[Tensor, "T K"]:
    """As `reference.decide`, for float32."""
    out: Tensor = torch.ops.snello.decide.default(x.contiguous(), norm, weight, eps, scale, offset)
    return out
