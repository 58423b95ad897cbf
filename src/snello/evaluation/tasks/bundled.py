"""The bundled model's own problems, fresh ones, one task for each kind; how a reply is judged.

Knows nothing of models, memory or of other tasks.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from snello.bundled.problems import KINDS, Kind, Problem, answer_of, is_right, pose
from snello.bundled.tokenizer import build_tokenizer
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
    """Problems of one kind that no training has seen, at levels that take turns: no end of them."""

    name: Kind = "ledger"
    level: Sequence[int] = (1,)
    """Difficulty, 1 (easy) to 6 (hard)."""

    problems: int = 200
    """How many there are to who asks for all of them."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the first problems that `seed` draws.

        A reply may be twice as long as the one that solves the problem, in the bundled tokens.

        Raises:
            ValueError: a number below one, or as `pose_fresh`.
        """
        number = self.problems if count is None else count
        if number < 1:
            raise ValueError(f"{number} problems of {self.name} were asked for; ask for some.")
        problems = pose_fresh(number, kinds=[self.name], levels=self.level, seed=seed)
        tokenizer = build_tokenizer()
        return [
            Question(
                name=f"{index}-level{problem.level}-{problem.seed}",
                messages=tuple(problem.messages),
                reference=problem,
                most_new_tokens=2 * len(tokenizer.encode(problem.reply).ids),
            )
            for index, problem in enumerate(problems)
        ]

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return what the reply says after its thought; None where the thought never ends."""
        return answer_of(reply) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for a right answer; puzzles are judged by their own scorers."""
        return float(answer is not None and is_right(question.reference, answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class LegCounting(Bundled):
    """How many legs some animals have."""

    name: Kind = "leg_counting"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSum(Bundled):
    """Sums and differences of several numbers."""

    name: Kind = "chain_sum"
