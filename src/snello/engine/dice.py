"""Dice that are a function: a seed and an index give a number, whoever else is drawing.

Knows nothing of logits, requests or batches. There is no stream of random numbers to share, so a
request's draws do not depend on its company, nor on how often it was interrupted.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_UNIFORM_BITS = 52
_SEED_BITS = 63
_WORD = 2**64


def draw_uniforms(pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Return one number in [0, 1) for each seed and index; a pair always gives the same number.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014), applied to seed, then index.
    """
    mixed = [_scramble(_scramble(seed) + index) >> (64 - _UNIFORM_BITS) for seed, index in pairs]
    return np.array(mixed, dtype=np.float64) * 2.0**-_UNIFORM_BITS


def split_seed(seed: int, sample: int) -> int:
    """Return the seed of one of several samples of a request; sample 0 keeps the request's own.

    A hash, so that sample 1 of seed 7 has nothing in common with sample 0 of seed 8.
    """
    if sample == 0:
        return seed
    return _scramble(_scramble(seed) ^ _scramble(-sample)) >> (64 - _SEED_BITS)


def _scramble(x: int) -> int:
    """Mix 64 bits; negative numbers and overflow wrap, as in words of a machine."""
    x = (x + 0x9E3779B97F4A7C15) % _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % _WORD
    return x ^ (x >> 31)
