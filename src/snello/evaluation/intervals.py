"""Intervals of shares and means: Wilson's, and the bootstrap over questions.

Knows nothing of what was measured: numbers in, numbers out.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Z_95 = NormalDist().inv_cdf(0.975)
DRAWS = 2000
_BLOCK_NUMBERS = 4_000_000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def wilson(num_right: int, count: int) -> Interval:
    """The 95 % interval of a share; unlike the normal one it holds near 0 and 1.

    Source: Wilson (1927), the score interval without continuity correction.
    """
    share, z2 = num_right / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # At 0 and 1 the edge is the share itself; rounding must not push it past.
    return Interval(max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def bootstrap_means(
    values: Float[np.ndarray, "N C"], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "R C"]:
    """Return the means of all columns in each of `draws` resamples of the rows.

    All columns are resampled together, row by row: what is computed from the means of one draw is
    paired. The seed and the number of rows decide which rows are drawn, so the same results always
    give the same interval, and columns may be bootstrapped apart.

    Source: Efron (1979); the percentile interval is `middle_95` of what is computed of each draw.
    """
    num_rows = len(values)
    dice = np.random.default_rng([seed, num_rows])
    block = max(1, _BLOCK_NUMBERS // num_rows)
    shares = np.full(num_rows, 1.0 / num_rows)
    means = [
        dice.multinomial(num_rows, shares, size=min(block, draws - start)) @ values / num_rows
        for start in range(0, draws, block)
    ]
    return np.concatenate(means)


def middle_95(draws: Float[np.ndarray, " R"]) -> Interval:
    """Return the interval that leaves one draw in forty on either side."""
    ranked = np.sort(draws)
    edge = round(0.025 * len(ranked))
    return Interval(float(ranked[edge]), float(ranked[-1 - edge]))
