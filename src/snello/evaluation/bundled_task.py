"""The bundled problems as tasks: one for each kind, posed fresh and judged by their own rules.

Knows nothing of models, memory or of other tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from snello.bundled.problems import Kind, Problem, answer_of
from snello.bundled.tokenizer import build_tokenizer
from snello.config.settings import parse_settings
from snello.evaluation.task import Question, Task
from snello.evaluation.tasks.bundled import find_kinds, judge, pose_fresh

DEFAULT_COUNT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledTask:
    """Problems of one kind at some levels, which take turns; there is no end of them."""

    name: str
    kind: Kind
    levels: tuple[int, ...]

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the first `count` problems that `seed` draws; 200 where no count is given.

        A reply may be twice as long as the one that solves the problem, in the bundled tokens.
        """
        problems = pose_fresh(
            count or DEFAULT_COUNT, kinds=[self.kind], levels=self.levels, seed=seed
        )
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

    def read(self, question: Question, reply: str) -> str | None:
        """Return what the reply says after its thought; None where the thought never ends."""
        _ = question
        return answer_of(reply) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for a right answer, else 0."""
        problem: Problem = question.reference
        return 0.0 if answer is None else float(judge(problem, f"</think>{answer}"))


def find_tasks(names: Sequence[str], levels: Sequence[int]) -> list[Task]:
    """Return the tasks of these names.

    A name is a kind, `ledger`, or a kind at one level, `ledger:level=3`.

    Args:
        names: As users write them.
        levels: Of the tasks that name none themselves.

    Raises:
        ValueError: there is no such task or setting, or one is named twice.
    """
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise ValueError(f"the task {twice[0]} is named twice; name each task once.")
    return [_find_task(name, tuple(levels)) for name in names]


def _find_task(name: str, levels: tuple[int, ...]) -> Task:
    kind = name.partition(":")[0]
    settings = parse_settings(name, f"the task {name}")
    unknown = settings.keys() - {"level"}
    if unknown:
        raise ValueError(
            f"the task {name} sets {sorted(unknown)[0]!r}; it has one setting, level=1 to 6."
        )
    own = (settings["level"],) if settings else levels
    return BundledTask(name=name, kind=find_kinds([kind])[0], levels=own)
