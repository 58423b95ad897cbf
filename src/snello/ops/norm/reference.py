"""Root-mean-square norm in plain torch. Knows nothing of layers."""

import torch
from jaxtyping import Float
from torch import Tensor


def rms_norm(
    x: Float[Tensor, "*rows C"], weight: Float[Tensor, " C"], eps: float
) -> Float[Tensor, "*rows C"]:
    """Divide the last dimension by its root mean square, in float32, then scale by `weight`."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)
