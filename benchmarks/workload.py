"""Requests as reasoning makes them: short prompts, replies of long-tailed length.

Knows nothing of engines. Lengths are log-normal, cut at a longest; everyone who asks with the same
seed gets the same requests.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Wish(NamedTuple):
    """One request: its prompt, and how many tokens it will be given."""

    prompt_ids: list[int]
    num_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked for."""

    vocab_size: int
    prompt_tokens: int
    median_tokens: int
    """Half of the replies are longer."""

    spread: float
    """Standard deviation of the logarithm of a reply's length."""

    most_tokens: int
    """No reply is longer."""

    def draw(self, seed: int) -> Iterator[Wish]:
        """Draw requests without end."""
        dice = random.Random(seed)
        while True:
            yield Wish(self._draw_ids(dice, self.prompt_tokens), self._draw_length(dice))

    def draw_underway(self, seed: int) -> Iterator[Wish]:
        """Draw requests as one finds them in a service that has run for long.

        A reply is met with a chance that grows with its length, and anywhere between its first
        token and its last. What it was given already is a part of its prompt.
        """
        dice = random.Random(seed)
        while True:
            length = self._draw_length(dice)
            if dice.random() * self.most_tokens > length:
                continue
            age = dice.randrange(length)
            yield Wish(self._draw_ids(dice, self.prompt_tokens + age), length - age)

    def _draw_ids(self, dice: random.Random, count: int) -> list[int]:
        return [dice.randrange(self.vocab_size) for _ in range(count)]

    def _draw_length(self, dice: random.Random) -> int:
        length = dice.lognormvariate(math.log(self.median_tokens), self.spread)
        return max(1, min(self.most_tokens, round(length)))
