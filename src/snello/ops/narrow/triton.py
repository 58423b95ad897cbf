"""One byte a number on a GPU: the steps of reference.py on rows that stand in registers.

Knows nothing of pages.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from snello.ops.pages import Narrow, view_codes

INT8 = tl.constexpr(1)
FLOAT8 = tl.constexpr(2)

FORMATS = {torch.int8: 1, torch.float8_e4m3fn: 2}
"""How kernels call the formats; 0 is none."""


def unpack_narrow(
    narrow: Narrow | None, keys: Tensor, values: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], int, int]:
    """What kernels are told: bytes of keys and values with their scales, format, ring pages."""
    if narrow is None:
        return (keys, values, keys), 0, 0
    codes = [view_codes(part).view(narrow.dtype) for part in (keys, values)]
    return (codes[0], codes[1], narrow.scales), FORMATS[narrow.dtype], narrow.ring_pages


@triton.jit
@no_type_check
def choose_shrink(most, FORMAT: tl.constexpr):
    """What to multiply numbers by of which the largest is `most`; 0 where that is negligible."""
    LARGEST: tl.constexpr = 127.0 if FORMAT == INT8 else 448.0
    is_something = most > 1e-30
    return tl.where(is_something, tl.div_rn(1.0, tl.where(is_something, most, 1.0)) * LARGEST, 0.0)


@triton.jit
@no_type_check
def round_numbers(shrunk, FORMAT: tl.constexpr):
    """Round to nearest, halves to even: numbers between 2^23 and 2^24 have no fraction.

    e4m3 has three bits of fraction, and steps of 2^-9 below 2^-6; what is rounded to them is
    converted exactly, also where the conversion itself cuts off.
    """
    if FORMAT == INT8:
        codes = ((shrunk + 12582912.0) - 12582912.0).to(tl.int8)
    else:
        bits = shrunk.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
        coarse = (shrunk + 24576.0) - 24576.0
        rounded = tl.where(tl.abs(shrunk) < 0.015625, coarse, bits.to(tl.float32, bitcast=True))
        codes = rounded.to(tl.float8e4nv)
    return codes


@triton.jit
@no_type_check
def choose_scale(most, FORMAT: tl.constexpr):
    """What to multiply bytes by."""
    SHARE: tl.constexpr = 1.0 / 127.0 if FORMAT == INT8 else 1.0 / 448.0
    return most * SHARE


@triton.jit
@no_type_check
def round_trip(rows, most, FORMAT: tl.constexpr):
    """What rows (N, D), whose largest numbers are `most` (N), are after they were stored narrow."""
    codes = round_numbers(rows * choose_shrink(most, FORMAT)[:, None], FORMAT)
    return codes.to(tl.float32) * choose_scale(most, FORMAT)[:, None]
