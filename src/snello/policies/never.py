"""Nothing is ever forgotten: sparse memory that must agree with dense memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Never:
    """Marks no token."""

    needs_logits: bool = False

    def mark(
        self,
        layer: int,  # noqa: ARG002
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002
        positions: Int[Tensor, " T"],
        num_heads: int,
    ) -> Bool[Tensor, "T K"]:
        """Mark none."""
        shape = (positions.shape[0], num_heads)
        return torch.zeros(shape, dtype=torch.bool, device=positions.device)
