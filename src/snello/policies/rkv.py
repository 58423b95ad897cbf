"""R-KV: whoever is looked at and says something new, stays. Knows nothing of pages."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.policies.rule import Sight, Verdict, count_leaving, in_order, keep_best

SIMILAR = 0.5
HIDDEN = -1e30
"""Stands for minus infinity in notes, so that a query that saw nothing gives no NaN."""


@dataclass(frozen=True, slots=True)
class Rkv:
    """Importance less redundancy, decided whenever a head is full, for `every` tokens at once.

    Importance: the softmax over older tokens of the last `window` queries' scores, the largest of a
    group's heads, averaged over queries and max-pooled over neighbours. Redundancy: how similar a
    key is to the others of its head on average (cosine, the latest similar one excepted), as a
    softmax. The last `window` tokens stay.

    Source: R-KV, arXiv:2505.24133, and its authors' code, whose mix of 0.07 is the default. There
    the budget is what remains and a buffer of 128 comes on top; here `budget` is the most that a
    head holds, buffer included, so that all rules with a budget can be compared. Scores are noted
    as they are computed instead of keeping queries; a key that is similar to no other excuses none.

    Within a piece of a prompt every token sees all before it; it is cut down at its end if it does
    not fit.
    """

    budget: int
    every: int | None = None
    """How many tokens come between decisions; None: 128, or a quarter of the budget if less."""

    window: int | None = None
    """How many newest tokens stay and are asked; None: 8, or half of what remains if less."""

    kernel: int = 7
    mix: float = 0.07
    """The share of importance; the rest is redundancy."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_recent < self.budget - self.interval:
            raise ValueError(
                f"rkv has a budget of {self.budget}, cuts {self.interval} at once, and keeps "
                f"window={self.num_recent} newest tokens; give a larger budget, or "
                "less of the others."
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"rkv pools with kernel={self.kernel}; give an odd count.")

    @property
    def num_notes(self) -> int:
        """The scores of the last `num_recent` queries, by position modulo their number."""
        return self.num_recent

    @property
    def num_recent(self) -> int:
        """How many of the newest tokens stay, and are asked what they looked at."""
        return min(8, (self.budget - self.interval) // 2) if self.window is None else self.window

    @property
    def interval(self) -> int:
        """How many tokens leave at once."""
        return count_leaving(self.budget, self.every)

    @property
    def chunk_limit(self) -> int:
        """The budget."""
        return self.budget

    @property
    def limit(self) -> int:
        """The budget."""
        return self.budget

    def decide(self, sight: Sight) -> Verdict:
        """Cut full heads down; in all others everybody stays."""
        notes = self._note(sight)
        is_full = sight.is_live.sum(-1, keepdim=True) > self.budget  # (B, K, 1)
        if not bool(is_full.any()):
            return Verdict(sight.is_live, notes)
        redundancy = measure_redundancy(sight.keys, sight.is_live, sight.positions)
        values = self.mix * self._weigh(sight, notes) - (1.0 - self.mix) * redundancy
        values = values.masked_fill(sight.age() < self.num_recent, torch.inf)
        best = keep_best(values, sight.is_live, self.budget - self.interval)
        return Verdict(torch.where(is_full, best, sight.is_live), notes)

    def _note(self, sight: Sight) -> Float[Tensor, "B K N R"]:
        """Put this step's scores where those of `num_recent` queries ago were."""
        scores = sight.group(sight.scores).amax(2)[:, :, -self.num_recent :].clamp_min(HIDDEN)
        num_queries = scores.shape[2]
        behind = torch.arange(num_queries - 1, -1, -1, device=scores.device)
        columns = (sight.last[:, None] - behind) % self.num_recent  # (B, Q)
        index = columns[:, None, None].expand(*sight.is_live.shape, -1)
        return sight.notes.scatter(-1, index, scores.transpose(2, 3))

    def _weigh(self, sight: Sight, notes: Float[Tensor, "B K N R"]) -> Float[Tensor, "B K N"]:
        """What the last queries looked at among the older tokens, pooled in order."""
        is_past = sight.is_live & (sight.age() >= self.num_recent)
        hidden = notes.masked_fill(~is_past[..., None], HIDDEN)
        weights = hidden.softmax(dim=2).mean(-1)
        there, back = in_order(sight.positions)
        pooled = F.max_pool1d(weights.gather(-1, there), self.kernel, 1, self.kernel // 2)
        return pooled.gather(-1, back)


def measure_redundancy(
    keys: Float[Tensor, "B K N D"], is_live: Bool[Tensor, "B K N"], positions: Int[Tensor, "B K N"]
) -> Float[Tensor, "B K N"]:
    """How similar each key is to the live others, as a softmax over the live.

    Of the keys that one is similar to, the latest is excused.
    """
    unit = keys / (keys.norm(dim=-1, keepdim=True) + 1e-8)
    both = is_live[..., None] & is_live[..., None, :]
    likeness = (unit @ unit.transpose(-1, -2)) * both
    likeness.diagonal(dim1=-2, dim2=-1).zero_()
    is_similar = likeness > SIMILAR
    latest = torch.where(is_similar, positions[:, :, None], -1).argmax(dim=-1, keepdim=True)
    excused = torch.zeros_like(is_similar).scatter_(-1, latest, value=True) & is_similar
    others = is_live.sum(-1, keepdim=True)
    mean = likeness.masked_fill(excused, 0.0).sum(-2) / others
    redundancy: Float[Tensor, "B K N"] = mean.masked_fill(~is_live, -torch.inf).softmax(dim=-1)
    return redundancy
