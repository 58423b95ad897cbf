"""One byte a number: a row is divided by its largest number, and each is rounded to nearest even.

Symmetric, so that a row's scale can be multiplied to a score or a weight instead of to its numbers.
Source: per-token quantization as in KIVI, arXiv:2402.02750, for keys as well as for values.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FORMATS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""The formats by the names that users give them."""

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}

NEGLIGIBLE = 1e-30
"""A row without a larger number counts as zeros: 1 over it might not be a number any more."""


def narrow(
    rows: Float[Tensor, "*rows D"], dtype: torch.dtype
) -> tuple[Int[Tensor, "*rows D"], Float[Tensor, "*rows"]]:
    """Round rows; return their bytes, as int8 whatever the format, and what to multiply them by.

    Steps are those of the kernels, one by one, so that all give the same bytes.
    """
    rows = rows.float()
    most = torch.nn.functional.pad(rows.abs(), (0, 1)).amax(-1)  # 0 for a row without numbers
    shrink = (most.reciprocal() * LARGEST[dtype]).where(most > NEGLIGIBLE, 0.0)
    shrunk = rows * shrink[..., None]
    codes = shrunk.round().to(dtype) if dtype == torch.int8 else shrunk.to(dtype)
    return codes.view(torch.int8), most * (1.0 / LARGEST[dtype])


def widen(
    codes: Int[Tensor, "*rows D"], scales: Float[Tensor, "*rows"], dtype: torch.dtype
) -> Float[Tensor, "*rows D"]:
    """Return the numbers that bytes stand for."""
    return codes.view(dtype).float() * scales[..., None]


def round_trip(rows: Float[Tensor, "*rows D"], dtype: torch.dtype) -> Float[Tensor, "*rows D"]:
    """Return what rows are after they have been stored narrow."""
    return widen(*narrow(rows, dtype), dtype)
