"""A sliding window: everything is forgotten when the window has passed over it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """Marks every token, so that exactly the window stays alive."""

    needs_logits: bool = False

    def mark(
        self,
        layer: int,  # noqa: ARG002
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002
        positions: Int[Tensor, " T"],
        num_heads: int,
    ) -> Bool[Tensor, "T K"]:
        """Mark all."""
        shape = (positions.shape[0], num_heads)
        return torch.ones(shape, dtype=torch.bool, device=positions.device)
