"""GPQA Diamond: questions for experts with four options each. Knows nothing of mathematics.

Its authors ask that examples are not posted; nothing of it is in this project.
Source: prompt and reading of letters as in OpenAI's simple-evals.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from snello.evaluation.answers import drop_thought, find_boxed
from snello.evaluation.rows import Row, arrange, load_rows
from snello.evaluation.task import Question

LETTERS = "ABCD"
_FIELDS = {
    "question": ("Question",),
    "right": ("Correct Answer",),
    **{f"wrong {number}": (f"Incorrect Answer {number}",) for number in (1, 2, 3)},
}
_PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think "
    "step by step before answering.\n\n{question}\n\n{options}"
)
_ANSWER = re.compile(r"Answer[ \t]*:[ \t*]*(?:\\boxed\{|\\text\{|[$(])*([A-D])\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpqa:
    """Multiple choice; the order of the options is drawn from the seed."""

    name: str = "gpqa-diamond"
    source: str = "Idavidrein/gpqa"
    split: str = "train"
    config: str | None = "gpqa_diamond"

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return questions with their options as letters A to D.

        Raises:
            ValueError: rows that cannot be had or lack a column, or too large a count.
        """
        rows = load_rows(self.source, _FIELDS, split=self.split, config=self.config)
        questions = [self._ask(row, index, seed) for index, row in enumerate(rows)]
        return arrange(questions, count, seed)

    def _ask(self, row: Row, index: int, seed: int) -> Question:
        options = [str(row[field]).strip() for field in _FIELDS if field != "question"]
        order = random.Random(f"gpqa/{seed}/{index}").sample(range(4), 4)
        listed = [f"{LETTERS[at]}) {options[which]}" for at, which in enumerate(order)]
        content = _PROMPT.format(question=str(row["question"]).strip(), options="\n".join(listed))
        return Question(
            name=f"{self.name}/{index}",
            messages=({"role": "user", "content": content},),
            reference=LETTERS[order.index(0)],
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return the letter behind the last `Answer:`, or in the last box, after the thought."""
        said = drop_thought(reply)
        letters = _ANSWER.findall(said)
        if letters:
            return str(letters[-1]).upper()
        boxed = re.search(r"\b([A-D])\b", find_boxed(said) or "")
        return boxed.group(1) if boxed else None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for the right letter."""
        return float(answer == question.reference)
