"""Root-mean-square norm through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "*rows C"], weight: Float[Tensor, " C"], eps: float
) -> Float[Tensor, "*rows C"]:
    """As `reference.rms_norm`, for float32."""
    out: Tensor = torch.ops.snello.rms_norm(x, weight, eps)
    return out
