"""Norm and rotation of heads in plain torch. Knows nothing of layers."""

import torch
from jaxtyping import Float
from torch import Tensor

from snello.ops.norm.reference import rms_norm


def place(
    x: Float[Tensor, "T N D"],
    weight: Float[Tensor, " D"] | None,
    cos: Float[Tensor, "T R"],
    sin: Float[Tensor, "T R"],
    *,
    eps: float,
    interleaved: bool,
) -> Float[Tensor, "T N D"]:
    """Norm each head by its root mean square, if there is a weight; then turn its first 2R numbers.

    Pairs are numbers i and R + i, or neighbours if `interleaved`; the other numbers pass unchanged.
    """
    x = x if weight is None else rms_norm(x, weight, eps)
    return rotate(x, cos, sin, interleaved=interleaved)


def rotate(
    x: Float[Tensor, "T N D"],
    cos: Float[Tensor, "T R"],
    sin: Float[Tensor, "T R"],
    *,
    interleaved: bool,
) -> Float[Tensor, "T N D"]:
    """Turn the first 2R numbers of each head; the others pass unchanged."""
    turned_size = 2 * cos.shape[-1]
    turned, passed = x[..., :turned_size].float(), x[..., turned_size:]
    cos, sin = cos[:, None, :], sin[:, None, :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((out.to(x.dtype), passed), dim=-1)
