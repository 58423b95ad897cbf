"""HumanEval: functions to complete from signature and docstring, judged by running their tests.

Knows nothing of how code is kept from doing harm. Source: Chen et al., arXiv:2107.03374; the
wording of the conversation as in OpenAI's simple-evals.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import Row, arrange, load_rows
from snello.evaluation.sandbox import Limits, run_to_end
from snello.evaluation.task import Question
from snello.evaluation.tasks.programs import find_program

_FIELDS = {name: (name,) for name in ("task_id", "prompt", "entry_point", "test")}
_INSTRUCTION = (
    "Read the following function signature and docstring, and fully implement the function "
    "described. Your response should only contain the code for this function.\n"
)
_AFTER_FUNCTION = re.compile(r"\n(?:class |def |#|if |print|@|```)")
"""Where a text that continues the prompt has left the function."""


class Trial(NamedTuple):
    """What turns an answer into a program that ends well only if it is right."""

    prompt: str
    entry_point: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanEval:
    """164 functions; a reply passes if all tests of its function do."""

    name: str = "humaneval"
    source: str = "openai/openai_humaneval"
    split: str = "test"
    form: Literal["chat", "text"] = "chat"
    """`text` has base models continue the prompt as it is."""

    wall_s: float = 10.0
    unprotected: bool = False
    """Run code even where the system cannot lock it down."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the functions to write.

        Raises:
            ValueError: rows that cannot be had or lack a column, or too large a count.
        """
        rows = load_rows(self.source, _FIELDS, split=self.split)
        return arrange([self._ask(row) for row in rows], count, seed)

    def _ask(self, row: Row) -> Question:
        prompt = str(row["prompt"])
        asked = ({"role": "user", "content": _INSTRUCTION + prompt},)
        return Question(
            name=str(row["task_id"]),
            messages=asked if self.form == "chat" else (),
            text=prompt if self.form == "text" else "",
            reference=Trial(prompt, str(row["entry_point"]), str(row["test"])),
        )

    def read(self, question: Question, reply: str) -> str | None:
        """Return the whole solution, the prompt's imports and helpers included, without tests."""
        tests: Trial = question.reference
        said = drop_thought(reply) if "<think>" in reply or "</think>" in reply else reply
        code = find_program(said)
        if code is None:
            code = said if self.form == "chat" else _AFTER_FUNCTION.split(said, maxsplit=1)[0]
        if not code.strip():
            return None
        start = re.search(rf"^def {re.escape(tests.entry_point)}\b", tests.prompt, re.MULTILINE)
        is_whole = re.search(rf"^def {re.escape(tests.entry_point)}\b", code, re.MULTILINE)
        if is_whole and start:
            return f"{tests.prompt[: start.start()]}{code.rstrip()}\n"
        return f"{tests.prompt}{code.rstrip()}\n"

    def judge(self, question: Question, answer: str | None) -> float:
        """Run the solution with its tests in the sandbox.

        Raises:
            ValueError: the system cannot lock it down.
        """
        if answer is None:
            return 0.0
        tests: Trial = question.reference
        program = f"{answer}\n{tests.test}\ncheck({tests.entry_point})\n"
        limits = Limits(wall_s=self.wall_s)
        return float(run_to_end(program, limits=limits, unprotected=self.unprotected))
