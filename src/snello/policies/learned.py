"""The model decides: a positive eviction logit is a mark. Knows nothing of windows."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.dms.decision import marks


@dataclass(frozen=True, slots=True)
class Learned:
    """Dynamic Memory Sparsification, and any other rule a model was trained to announce."""

    needs_logits: bool = True

    def mark(
        self,
        layer: int,
        logits: Float[Tensor, "T K"] | None,
        positions: Int[Tensor, " T"],  # noqa: ARG002
        num_heads: int,  # noqa: ARG002
    ) -> Bool[Tensor, "T K"]:
        """Mark where the logit is positive."""
        if logits is None:
            raise ValueError(
                f"layer {layer} gave no eviction logits; the learned policy needs a model with "
                "a decision. Load an adapter, or choose the policy 'window', 'random' or 'never'."
            )
        return marks(logits)
