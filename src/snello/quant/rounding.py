"""How weights are rounded to int8 and int4: symmetric, one scale for each group of inputs.

Knows nothing of layers, files or memory layouts.
"""

from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from jaxtyping import BFloat16, Float, Int8
from torch import Tensor

from snello.config.engine import Group, WeightFormat
from snello.ops.matmul.packing import Bits
from snello.ops.matmul.rounding import round_codes

BITS: dict[WeightFormat, Bits] = {"int8": 8, "int4": 4}


class Range(NamedTuple):
    """The whole numbers of a format, and which of them a group's largest weight is spread over.

    int4 spreads it over 7.5: all sixteen codes are used, the extremes are half a step off like any
    other weight, and every step is 7 % finer than with 7. With 255 codes that gains nothing; -128
    occurs only in folders that others wrote.
    """

    lowest: int
    highest: int
    spread: float


RANGES: dict[Bits, Range] = {8: Range(-128, 127, 127.0), 4: Range(-8, 7, 7.5)}


class Quantized(NamedTuple):
    """A weight `(N, C)` as whole numbers and bfloat16 scales `(N, C / group)`."""

    codes: Int8[Tensor, "N C"]
    scales: BFloat16[Tensor, "N groups"]
    bits: Bits

    @property
    def group(self) -> int:
        """How many inputs share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How a folder's weights were quantized: scales by the name of the decoder's parameter."""

    bits: Bits
    group: int
    scales: dict[str, Tensor]


def quantize(
    weight: Float[Tensor, "N C"],
    bits: Bits,
    group: int,
    *,
    scales: BFloat16[Tensor, "N groups"] | None = None,
) -> Quantized:
    """Round a weight to nearest.

    Scales are rounded to bfloat16 first, and codes follow from the rounded ones: so 16 bits for a
    scale cost nothing in accuracy.

    Args:
        weight: any floating dtype.
        bits: 8 or 4.
        group: 32, 64 or 128; it must divide C.
        scales: those of an earlier rounding; without them, from each group's largest weight.

    Raises:
        ValueError: the group is not allowed, or does not divide the inputs.
    """
    check_group(weight.shape[1], group)
    groups = weight.float().unflatten(-1, (-1, group))  # (N, groups, G)
    lowest, highest, spread = RANGES[bits]
    if scales is None:
        scales = (groups.abs().amax(dim=-1) / spread).to(torch.bfloat16)
    codes = round_codes(groups, scales.float(), lowest, highest)
    return Quantized(codes.flatten(1), scales, bits)


def dequantize(quantized: Quantized) -> Float[Tensor, "N C"]:
    """The weight that the codes stand for, in float32."""
    groups = quantized.codes.float().unflatten(-1, (-1, quantized.group))
    return (groups * quantized.scales.float()[..., None]).flatten(1)


def check_group(num_inputs: int, group: int, name: str = "a weight") -> None:
    """Refuse a group that is not allowed or does not divide the inputs.

    Raises:
        ValueError: one of these.
    """
    allowed = get_args(Group)
    if group not in allowed:
        raise ValueError(f"the group is {group}; it must be one of {', '.join(map(str, allowed))}.")
    if num_inputs % group:
        fitting = [size for size in allowed if num_inputs % size == 0]
        advice = f"take {fitting[-1]}" if fitting else "this model cannot be quantized"
        raise ValueError(
            f"{name} has {num_inputs} inputs, which is no multiple of the group {group}; allowed "
            f"are {', '.join(map(str, allowed))}: {advice}."
        )
