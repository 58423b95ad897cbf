"""Rotation of rows that spreads what a few numbers hold over all. Knows nothing of rounding.

The Walsh-Hadamard transform, block by block, by sums and differences alone, so that every backend
gives the same bits. It is left unnormalized: rotated twice, a row is `count_mixed` times itself.
Source: rotation against outlier channels as in QuaRot, arXiv:2404.00456.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def count_mixed(size: int) -> int:
    """How many neighbours are mixed in a row of `size`: the largest power of two that divides it.

    A power of two, so that dividing by it is exact.
    """
    return size & -size or 1


def rotate(rows: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """Replace each block of a row by its transform, in stages of pairs `half` apart."""
    size, half = rows.shape[-1], 1
    while half < count_mixed(size):
        pairs = rows.reshape(*rows.shape[:-1], size // (2 * half), 2, half)
        left, right = pairs.unbind(-2)
        rows = torch.stack([left + right, left - right], dim=-2).flatten(-3)
        half *= 2
    return rows
