"""RULER's variable tracking: all names that a value reaches, through a chain of assignments.

Knows nothing of models. Source: Hsieh et al., arXiv:2404.06654, `vt`; without its worked example,
which is for base models.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import arrange
from snello.evaluation.task import Question
from snello.evaluation.tasks.haystack import NOISE, fill, insert_at, take, write_sentences
from snello.evaluation.tasks.needle import Cell, list_cells
from snello.evaluation.tasks.registry import Encode

_PROMPT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{text}\nQuestion: Find all variables that are assigned the value {value} in the text above."
)
_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} "
    "variables are assigned the value {value}, they are: "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableTracking:
    """One chain of assignments to follow, among others to leave aside."""

    encode: Encode
    name: str = "variable-tracking"
    lengths: Sequence[int] = (1024, 2048, 4096, 8192)
    """Tokens of the prompt, without what a chat template adds."""

    samples: int = 10
    """Questions for each length."""

    chains: int = 1
    hops: int = 4
    """Assignments from name to name; a chain has one name more."""

    text: Path | None = None
    """A text file to hide them in; without it, RULER's noise."""

    form: Literal["chat", "text"] = "chat"
    """`text` has base models continue the beginning of an answer."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the questions of all lengths.

        Raises:
            ValueError: lengths or counts that make no sense, or a length too short.
        """
        if self.chains < 1 or self.hops < 1:
            raise ValueError(
                f"{self.chains} chains of {self.hops} hops; give at least one of each."
            )
        cells = arrange(list_cells(self.lengths, None, self.samples), count, seed)
        return [self._ask(cell, random.Random(f"vt/{seed}/{cell.name}")) for cell in cells]

    def _ask(self, cell: Cell, dice: random.Random) -> Question:
        chains = draw_chains(dice, self.chains, self.hops)
        names, value, facts, shares = chains[0], str(dice.randrange(10_000, 100_000)), [], []
        taken = {value}
        for number, chain in enumerate(chains):
            other = value
            while number and other in taken:
                other = str(dice.randrange(10_000, 100_000))
            taken.add(other)
            facts += [f"VAR {chain[0]} = {other}"]
            facts += [f"VAR {b} = VAR {a}" for a, b in pairwise(chain)]
            shares += sorted(dice.random() for _ in chain)
        prefix = _PREFIX.format(count=len(names), value=value) if self.form == "text" else ""
        first = take(repeat(NOISE) if self.text is None else write_sentences(dice, self.text))

        def compose(count: int) -> str:
            hidden = "\n".join(insert_at(first(count), facts, shares))
            return _PROMPT.format(text=hidden, value=value) + prefix

        prompt = fill(compose, self.encode, cell.length_tokens)
        return Question(
            name=f"{self.name}/{cell.name}",
            messages=({"role": "user", "content": prompt},) if self.form == "chat" else (),
            text=prompt if self.form == "text" else "",
            reference=tuple(names),
            most_new_tokens=30 if self.form == "text" else None,
            length_tokens=cell.length_tokens,
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return all names of variables after the thought, once each, sorted."""
        names = re.findall(r"\b[A-Z]{5}\b", drop_thought(reply))
        return " ".join(sorted(set(names))) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return the share of the chain's names that the answer has, as RULER does."""
        return share_found(question.reference, answer)


def draw_chains(dice: random.Random, chains: int, hops: int) -> list[list[str]]:
    """Draw names of five letters, each used once."""
    names: dict[str, None] = {}
    while len(names) < chains * (hops + 1):
        names["".join(dice.choices(ascii_uppercase, k=5))] = None
    listed = list(names)
    return [listed[start : start + hops + 1] for start in range(0, len(listed), hops + 1)]


def share_found(references: Sequence[str], answer: str | None) -> float:
    """Return the share of the references that are among an answer's words."""
    words = set((answer or "").split())
    return sum(reference in words for reference in references) / len(references)
