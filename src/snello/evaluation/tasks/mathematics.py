r"""Problems with one mathematical answer: AIME 2024 and 2025, MATH-500, GSM8K.

Knows nothing of how answers are compared. The prompt is the one that reasoning models are measured
with: the problem, then the wish for a final answer in `\boxed{}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snello.evaluation.answers import (
    are_equal,
    drop_thought,
    find_boxed,
    find_last_number,
    normalize,
)
from snello.evaluation.rows import arrange, load_rows
from snello.evaluation.task import Question

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
PROBLEM_COLUMNS = ("problem", "Problem", "question", "prompt.0.content")
ANSWER_COLUMNS = ("answer", "Answer", "reward_model.ground_truth")
"""As the data sets name them, those that reinforcement learning was given among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mathematics:
    """Problems from rows with a problem and its answer."""

    name: str
    source: str
    split: str = "test"
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Other names for the columns `problem` and `answer`."""

    reads_last_number: bool = False
    """Take the last number of a reply that has no box."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return problems as conversations of one turn.

        Raises:
            ValueError: rows that cannot be had or lack a column, or too large a count.
        """
        fields = {"problem": PROBLEM_COLUMNS, "answer": ANSWER_COLUMNS}
        fields |= {name: (column,) for name, column in self.columns.items()}
        rows = load_rows(self.source, fields, split=self.split, config=self.config)
        questions = [
            Question(
                name=f"{self.name}/{index}",
                messages=({"role": "user", "content": f"{row['problem']}\n{INSTRUCTION}"},),
                reference=read_reference(str(row["answer"])),
            )
            for index, row in enumerate(rows)
        ]
        return arrange(questions, count, seed)

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return what stands in the reply's last box, after its thought."""
        said = drop_thought(reply)
        answer = find_boxed(said)
        if answer is None and self.reads_last_number:
            answer = find_last_number(said)
        return normalize(answer) if answer else None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for the reference's value, however it is written."""
        return float(answer is not None and are_equal(question.reference, answer))


def read_reference(answer: str) -> str:
    """Return the final answer of a solution as GSM8K writes it (`... #### 1,234`), or it itself."""
    _, mark, final = answer.rpartition("####")
    return final.strip().replace(",", "") if mark else answer.strip()


def aime24(
    source: str = "HuggingFaceH4/aime_2024",
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> Mathematics:
    """Thirty problems of the American Invitational Mathematics Examination of 2024."""
    return Mathematics(name="aime24", source=source, split=split, columns=columns or {})


def aime25(
    source: str = "math-ai/aime25",
    split: str = "test",
    columns: Mapping[str, str] | None = None,
) -> Mathematics:
    """Thirty problems of the American Invitational Mathematics Examination of 2025."""
    return Mathematics(name="aime25", source=source, split=split, columns=columns or {})


def math500(
    source: str = "HuggingFaceH4/MATH-500",
    split: str = "test",
    columns: Mapping[str, str] | None = None,
) -> Mathematics:
    """Five hundred problems of the test part of MATH."""
    return Mathematics(name="math500", source=source, split=split, columns=columns or {})


def gsm8k(
    source: str = "openai/gsm8k",
    split: str = "test",
    config: str | None = "main",
    columns: Mapping[str, str] | None = None,
) -> Mathematics:
    """Grade-school problems whose answers are numbers; without a box, the last number counts."""
    return Mathematics(
        name="gsm8k",
        source=source,
        split=split,
        config=config,
        columns=columns or {},
        reads_last_number=True,
    )
