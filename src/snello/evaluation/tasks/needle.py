"""Needles in a haystack: one sentence to find at a depth of a long text, or one among many alike.

Knows nothing of models. Source: Kamradt's grid of lengths and depths; sentences and questions of
RULER (Hsieh et al., arXiv:2404.06654), `niah_single` and `niah_multikey`.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from snello.bundled.words import ADJECTIVES, NOUNS
from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import arrange
from snello.evaluation.task import Question
from snello.evaluation.tasks.haystack import fill, insert_at, take, write_sentences
from snello.evaluation.tasks.registry import Encode

_PROMPT = (
    "A special magic number is hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the number afterwards.\n{text}\nWhat is the special magic number for {key} "
    "mentioned in the provided text?"
)
_PREFIX = " The special magic number for {key} mentioned in the provided text is"
_NEEDLE = "One of the special magic numbers for {key} is: {value}."
_KEYS = tuple(f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS)
DEPTHS = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


class Cell(NamedTuple):
    """One place of the grid, and which of its questions."""

    length_tokens: int
    depth_percent: int | None
    number: int

    @property
    def name(self) -> str:
        """As in `4096/50/0`, or `4096/0` where there are no depths."""
        return "/".join(str(part) for part in self if part is not None)


def list_cells(lengths: Sequence[int], depths: Sequence[int] | None, samples: int) -> list[Cell]:
    """Return the cells of a grid, row by row; `depths` are None where it has lengths alone.

    Raises:
        ValueError: a length or a number of samples below one, or a depth outside 0 to 100.
    """
    places: Sequence[int | None] = (None,) if depths is None else depths
    bad = [n for n in (*lengths, samples) if n < 1]
    bad += [d for d in places if d is not None and not 0 <= d <= 100]
    if bad or not lengths or not places:
        raise ValueError(
            f"the grid has lengths {list(lengths)}, depths {list(places)} and {samples} samples; "
            "lengths are tokens, depths percent from 0 to 100, and there is at least one of each."
        )
    return [
        Cell(length, depth, index)
        for length in lengths
        for depth in places
        for index in range(samples)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """A number to find; `num_others` others stand under other keys, anywhere in the text."""

    encode: Encode
    name: str = "needle"
    lengths: Sequence[int] = (1024, 2048, 4096, 8192)
    """Tokens of the prompt, without what a chat template adds."""

    depths: Sequence[int] = DEPTHS
    """Percent of the text before the needle."""

    samples: int = 1
    """Questions for each length and depth."""

    text: Path | None = None
    """A text file to hide it in; without it, made-up sentences."""

    form: Literal["chat", "text"] = "chat"
    """`text` has base models continue the beginning of an answer."""

    num_others: int = 0

    num_new_tokens: ClassVar[int] = 128

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return a question for each place of the grid.

        Raises:
            ValueError: a grid that makes no sense, a length too short, or no such text.
        """
        cells = arrange(list_cells(self.lengths, self.depths, self.samples), count, seed)
        return [self._ask(cell, random.Random(f"needle/{seed}/{cell.name}")) for cell in cells]

    def _ask(self, cell: Cell, dice: random.Random) -> Question:
        keys = dice.sample(_KEYS, 1 + self.num_others)
        values = [str(number) for number in dice.sample(range(1_000_000, 10_000_000), len(keys))]
        needles = [_NEEDLE.format(key=k, value=v) for k, v in zip(keys, values, strict=True)]
        shares = [(cell.depth_percent or 0) / 100, *(dice.random() for _ in needles[1:])]
        prefix = _PREFIX.format(key=keys[0]) if self.form == "text" else ""
        first = take(self._write_sentences(dice))

        def compose(count: int) -> str:
            hidden = " ".join(insert_at(first(count), needles, shares))
            return _PROMPT.format(text=hidden, key=keys[0]) + prefix

        prompt = fill(compose, self.encode, cell.length_tokens)
        return Question(
            name=f"{self.name}/{cell.name}",
            messages=({"role": "user", "content": prompt},) if self.form == "chat" else (),
            text=prompt if self.form == "text" else "",
            reference=values[0],
            most_new_tokens=self.num_new_tokens if self.form == "text" else None,
            length_tokens=cell.length_tokens,
            depth_percent=cell.depth_percent,
        )

    def _write_sentences(self, dice: random.Random) -> Iterator[str]:
        return write_sentences(dice, self.text)

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return the last number of seven digits after the thought."""
        said = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", drop_thought(reply))
        numbers = re.findall(r"(?<!\d)\d{7}(?!\d)", said)
        return numbers[-1] if numbers else None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for the needle's number."""
        return float(answer == question.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiKeyNeedle(Needle):
    """A needle among three others (RULER: `niah_multikey_1`)."""

    name: str = "multi-key-needle"
    num_others: int = 3
