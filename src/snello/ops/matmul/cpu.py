"""Products with packed weights through the compiled kernel. Knows nothing of layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.ops.matmul.packing import Packed


def multiply(
    x: Float[Tensor, "T C"],
    packed: Packed,
    *,
    bias: Float[Tensor, " N"] | None = None,
    residual: Float[Tensor, "T N"] | None = None,
    norm: tuple[Float[Tensor, " C"], float] | None = None,
    narrow: bool = False,
) -> Float[Tensor, "T N"]:
    """As `reference.multiply`, for float32; `narrow` takes the AVX2 path wherever it runs."""
    weight, eps = (None, 0.0) if norm is None else norm
    out: Tensor = torch.ops.snello.matmul.default(
        x.contiguous(),
        packed.data,
        packed.num_outputs,
        packed.bits,
        packed.group,
        packed.gated,
        bias,
        residual,
        weight,
        eps,
        narrow,
    )
    return out


def look_up(packed: Packed, rows: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
    """As `reference.look_up`."""
    size, bits, group = packed.num_inputs, packed.bits, packed.group
    out: Tensor = torch.ops.snello.look_up.default(packed.data, rows, size, bits, group)
    return out
