"""All that a sweep found, as plain figures: one object for JSON, one row a cell for CSV.

Knows nothing of how it is shown. Keys carry units; shares are 0..1; intervals are 95 %.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from snello.config.evaluate import Metric
from snello.evaluation.cells import AXES, METRICS, Axis, Cell
from snello.evaluation.contrasts import (
    CellKey,
    Contrasts,
    Estimate,
    contrast,
    estimate_scores,
)
from snello.evaluation.grid import Group, Place, group_cells

AXIS_KEYS: dict[Axis, str] = {
    "kv_reads": "kv_reads_tokens",
    "peak_live_tokens": "peak_live_tokens",
    "peak_bytes": "peak_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A finished sweep.

    Invariant: `contrasts` has one entry for each task among the cells, if there are contenders
    beside the baseline.
    """

    settings: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    metric: Metric
    baseline: str
    cells: Sequence[Cell]
    estimates: Mapping[CellKey, Mapping[Metric, Estimate]]
    """Every cell's scores by every rule."""

    contrasts: Mapping[str, Contrasts]
    groups: Sequence[Group] = ()
    """The cells of tasks with a grid, place by place."""

    def score(self, cell: Cell) -> Estimate:
        """Return a cell's score by the rule of this sweep."""
        return self.estimates[cell.key][self.metric]

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    def of_task(self, task: str) -> list[Cell]:
        """The cells of one task."""
        return [cell for cell in self.cells if cell.task == task]

    @property
    def nominal_factors(self) -> dict[str, float | None]:
        """What each contender's retrofit aimed at."""
        return {
            line["contender"]: line["nominal_factor"]
            for line in self.sessions
            if line["event"] == "open"
        }


def conclude(
    cells: Sequence[Cell],
    *,
    settings: Mapping[str, Any],
    sessions: Sequence[Mapping[str, Any]],
    metric: Metric,
    places: Mapping[str, Sequence[Place] | None] = MappingProxyType({}),
) -> Results:
    """Compare all contenders with the first dense one, or else with the first.

    Args:
        cells: Of all tasks.
        settings: What decided the records.
        sessions: A line for each event of the sweep.
        metric: Which score counts.
        places: The places of the questions of tasks with a grid; see `grid.group_cells`.
    """
    methods = {cell.contender: cell.method for cell in cells}
    baseline = next((name for name, method in methods.items() if method == "dense"), None)
    baseline = baseline or next(iter(methods))
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task, []).append(cell)
    return Results(
        settings=settings,
        sessions=sessions,
        metric=metric,
        baseline=baseline,
        cells=cells,
        estimates={
            key: scores
            for of_task in by_task.values()
            for key, scores in estimate_scores(of_task).items()
        },
        contrasts={
            task: contrast(of_task, baseline, metric, AXES) for task, of_task in by_task.items()
        },
        groups=group_cells(cells, places),
    )


def describe_cell(cell: Cell, estimates: Mapping[Metric, Estimate]) -> dict[str, Any]:
    """Return one cell's figures, flat."""
    figures: dict[str, Any] = {
        "task": cell.task,
        "contender": cell.contender,
        "method": cell.method,
        "length_tokens": cell.length_tokens,
        "threads": cell.threads,
        "questions": len(cell.vote),
    }
    for metric in METRICS:
        figures |= _flatten(metric, estimates[metric])
    for axis in AXES:
        figures[AXIS_KEYS[axis]] = float(cell.cost(axis).mean())
    return figures | {
        "kv_read_bytes": float(cell.kv_read_bytes.mean()),
        "generated_tokens": float(cell.generated_tokens.mean()),
        "factor": float(cell.factor.mean()),
        "cut_fraction": float(cell.is_cut.mean()),
    }


def as_object(results: Results) -> dict[str, Any]:
    """Return everything, as JSON wants it."""
    return {
        "settings": dict(results.settings),
        "sessions": [dict(line) for line in results.sessions],
        "metric": results.metric,
        "baseline": results.baseline,
        "nominal_factor": results.nominal_factors,
        "cells": describe_cells(results),
        "groups": describe_groups(results),
        "contrasts": {task: _describe(found) for task, found in results.contrasts.items()},
    }


def describe_cells(results: Results) -> list[dict[str, Any]]:
    """Return the figures of every cell."""
    return [describe_cell(cell, results.estimates[cell.key]) for cell in results.cells]


def describe_groups(results: Results) -> list[dict[str, Any]]:
    """Return the figures of every cell, place by place, where its task has a grid."""
    return [
        group.place._asdict() | describe_cell(group.cell, group.estimates)
        for group in results.groups
    ]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return figures as a table with a head line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _describe(contrasts: Contrasts) -> dict[str, Any]:
    return {
        "differences": [
            {
                "contender": found.contender,
                "length_tokens": found.length_tokens,
                "threads": found.threads,
                **_flatten("score_difference", found.score),
                **_flatten("generated_ratio", found.generated_ratio),
            }
            for found in contrasts.differences
        ],
        "equal_costs": [
            {
                "line": found.line,
                "axis": AXIS_KEYS[found.axis],
                "cost": found.cost,
                "baseline_cell": found.baseline_label,
                "baseline_score": found.baseline_score,
                **_flatten("score_difference", found.score),
            }
            for found in contrasts.equal_costs
        ],
        "gaps": [
            {
                "line": found.line,
                "axis": AXIS_KEYS[found.axis],
                **_flatten("average_score_difference", found.score),
            }
            for found in contrasts.gaps
        ],
    }


def _flatten(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """A number and the ends of its interval under three keys."""
    low, high = (estimate and estimate.interval) or (None, None)
    value = None if estimate is None else estimate.value
    return {name: value, f"{name}_low": low, f"{name}_high": high}
