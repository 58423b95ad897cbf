"""What a task is: questions, and how a reply to one is read and judged. Knows nothing of memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing to ask a model."""

    name: str
    """Unique within its task, and the same whenever the same question is asked."""

    messages: tuple[dict[str, str], ...] = ()
    """A conversation for the model's chat template; empty where `text` is given."""

    text: str = ""
    """A prompt as it is, for models without a chat template or tasks that continue a text."""

    reference: Any = None
    """What the task's judge needs: an answer, tests, options."""

    most_new_tokens: int | None = None
    """Where the task itself bounds the reply."""

    length_tokens: int | None = None
    """How long the question was to be, where its task has a grid of lengths."""

    depth_percent: int | None = None
    """How much of it stands before what is to be found, where the grid has depths as well."""


def describe_questions(questions: Sequence[Question]) -> str:
    """Say how many they are, and a hash of all that the model is shown and the judge is told."""
    told = [(q.name, q.messages, q.text, repr(q.reference), q.most_new_tokens) for q in questions]
    return f"{len(questions)}, {hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


@runtime_checkable
class Task(Protocol):
    """Questions of one kind, their prompts and their scoring."""

    @property
    def name(self) -> str:
        """As users write it, such as `math500` or `needle`."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the first `count` questions (all: None) in an order that only `seed` decides."""

    def read(self, question: Question, reply: str) -> str | None:
        """Return the answer a reply gives, in a form that equal answers share; None: no answer."""

    def judge(self, question: Question, answer: str | None) -> float:
        """Score an answer as `read` returned it, 0.0 to 1.0."""
