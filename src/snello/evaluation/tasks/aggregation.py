"""RULER's common words: which ten words of a long list come most often.

Knows nothing of models. Source: Hsieh et al., arXiv:2404.06654, `cwe`; words are made up from the
seed instead of taken from a dictionary, and its worked example, for base models, is left out.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import arrange
from snello.evaluation.task import Question
from snello.evaluation.tasks.haystack import fill, take
from snello.evaluation.tasks.needle import Cell, list_cells
from snello.evaluation.tasks.registry import Encode
from snello.evaluation.tasks.tracking import share_found

_PROMPT = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{text}\nQuestion: What are the {num} most common "
    "words in the above list?"
)
_PREFIX = " Answer: The top {num} words that appear most often in the list are:"
_STARTS, _VOWELS, _ENDS = "bdfghklmnprstvwz", "aeiou", "lmnrst"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonWords:
    """Ten words that come often, among more words the longer the list."""

    encode: Encode
    name: str = "common-words"
    lengths: Sequence[int] = (4096, 8192)
    """Tokens of the prompt, without what a chat template adds."""

    samples: int = 10
    """Questions for each length."""

    num_common: int = 10
    common_times: int = 30
    """RULER: 30 against 3, below 4096 tokens 6 against 1."""

    rare_times: int = 3
    form: Literal["chat", "text"] = "chat"
    """`text` has base models continue the beginning of an answer."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the questions of all lengths.

        Raises:
            ValueError: lengths or counts that make no sense, or a length too short.
        """
        if not 1 <= self.rare_times < self.common_times or self.num_common < 1:
            raise ValueError(
                f"{self.num_common} words come {self.common_times} times and others "
                f"{self.rare_times} times; there must be at least one, and it must come more often."
            )
        cells = arrange(list_cells(self.lengths, None, self.samples), count, seed)
        return [self._ask(cell, f"cwe/{seed}/{cell.name}") for cell in cells]

    def _ask(self, cell: Cell, seed: str) -> Question:
        dice = random.Random(seed)
        first = take(draw_words(dice))
        common = first(self.num_common)
        prefix = _PREFIX.format(num=self.num_common) if self.form == "text" else ""

        def compose(count: int) -> str:
            # One word a time lets the prompt grow evenly; the order depends on the count alone.
            words = (
                common * self.common_times
                + first(len(common) + count)[len(common) :] * self.rare_times
            )
            random.Random(f"{seed}/{count}").shuffle(words)
            listed = " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
            return _PROMPT.format(text=listed, num=self.num_common) + prefix

        prompt = fill(compose, self.encode, cell.length_tokens)
        return Question(
            name=f"{self.name}/{cell.name}",
            messages=({"role": "user", "content": prompt},) if self.form == "chat" else (),
            text=prompt if self.form == "text" else "",
            reference=tuple(common),
            most_new_tokens=120 if self.form == "text" else None,
            length_tokens=cell.length_tokens,
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return all words after the thought, once each, sorted."""
        words = re.findall(r"[a-z]+", drop_thought(reply).lower())
        return " ".join(sorted(set(words))) or None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return the share of the common words that the answer has, as RULER does."""
        return share_found(question.reference, answer)


def draw_words(dice: random.Random) -> Iterator[str]:
    """Yield words that are none, such as `kolet`, each once."""
    seen = set()
    while True:
        syllables = [
            dice.choice(_STARTS) + dice.choice(_VOWELS) for _ in range(dice.choice((2, 3)))
        ]
        word = "".join(syllables) + dice.choice(_ENDS)
        if word not in seen:
            seen.add(word)
            yield word
