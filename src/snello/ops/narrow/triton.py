"""Few bits a number on a GPU: the steps of reference.py on rows that stand in registers.

Knows nothing of pages.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from snello.ops.narrow import INT4
from snello.ops.pages import Narrow, view_codes

INT8 = tl.constexpr(1)
FLOAT8 = tl.constexpr(2)
NIBBLES = tl.constexpr(3)

FORMATS = {torch.int8: 1, torch.float8_e4m3fn: 2, INT4: 3}
"""How kernels call the formats; 0 is none."""

STAGES = tl.constexpr(9)
"""Rotation mixes at most 2^9 numbers, in stages of pairs; see `native.WIDEST_KEY`."""


def unpack_narrow(
    narrow: Narrow | None, keys: Tensor, values: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], int, int]:
    """What kernels are told: bytes of keys and values with their scales, format, ring pages."""
    if narrow is None:
        return (keys, values, keys), 0, 0
    codes = [view_codes(part, narrow.scales.shape[1]) for part in (keys, values)]
    if narrow.dtype != INT4:
        codes = [part.view(narrow.dtype) for part in codes]
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
def rotate(rows, MIXED: tl.constexpr):
    """Transform blocks of MIXED numbers of rows (N, D) of float32, as `hadamard.rotate` does."""
    N: tl.constexpr = rows.shape[0]
    D: tl.constexpr = rows.shape[1]
    for stage in tl.static_range(STAGES):
        if (2 << stage) <= MIXED:
            pairs = tl.reshape(rows, (N, D // (2 << stage), 2, 1 << stage))
            left, right = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
            mixed = tl.permute(tl.join(left + right, left - right), (0, 1, 3, 2))
            rows = tl.reshape(mixed, (N, D))
    return rows


@triton.jit
@no_type_check
def rotate_query(first, rest, MIXED: tl.constexpr, HAS_REST: tl.constexpr):
    """Rotate queries in one part or two, and divide by MIXED, so that none leaves float16.

    MIXED 1: as they were.
    """
    if MIXED > 1:
        first = (rotate(first.to(tl.float32), MIXED) * (1.0 / MIXED)).to(first.dtype)
        if HAS_REST:
            rest = (rotate(rest.to(tl.float32), MIXED) * (1.0 / MIXED)).to(rest.dtype)
    return first, rest


@triton.jit
@no_type_check
def find_extreme(rows):
    """The number of each row (N, D) that is farthest from 0, with its sign."""
    most, least = tl.max(rows, 1), tl.min(rows, 1)
    return tl.where(most > -least, most, least)


@triton.jit
@no_type_check
def choose_step(extreme):
    """What one step of nibbles stands for: a number of bfloat16, rounded to nearest even."""
    bits = (extreme * -0.125).to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def round_to_nibbles(rotated, extreme):
    """Codes of rotated rows (N, D), from -8 to 7, as float32."""
    is_something = tl.abs(extreme) > 1e-30
    shrink = tl.div_rn(1.0, tl.where(is_something, choose_step(extreme), 1.0))
    shrunk = rotated * tl.where(is_something, shrink, 0.0)[:, None]
    return tl.minimum(tl.maximum((shrunk + 12582912.0) - 12582912.0, -8.0), 7.0)


@triton.jit
@no_type_check
def pack_nibbles(codes):
    """Two codes of (1, D) in a byte, the first in its lower half; (D / 2)."""
    D: tl.constexpr = codes.shape[1]
    low, high = tl.split(tl.reshape(codes.to(tl.int32), (D // 2, 2)))
    return ((low & 15) | (high << 4)).to(tl.int8)


@triton.jit
@no_type_check
def round_trip(rows, most, FORMAT: tl.constexpr, MIXED: tl.constexpr):
    """What rows (N, D) are after they were stored narrow.

    `most` (N): their largest numbers; of nibbles, the extreme of rows that are rotated already.
    """
    if FORMAT == NIBBLES:
        codes = rotate(round_to_nibbles(rows, most), MIXED)
        scale = choose_step(most) * (1.0 / MIXED)
    else:
        codes = round_numbers(rows * choose_shrink(most, FORMAT)[:, None], FORMAT).to(tl.float32)
        scale = choose_scale(most, FORMAT)
    return codes * scale[:, None]
