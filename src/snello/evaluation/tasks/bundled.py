"""The bundled model's own problems, fresh ones, and how a reply to one is judged.

Knows nothing of memory.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from snello.bundled.problems import KINDS, Kind, Problem, answer_of, is_right, pose
from snello.evaluation.task import Question

FRESH_SEEDS = range(1_500_000_000, 2**31)
"""Problems with these seeds are for measuring only: no training draws from them."""


def pose_fresh(
    count: int, *, kinds: Sequence[str], levels: Sequence[int], seed: int
) -> list[Problem]:
    """Return problems that no training has seen; kinds and levels take turns.

    The same arguments always give the same problems, and a larger count adds to them at the end.

    Raises:
        ValueError: an unknown kind or level, or none.
    """
    dice = random.Random(f"fresh/{seed}")
    turns = [(kind, level) for level in levels for kind in find_kinds(kinds)]
    if not turns:
        raise ValueError(f"no level or no kind of problem; name one of {', '.join(KINDS)}.")
    problems = []
    for index in range(count):
        kind, level = turns[index % len(turns)]
        drawn = FRESH_SEEDS[dice.randrange(len(FRESH_SEEDS))]
        problems.append(pose(kind, level=level, seed=drawn))
    return problems


def find_kinds(kinds: Sequence[str]) -> list[Kind]:
    """Return the kinds of these names.

    Raises:
        ValueError: there is no such kind.
    """
    by_name: dict[str, Kind] = {kind: kind for kind in KINDS}
    unknown = [kind for kind in kinds if kind not in by_name]
    if unknown:
        raise ValueError(f"unknown kind of problem {unknown[0]!r}; known: {', '.join(KINDS)}.")
    return [by_name[kind] for kind in kinds]


def judge(problem: Problem, reply: str) -> bool:
    """Tell whether a reply's answer, after its thought, is right."""
    return is_right(problem, answer_of(reply))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """Problems that no training has seen; kinds and levels take turns."""

    name: str = "bundled"
    kinds: Sequence[str] = ("ledger",)
    levels: Sequence[int] = (1,)

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return problems as `pose_fresh` does.

        Raises:
            ValueError: no count, for they never end; or as `pose_fresh`.
        """
        if count is None or count < 1:
            raise ValueError(
                f"the number of {self.name} problems is {count}; they never end, so name a number, "
                "at least 1."
            )
        problems = pose_fresh(count, kinds=self.kinds, levels=self.levels, seed=seed)
        return [
            Question(
                name=f"{problem.kind}/{problem.level}/{problem.seed}",
                messages=tuple(problem.messages),
                reference=problem,
            )
            for problem in problems
        ]

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return what the reply says after its thought."""
        return answer_of(reply) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for a right answer; puzzles are judged by their own scorers."""
        return float(answer is not None and is_right(question.reference, answer))
