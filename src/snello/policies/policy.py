"""What a rule of forgetting is: marks, announced row by row. Knows nothing of storage."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Policy(Protocol):
    """Decides what leaves when the window has passed over it.

    A row announces a mark about the token `shift` positions before it; the memory applies that
    shift. A mark may depend on what is given here only, so that the way a text is cut into steps
    cannot change it.
    """

    @property
    def needs_logits(self) -> bool:
        """Whether the decoder must compute eviction logits for this rule."""

    def mark(
        self,
        layer: int,
        logits: Float[Tensor, "T K"] | None,
        positions: Int[Tensor, " T"],
        num_heads: int,
    ) -> Bool[Tensor, "T K"]:
        """Tell, for each row and head, whether it announces that a token is to be evicted."""
