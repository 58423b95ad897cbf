"""H2O: the recent stay, and of the others those that were looked at most. Knows no pages."""

from dataclasses import dataclass

import torch

from snello.policies.rule import Sight, Verdict, keep_best


@dataclass(frozen=True, slots=True)
class H2o:
    """Half the budget for the newest tokens, half for the heavy hitters.

    A token's weight adds up over all queries since it came. Heads of a group share a key, so their
    weights are added too, and each key-value head decides for itself.

    Source: H2O, arXiv:2306.14048, and its authors' code, which knows no groups and numbers
    positions anew inside the cache; here a key keeps the position it was rotated for. KVPress's
    `ObservedAttentionPress` divides the sum by the number of queries instead, and protects nobody.

    Within a piece of a prompt every token sees all before it, and the piece is cut down at its end;
    queries of one piece cannot add to what an earlier piece has dropped.
    """

    budget: int
    recent: int | None = None
    """How many of the budget are the newest; None: half."""

    num_notes: int = 1

    def __post_init__(self) -> None:
        if self.recent is not None and self.recent > self.budget:
            raise ValueError(
                f"h2o keeps recent={self.recent} of a budget of {self.budget}; give at most the "
                "budget."
            )

    @property
    def chunk_limit(self) -> int:
        """The budget."""
        return self.budget

    @property
    def limit(self) -> int:
        """The budget."""
        return self.budget

    def decide(self, sight: Sight) -> Verdict:
        """Keep the newest, and those with the largest sums."""
        recent = max(1, self.budget // 2) if self.recent is None else self.recent
        sums = sight.notes[..., 0] + sight.group(sight.weights).sum((2, 3))
        values = sums.masked_fill(sight.age() < recent, torch.inf)
        keep = keep_best(values, sight.is_live, self.budget)
        return Verdict(keep, sums[..., None])
