"""Needle and variable tracking in the bundled model's own language: notes among sentences.

Knows nothing of models. A ledger is a chain of variables already: each note holds a digit and the
next note's name. Here its length in tokens is set, and for the needle also its depth.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from snello.bundled.problems import answer_of, draw_ledger
from snello.evaluation.rows import arrange
from snello.evaluation.task import Question
from snello.evaluation.tasks.haystack import fill, insert_at, take, write_sentences
from snello.evaluation.tasks.needle import DEPTHS, Cell, list_cells
from snello.evaluation.tasks.registry import Encode


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTracking:
    """A trail of notes to follow; all notes stand anywhere in the text."""

    encode: Encode
    name: str = "ledger-tracking"
    lengths: Sequence[int] = (400, 600, 800, 1000)
    """Tokens of the question, without what a chat template adds."""

    steps: int = 10
    """Notes on the trail."""

    notes: int = 12
    """All notes, at most 64; the others lead elsewhere."""

    samples: int = 25
    """Questions for each length."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the questions of all lengths.

        Raises:
            ValueError: lengths or counts that make no sense, or a length too short.
        """
        cells = arrange(self._list_cells(), count, seed)
        return [self._ask(cell, random.Random(f"{self.name}/{seed}/{cell.name}")) for cell in cells]

    def _list_cells(self) -> list[Cell]:
        return list_cells(self.lengths, None, self.samples)

    def _place(
        self,
        cell: Cell,  # noqa: ARG002
        dice: random.Random,
        is_on_trail: bool,  # noqa: ARG002
    ) -> float:
        """Return at which share of the text a note stands."""
        return dice.random()

    def _ask(self, cell: Cell, dice: random.Random) -> Question:
        ledger = draw_ledger(dice, steps=self.steps, notes=self.notes)
        facts = [f"{note}." for note in ledger.shuffled]
        shares = [self._place(cell, dice, note in ledger.trail) for note in ledger.shuffled]
        first = take(write_sentences(dice))

        def compose(count: int) -> str:
            return " ".join([*insert_at(first(count), facts, shares), ledger.ask])

        prompt = fill(compose, self.encode, cell.length_tokens)
        right_reply = f"{ledger.thought}</think> {ledger.answer}"
        return Question(
            name=f"{self.name}/{cell.name}",
            messages=({"role": "user", "content": prompt},),
            reference=ledger.answer,
            most_new_tokens=2 * len(self.encode(right_reply)),
            length_tokens=cell.length_tokens,
            depth_percent=cell.depth_percent,
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return what the reply says after its thought."""
        return answer_of(reply) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for the right sum."""
        return float(answer == question.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerNeedle(LedgerTracking):
    """One note to find at a depth of the text, among others that stand anywhere."""

    name: str = "ledger-needle"
    depths: Sequence[int] = DEPTHS
    """Percent of the text before the note."""

    steps: int = 1
    notes: int = 12
    samples: int = 5
    """Questions for each length and depth."""

    def _list_cells(self) -> list[Cell]:
        return list_cells(self.lengths, self.depths, self.samples)

    def _place(self, cell: Cell, dice: random.Random, is_on_trail: bool) -> float:
        return (cell.depth_percent or 0) / 100 if is_on_trail else dice.random()
