"""Scores by how long a question is and where in it the answer stands: one group for each place.

Knows nothing of how questions are made or groups are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from snello.config.evaluate import Metric
from snello.evaluation.cells import AXES, METRICS, Cell
from snello.evaluation.contrasts import Estimate, estimate_scores
from snello.evaluation.task import Question

_COLUMNS = (*METRICS, *AXES, "generated_tokens", "factor", "is_cut", "kv_read_bytes")


class Place(NamedTuple):
    """A place of a task's grid."""

    question_tokens: int
    depth_percent: int | None
    """None where the grid has lengths alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The questions of one place, as one contender answered them at one length and threads."""

    place: Place
    cell: Cell
    """The cell with the columns of these questions only."""

    estimates: Mapping[Metric, Estimate]


def find_places(questions: Sequence[Question]) -> list[Place] | None:
    """Return each question's place; None for a task without a grid."""
    places = [
        Place(question.length_tokens, question.depth_percent)
        for question in questions
        if question.length_tokens is not None
    ]
    return places if places and len(places) == len(questions) else None


def group_cells(cells: Sequence[Cell], places: Mapping[str, Sequence[Place] | None]) -> list[Group]:
    """Return the groups of all cells whose tasks have places, by length and then depth.

    Args:
        cells: Of any tasks.
        places: For each task, the place of each question, in the order in which they were posed.
    """
    groups = []
    for cell in cells:
        of_cell = places.get(cell.task) or ()
        for place in sorted(set(of_cell), key=lambda p: (p.question_tokens, p.depth_percent or 0)):
            chosen = [index for index, other in enumerate(of_cell) if other == place]
            part = replace(cell, **{name: getattr(cell, name)[chosen] for name in _COLUMNS})
            estimates = estimate_scores([part])[part.key]
            groups.append(Group(place=place, cell=part, estimates=estimates))
    return groups
