"""Norm and rotation of heads through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float
from torch import Tensor


def place(
    x: Float[Tensor, "T N D"],
    weight: Float[Tensor, " D"] | None,
    cos: Float[Tensor, "T R"],
    sin: Float[Tensor, "T R"],
    *,
    eps: float,
    interleaved: bool,
) -> Float[Tensor, "T N D"]:
    """As `reference.place`, for float32."""
    out: Tensor = torch.ops.snello.place.default(x, weight, cos, sin, eps, interleaved)
    return out
