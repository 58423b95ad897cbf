"""Few bits a number: a row is divided by its largest number, and each is rounded to nearest even.

Symmetric, so that a row's scale can be multiplied to a score or a weight instead of to its numbers.
In int8 and fp8 a number takes a byte and the scale is float32. In int4 two share a byte, and the
scale is bfloat16; the row is rotated first (`hadamard.py`), and its largest number becomes -8, so
that all 16 codes are used. A reader may rotate its query, and back what it has read, instead of
every row. Source: per-token quantization as in KIVI, arXiv:2402.02750, for keys as well as for
values; there, keys are rounded by channel, which needs many of them at once.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.ops.narrow.hadamard import count_mixed, rotate
from snello.ops.narrow.nibbles import pack_nibbles, unpack_nibbles

INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]
"""Torch knows no more than the name (and its stubs not even that): it is packed here."""

FORMATS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn, "int4": INT4}
"""The formats by the names that users give them."""

BITS = {torch.int8: 8, torch.float8_e4m3fn: 8, INT4: 4}

SCALES = {torch.int8: torch.float32, torch.float8_e4m3fn: torch.float32, INT4: torch.bfloat16}
"""What the scales of a format are stored in."""

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}

NEGLIGIBLE = 1e-30
"""A row without a larger number counts as zeros: 1 over it might not be a number any more."""


def count_bytes(size: int, dtype: torch.dtype) -> int:
    """How many bytes a row of `size` numbers takes, without its scale."""
    return (size * BITS[dtype] + 7) // 8


def narrow(
    rows: Float[Tensor, "*rows D"], dtype: torch.dtype
) -> tuple[Int[Tensor, "*rows C"], Float[Tensor, "*rows"]]:
    """Round rows; return their bytes, as int8 whatever the format, and what to multiply them by.

    Steps are those of the kernels, one by one, so that all give the same bytes.
    """
    rows = rows.float()
    if dtype == INT4:
        return _narrow_to_nibbles(rows)
    most = torch.nn.functional.pad(rows.abs(), (0, 1)).amax(-1)  # 0 for a row without numbers
    shrink = (most.reciprocal() * LARGEST[dtype]).where(most > NEGLIGIBLE, 0.0)
    shrunk = rows * shrink[..., None]
    codes = shrunk.round().to(dtype) if dtype == torch.int8 else shrunk.to(dtype)
    return codes.view(torch.int8), most * (1.0 / LARGEST[dtype])


def _narrow_to_nibbles(
    rows: Float[Tensor, "*rows D"],
) -> tuple[Int[Tensor, "*rows C"], Float[Tensor, "*rows"]]:
    """The step is rounded before codes are taken; what rotating back multiplies is divided out."""
    rotated = rotate(rows)
    padded = torch.nn.functional.pad(rotated, (0, 1))
    most, least = padded.amax(-1), padded.amin(-1)
    extreme = most.where(most > -least, least)
    step = (extreme * -0.125).to(torch.bfloat16).float()
    shrink = step.reciprocal().where(extreme.abs() > NEGLIGIBLE, 0.0)
    codes = (rotated * shrink[..., None]).round().clamp(-8.0, 7.0).to(torch.int8)
    scales = step * (1.0 / count_mixed(rows.shape[-1]))
    return pack_nibbles(codes), scales.to(torch.bfloat16)


def widen(
    codes: Int[Tensor, "*rows C"], scales: Float[Tensor, "*rows"], dtype: torch.dtype, size: int
) -> Float[Tensor, "*rows D"]:
    """Return the `size` numbers that the first bytes of each row stand for."""
    codes = codes[..., : count_bytes(size, dtype)]
    if dtype == INT4:
        numbers = rotate(unpack_nibbles(codes, size).float())  # integers: exact
    else:
        numbers = codes.view(dtype).float()
    return numbers * scales.float()[..., None]


def round_trip(rows: Float[Tensor, "*rows D"], dtype: torch.dtype) -> Float[Tensor, "*rows D"]:
    """Return what rows are after they have been stored narrow."""
    return widen(*narrow(rows, dtype), dtype, rows.shape[-1])
