"""Products with packed weights in plain torch. Knows nothing of layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from snello.ops.matmul.packing import BLOCK, HALF, Packed, unpack_rows
from snello.ops.matmul.rounding import quantize_rows, split_groups
from snello.ops.norm.reference import rms_norm


def multiply(
    x: Float[Tensor, "T C"],
    packed: Packed,
    *,
    bias: Float[Tensor, " N"] | None = None,
    residual: Float[Tensor, "T N"] | None = None,
    norm: tuple[Float[Tensor, " C"], float] | None = None,
) -> Float[Tensor, "T N"]:
    """Multiply the rows of x, in float32, with a packed weight.

    Args:
        x: rows, first normed by `norm`, if there is one.
        packed: the weight; of a gated one, `silu(gate) * up` is returned.
        bias: added to each row of the result.
        residual: added to the result.
        norm: weight and epsilon of a root-mean-square norm.
    """
    x = x if norm is None else rms_norm(x, *norm)
    codes, scales = quantize_rows(x, packed.group)
    weight, weight_scales = unpack_rows(packed, torch.arange(len(packed.data) * BLOCK))
    by_group = split_groups(codes.double(), packed.group)  # (T, groups, G)
    weight_by_group = split_groups(weight.double(), packed.group)  # (N, groups, G)
    sums = torch.einsum("tgk,ngk->tng", by_group, weight_by_group).float()  # whole numbers
    out = (sums * (scales[:, None] * weight_scales)).sum(dim=-1)
    if packed.gated:
        gate, up = out.view(len(out), len(packed.data), 2, HALF).unbind(dim=-2)
        out = functional.silu(gate.flatten(1)) * up.flatten(1)
    out = out[:, : packed.num_outputs]
    out = out if bias is None else out + bias
    return out if residual is None else out + residual


def look_up(packed: Packed, rows: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
    """Some rows of the weight as float32, as an embedding reads them."""
    codes, scales = unpack_rows(packed, rows)
    return (split_groups(codes, packed.group) * scales[..., None]).flatten(1)
