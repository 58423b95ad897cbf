"""Sinks and a window: the first tokens stay for good, all others leave with the window."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SINKS = 4
"""As many as the paper found to be enough."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Marks every token but the first `sinks` of a text.

    A head then holds `sinks + window + 1` tokens: the newest one is visible beside the window.

    Source: StreamingLLM, arXiv:2309.17453. It numbers positions anew inside the cache, so that a
    text may grow beyond the trained context; here, as in KVPress's `StreamingLLMPress`, a key keeps
    the position it was rotated for.
    """

    shift: int
    """A row speaks of the token so many positions before it, as in the memory it is used in."""

    sinks: int = SINKS
    needs_logits: bool = False

    def mark(
        self,
        layer: int,  # noqa: ARG002
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002
        positions: Int[Tensor, " T"],
        num_heads: int,
    ) -> Bool[Tensor, "T K"]:
        """Mark whatever comes behind the sinks."""
        marked: Bool[Tensor, "T 1"] = (positions - self.shift >= self.sinks)[:, None]
        return torch.cat([marked] * num_heads, dim=1)
