"""Dice that are a function: a seed and an index give a number, whoever else is drawing.

Knows nothing of logits, requests or batches. There is no stream of random numbers to share, so a
request's draws do not depend on its company, nor on how often it was interrupted.
"""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

_UNIFORM_BITS = 52
_SEED_BITS = 63


def draw_uniforms(seeds: Int[Tensor, " B"], indices: Int[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """Return one number in [0, 1) for each pair; the same pair always gives the same number.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014), applied to seed, then index.
    """
    mixed = _scramble(_scramble(seeds) + indices)
    return _shift_right(mixed, 64 - _UNIFORM_BITS).double() * 2.0**-_UNIFORM_BITS


def split_seed(seed: int, sample: int) -> int:
    """Return the seed of one of several samples of a request; sample 0 keeps the request's own.

    A hash, so that sample 1 of seed 7 has nothing in common with sample 0 of seed 8.
    """
    if sample == 0:
        return seed
    first = _scramble(torch.tensor([seed]))
    mixed = _scramble(first ^ _scramble(torch.tensor([-sample])))
    return int(_shift_right(mixed, 64 - _SEED_BITS))


def _scramble(x: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    # The constants 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB as signed numbers.
    x = x - 0x61C8864680B583EB
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


def _shift_right(x: Int[Tensor, " B"], num_bits: int) -> Int[Tensor, " B"]:
    """Shift as if the numbers were unsigned."""
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)
