"""The best that can be had at each cost, and how far one such frontier lies above another.

Knows nothing of what a cost or a score is. Between measured points a frontier is read by straight
lines over the logarithm of the cost; beyond the last one it stays level, for one may always spend
less than one has.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frontier:
    """Points none of which is beaten by another at equal or lower cost.

    Invariant: costs and scores both rise strictly, and `most_cost` is at least the last cost.
    """

    costs: tuple[float, ...]
    scores: tuple[float, ...]
    most_cost: float
    """The largest cost at which anything was measured, on the frontier or below it."""

    def read(self, cost: float) -> float | None:
        """Return the score at a cost; None below the first point, where nothing is known."""
        place = bisect_right(self.costs, cost)
        if place == 0:
            return None
        if place == len(self.costs):
            return self.scores[-1]
        left, right = self.costs[place - 1], self.costs[place]
        share = math.log(cost / left) / math.log(right / left)
        return self.scores[place - 1] + share * (self.scores[place] - self.scores[place - 1])


def find_frontier(costs: Sequence[float], scores: Sequence[float]) -> Frontier:
    """Return the frontier of measured points; of equal scores the cheapest stays.

    Raises:
        ValueError: no points, or a cost that is not above 0.
    """
    if not costs:
        raise ValueError("a frontier needs at least one point; none was measured.")
    if min(costs) <= 0:
        raise ValueError(f"a cost is {min(costs)}; costs must be above 0 to be read on a log axis.")
    best = -math.inf
    kept: list[tuple[float, float]] = []
    for cost, score in sorted(zip(costs, scores, strict=True), key=lambda p: (p[0], -p[1])):
        if score > best:
            kept.append((cost, score))
            best = score
    return Frontier(tuple(c for c, _ in kept), tuple(s for _, s in kept), max(costs))


def shared_range(one: Frontier, other: Frontier) -> tuple[float, float] | None:
    """Return the costs at which both were measured; None where there are none."""
    low = max(one.costs[0], other.costs[0])
    high = min(one.most_cost, other.most_cost)
    return None if high < low else (low, high)


def average_gap(one: Frontier, other: Frontier) -> float | None:
    """Return how far `one` lies above `other`, on average over the costs that they share.

    The mean is over the logarithm of the cost, and exact: both are straight between their points.
    None where they share no cost.

    Source: DMS, arXiv:2506.05345, reports the average margin between Pareto frontiers over their
    common budgets. How it weighs the budgets could not be confirmed; the log scale is ours.
    """
    both = shared_range(one, other)
    if both is None:
        return None
    low, high = both
    inner = {cost for cost in (*one.costs, *other.costs) if low < cost < high}
    places = sorted({low, high} | inner)
    gaps = [_gap(one, other, cost) for cost in places]
    if len(places) == 1:
        return gaps[0]
    logs = [math.log(cost) for cost in places]
    area = sum(
        (logs[i + 1] - logs[i]) * (gaps[i] + gaps[i + 1]) / 2 for i in range(len(places) - 1)
    )
    return area / (logs[-1] - logs[0])


def _gap(one: Frontier, other: Frontier, cost: float) -> float:
    left, right = one.read(cost), other.read(cost)
    assert left is not None
    assert right is not None, "the cost lies in the range that both share"
    return left - right
