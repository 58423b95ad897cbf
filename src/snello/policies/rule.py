"""What a rule of a budget is: it sees a step's attention and says who stays.

Knows nothing of pages or sequences: tensors in, tensors out.
Dims: B sequences, Q queries, H query heads, K key-value heads, N places, R notes.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sight:
    """One layer's attention in one step: Q new tokens of each of B sequences.

    The N places are those held before, in any order and with gaps, and then the new tokens. Query
    head h belongs to key-value head `h // (H // K)`.
    """

    scores: Float[Tensor, "B H Q N"]
    """Scaled products before the softmax, minus infinity where a query does not see."""

    weights: Float[Tensor, "B H Q N"]
    keys: Float[Tensor, "B K N D"]
    positions: Int[Tensor, "B K N"]
    is_live: Bool[Tensor, "B K N"]
    """False where a place holds no token."""

    last: Int[Tensor, " B"]
    """The position of each sequence's newest token."""

    layer: int
    """Which layer's: what a rule has measured of a model differs from layer to layer."""

    notes: Float[Tensor, "B K N R"]
    """What the rule noted about each token in the step before; 0 for new tokens."""

    @property
    def is_chunk(self) -> bool:
        """Whether this is a piece of a prompt: more than one token at once."""
        return self.scores.shape[2] > 1

    def age(self) -> Int[Tensor, "B K N"]:
        """How many positions each token is behind the newest."""
        return self.last[:, None, None] - self.positions

    def group(self, parts: Float[Tensor, "B H *rest"]) -> Float[Tensor, "B K g *rest"]:
        """Sort what there is for each query head by key-value head."""
        return parts.view(len(parts), self.keys.shape[1], -1, *parts.shape[2:])


class Verdict(NamedTuple):
    """Who stays, and what is noted about them."""

    keep: Bool[Tensor, "B K N"]
    notes: Float[Tensor, "B K N R"]


@runtime_checkable
class Rule(Protocol):
    """Decides after every step which tokens stay, for each head."""

    @property
    def num_notes(self) -> int:
        """How many numbers the rule notes beside each token."""

    @property
    def chunk_limit(self) -> int:
        """The most tokens that a head holds after a piece of a prompt."""

    @property
    def limit(self) -> int | None:
        """The most tokens that a head holds after any step; None: as many as there are."""

    def decide(self, sight: Sight) -> Verdict:
        """Tell who stays; a place without a token does not."""


def keep_best(
    values: Float[Tensor, "B K N"], is_live: Bool[Tensor, "B K N"], num_kept: int
) -> Bool[Tensor, "B K N"]:
    """Choose the `num_kept` live places of each head that have the largest values.

    Of equal ones, those that stand first.
    """
    lowest = values.masked_fill(~is_live, -torch.inf)
    order = lowest.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(is_live).scatter_(-1, order[..., :num_kept], value=True)
    return kept & is_live


def count_leaving(budget: int, every: int | None) -> int:
    """How many tokens leave a full head at once; None: 128, or a quarter of the budget if less."""
    return max(1, min(128, budget // 4)) if every is None else every


def in_order(positions: Int[Tensor, "B K N"]) -> tuple[Int[Tensor, "B K N"], Int[Tensor, "B K N"]]:
    """Return where each token stands if they are sorted by position, and the way back."""
    there = positions.argsort(dim=-1)
    return there, there.argsort(dim=-1)
