"""What contenders gain or lose against the baseline: at the same threads, and at the same cost.

Knows nothing of chains or of pictures: cells in, numbers with intervals out. All intervals are
95 %, by one bootstrap over questions: a draw takes the same questions for every cell, so that
differences are paired and frontiers are drawn anew from each draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from snello.config.evaluate import Metric
from snello.evaluation.cells import METRICS, Axis, Cell
from snello.evaluation.frontier import Frontier, average_gap, find_frontier
from snello.evaluation.intervals import DRAWS, Interval, bootstrap_means, middle_95, wilson

CellKey = tuple[str, str, int, int]
FEWEST_DRAWS = DRAWS // 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; None for an interval that could not be drawn."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A contender against the baseline, at the same length and threads, on the same questions."""

    contender: str
    length_tokens: int
    threads: int
    score: Estimate
    generated_ratio: Estimate
    """Generated tokens over the baseline's: above 1, it thinks longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualCost:
    """A line against the baseline's, at what one of the baseline's cells costs."""

    line: str
    axis: Axis
    cost: float
    baseline_label: str
    baseline_score: float
    score: Estimate
    """The difference of both frontiers there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far a line's frontier lies above the baseline's, on average over their shared costs."""

    line: str
    axis: Axis
    score: Estimate | None
    """None where they share no costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasts:
    """All comparisons of one task."""

    baseline: str
    differences: list[Difference]
    equal_costs: list[EqualCost]
    gaps: list[Gap]


class Draws:
    """The cells of one task, and the mean of every column in every draw.

    Invariant: row 0 of what `means` returns is the sample itself, the others are resamples.
    """

    def __init__(self, cells: Sequence[Cell], metric: Metric, axes: Sequence[Axis]) -> None:
        self.cells = list(cells)
        names = ("score", *axes, "generated_tokens")
        values = np.stack([_column(cell, name, metric) for cell in cells for name in names], axis=1)
        means = np.concatenate([values.mean(axis=0)[None], bootstrap_means(values)])
        shaped = means.reshape(len(means), len(self.cells), len(names))
        self._means = {name: shaped[:, :, place] for place, name in enumerate(names)}

    def means(self, name: str) -> Float[np.ndarray, "R C"]:
        """The means of a column: `score`, an axis, or `generated_tokens`."""
        return self._means[name]

    def frontiers(self, line: Sequence[int], axis: Axis) -> list[Frontier]:
        """The frontier of some cells, in the sample and in each draw."""
        chosen = list(line)
        costs = self._means[axis][:, chosen].tolist()
        scores = self._means["score"][:, chosen].tolist()
        return [find_frontier(*points) for points in zip(costs, scores, strict=True)]


def name_lines(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """Return which cells share a frontier: each contender's, and those of a method with several."""
    lines: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        lines.setdefault(cell.contender, []).append(place)
    for method in dict.fromkeys(cell.method for cell in cells):
        of_method = [place for place, cell in enumerate(cells) if cell.method == method]
        if len({cells[place].contender for place in of_method}) > 1:
            lines[f"all {method}"] = of_method
    return lines


def contrast(
    cells: Sequence[Cell], baseline: str, metric: Metric, axes: Sequence[Axis]
) -> Contrasts:
    """Compare all contenders of one task with one of them."""
    draws = Draws(cells, metric, axes)
    lines = name_lines(cells)
    others = {name: line for name, line in lines.items() if name != baseline}
    contrasts = Contrasts(
        baseline=baseline, differences=_find_differences(draws, baseline), equal_costs=[], gaps=[]
    )
    for axis in axes:
        frontiers = draws.frontiers(lines[baseline], axis)
        for name, line in others.items():
            own = draws.frontiers(line, axis)
            gaps = [average_gap(*both) for both in zip(own, frontiers, strict=True)]
            contrasts.gaps.append(Gap(line=name, axis=axis, score=_estimate(gaps)))
            contrasts.equal_costs.extend(
                _find_equal_costs(draws, (name, own), (lines[baseline], frontiers), axis)
            )
    return contrasts


def estimate_scores(cells: Sequence[Cell]) -> dict[CellKey, dict[Metric, Estimate]]:
    """Return all means of one task's cells, by Wilson if all scores are 0 or 1, else bootstrap."""
    columns = np.stack([cell.score(metric) for cell in cells for metric in METRICS], axis=1)
    is_graded = [not np.isin(column, (0.0, 1.0)).all() for column in columns.T]
    drawn = iter(bootstrap_means(columns[:, is_graded]).T)
    estimates = iter(
        Estimate(
            float(column.mean()),
            middle_95(next(drawn)) if graded else wilson(int(column.sum()), len(column)),
        )
        for column, graded in zip(columns.T, is_graded, strict=True)
    )
    return {cell.key: {metric: next(estimates) for metric in METRICS} for cell in cells}


def _column(cell: Cell, name: str, metric: Metric) -> Float[np.ndarray, " N"]:
    column: Float[np.ndarray, " N"] = cell.score(metric) if name == "score" else getattr(cell, name)
    return column


def _find_differences(draws: Draws, baseline: str) -> list[Difference]:
    """Pair each cell with the baseline's of the same shape."""
    shapes = {
        (cell.length_tokens, cell.threads): place
        for place, cell in enumerate(draws.cells)
        if cell.contender == baseline
    }
    scores, tokens = draws.means("score"), draws.means("generated_tokens")
    differences = []
    for place, cell in enumerate(draws.cells):
        if cell.contender == baseline:
            continue
        other = shapes[cell.length_tokens, cell.threads]
        differences.append(
            Difference(
                contender=cell.contender,
                length_tokens=cell.length_tokens,
                threads=cell.threads,
                score=_summarize(scores[:, place] - scores[:, other]),
                generated_ratio=_summarize(tokens[:, place] / tokens[:, other]),
            )
        )
    return differences


def _find_equal_costs(
    draws: Draws,
    line: tuple[str, list[Frontier]],
    baseline: tuple[list[int], list[Frontier]],
    axis: Axis,
) -> list[EqualCost]:
    """Read both frontiers at the cost of each of the baseline's cells, which varies by draw too."""
    (name, own), (places, frontiers) = line, baseline
    found = []
    for place in places:
        costs = draws.means(axis)[:, place].tolist()
        trios = zip(own, frontiers, costs, strict=True)
        gaps = [_gap_at(one, other, cost) for one, other, cost in trios]
        score, reference = _estimate(gaps), frontiers[0].read(costs[0])
        if score is not None and reference is not None:
            found.append(
                EqualCost(
                    line=name,
                    axis=axis,
                    cost=costs[0],
                    baseline_label=draws.cells[place].label,
                    baseline_score=reference,
                    score=score,
                )
            )
    return found


def _gap_at(one: Frontier, other: Frontier, cost: float) -> float | None:
    left, right = one.read(cost), other.read(cost)
    return None if left is None or right is None else left - right


def _estimate(gaps: Sequence[float | None]) -> Estimate | None:
    """Take the sample's gap, and the interval of those of the draws.

    The interval is left out where fewer than half of the draws have something to compare: at the
    very edge of what was measured, a draw may lie just outside.
    """
    value, *drawn = gaps
    if value is None:
        return None
    known = np.array([gap for gap in drawn if gap is not None])
    return Estimate(value, middle_95(known) if len(known) >= FEWEST_DRAWS else None)


def _summarize(means: Float[np.ndarray, " R"]) -> Estimate:
    return Estimate(float(means[0]), middle_95(means[1:]))
