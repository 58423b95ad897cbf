"""SnapKV: the end of a prompt says which part of it matters. Knows nothing of pages."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from jaxtyping import Float
from torch import Tensor

from snello.policies.rule import Sight, Verdict, in_order, keep_best

OBSERVED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class SnapKv:
    """Cuts a prompt down to the budget at its end, by what its last queries looked at.

    Their weights are averaged, smoothed over neighbouring tokens and averaged over the heads of a
    group; the observing tokens stay themselves. What is generated afterwards all stays, as in the
    paper, unless `slide` says how many of the generated tokens do: then the prompt gets what the
    newest `slide` leave of the budget, and the budget bounds all.

    Source: SnapKV, arXiv:2404.14469; smoothing and averages as in KVPress's `SnapKVPress`, with
    which it agrees where the prompt is one piece.

    A prompt that comes in pieces is cut down at the end of each, by the queries of that piece; a
    piece of a single token counts as generated. A later prompt of the same thread, and a thread
    that is computed anew, is cut down as a whole, what was generated before it included.
    """

    budget: int
    window: int | None = None
    """How many queries observe; None: 32, or half the budget of the prompt if that is less."""

    kernel: int = 5
    """Over how many neighbours weights are smoothed; odd."""

    slide: int | None = None
    num_notes: int = 1
    """1 for a token that was generated."""

    def __post_init__(self) -> None:
        if self.slide is not None and self.slide >= self.budget:
            raise ValueError(
                f"snapkv keeps slide={self.slide} of a budget of {self.budget}; give less, so that "
                "something of the prompt stays."
            )
        if not 0 <= self.num_observing <= self.chunk_limit:
            raise ValueError(
                f"snapkv observes with window={self.window} tokens, and the prompt's budget is "
                f"{self.chunk_limit}; give at most that, because they stay themselves."
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"snapkv smooths with kernel={self.kernel}; give an odd count.")

    @property
    def chunk_limit(self) -> int:
        """The budget, less what is set aside for generated tokens."""
        return self.budget - (self.slide or 0)

    @property
    def limit(self) -> int | None:
        """The budget, where generated tokens slide."""
        return None if self.slide is None else self.budget

    @property
    def num_observing(self) -> int:
        """How many of the newest tokens observe, and stay."""
        if self.window is None:
            return min(OBSERVED_TOKENS, self.chunk_limit // 2)
        return self.window

    def decide(self, sight: Sight) -> Verdict:
        """Cut a prompt down, or let the oldest generated token go."""
        if sight.is_chunk:
            values = self._smooth(sight).masked_fill(sight.age() < self.num_observing, torch.inf)
            keep = keep_best(values, sight.is_live, self.chunk_limit)
            return Verdict(keep, torch.zeros_like(sight.notes))
        generated = sight.notes[..., 0].masked_fill(sight.age() == 0, 1.0)
        keep = sight.is_live
        if self.slide is not None:
            keep = keep & ((generated == 0) | (sight.age() < self.slide))
        return Verdict(keep, generated[..., None])

    def _smooth(self, sight: Sight) -> Float[Tensor, "B K N"]:
        """What the last queries looked at, smoothed in the order of positions."""
        window = max(1, self.num_observing)
        weights = sight.group(sight.weights[:, :, -window:].mean(2))  # (B, K, g, N)
        is_past = sight.age() >= self.num_observing
        weights = weights * is_past[:, :, None]
        there, back = (index[:, :, None].expand_as(weights) for index in in_order(sight.positions))
        sorted_weights = weights.gather(-1, there).flatten(1, 2)
        smooth = F.avg_pool1d(sorted_weights, self.kernel, stride=1, padding=self.kernel // 2)
        return smooth.view_as(weights).gather(-1, back).mean(2)
