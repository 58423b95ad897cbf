"""Long texts to hide things in: sentences without end, cut to a number of tokens, facts put in.

Knows nothing of questions. What a token is, the tokenizer that is handed in says.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

from snello.bundled.problems import compose_sentence

T = TypeVar("T")
Compose = Callable[[int], str]
"""Writes a whole prompt around so many sentences."""

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""What RULER hides chains of variables in."""


def write_sentences(dice: random.Random, path: Path | None = None) -> Iterator[str]:
    """Yield sentences without end: of a text file from a random one on, or made up.

    Raises:
        ValueError: no such file, or no sentence in it.
    """
    if path is None:
        return (compose_sentence(dice) for _ in cycle([0]))
    if not path.is_file():
        raise ValueError(f"there is no text {path} to hide things in; give a file, or none.")
    text = re.sub(r"\s+", " ", path.read_text("utf-8")).strip()
    sentences = re.split(r"(?<=[.!?])\s", text) if text else []
    if not sentences:
        raise ValueError(f"{path} holds no text; give a file with at least one sentence.")
    first = dice.randrange(len(sentences))
    return cycle(sentences[first:] + sentences[:first])


def take(items: Iterator[T]) -> Callable[[int], list[T]]:
    """Return a function that gives the first `n` items, the same ones each time."""
    seen: list[T] = []

    def first(count: int) -> list[T]:
        seen.extend(islice(items, max(0, count - len(seen))))
        return seen[:count]

    return first


def insert_at(sentences: Sequence[str], facts: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Return the sentences with each fact put in at its share of the way, 0 first and 1 last."""
    result = list(sentences)
    placed = sorted(zip(shares, range(len(facts)), strict=True), reverse=True)
    for share, index in placed:
        result.insert(round(share * len(sentences)), facts[index])
    return result


def fill(compose: Compose, encode: Callable[[str], Sequence[int]], length_tokens: int) -> str:
    """Return the longest prompt that `compose` writes in at most so many tokens.

    It is shorter than that by less than one more sentence.

    Raises:
        ValueError: not even the prompt without any sentence is short enough.
    """

    def fits(count: int) -> bool:
        return len(encode(compose(count))) <= length_tokens

    if not fits(0):
        raise ValueError(
            f"a prompt of {length_tokens} tokens was asked for; with nothing to hide the facts in "
            f"it already has {len(encode(compose(0)))}. Ask for a longer one, or for fewer facts."
        )
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return compose(low)
