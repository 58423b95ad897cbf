"""TOVA: whom the newest query looks at least, leaves. Knows nothing of pages."""

from dataclasses import dataclass

import torch

from snello.policies.rule import Sight, Verdict, keep_best


@dataclass(frozen=True, slots=True)
class Tova:
    """Keeps the tokens with the largest weight under the newest query, a mean over all heads.

    All heads of a layer therefore hold the same tokens, in the same places.

    Source: TOVA, arXiv:2401.06104, and its authors' cache, which averages over all query heads.
    The newest token stays in any case, as in KVPress's `TOVAPress`; the authors' code would let it
    go if it looked at itself least.

    A prompt is cut down once, at the end of each of its pieces: within a piece every token sees all
    before it. How a prompt is cut decides what later pieces still find.
    """

    budget: int
    num_notes: int = 0

    @property
    def chunk_limit(self) -> int:
        """The budget."""
        return self.budget

    @property
    def limit(self) -> int:
        """The budget."""
        return self.budget

    def decide(self, sight: Sight) -> Verdict:
        """Keep those that the newest query looks at most."""
        newest = sight.weights[:, :, -1].mean(1)  # (B, N)
        values = newest[:, None].expand(sight.is_live.shape)
        values = values.masked_fill(sight.age() == 0, torch.inf)
        return Verdict(keep_best(values, sight.is_live, self.budget), sight.notes)
