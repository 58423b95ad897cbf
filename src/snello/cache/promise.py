"""What a step may take from the pool while it runs. Knows nothing of heads, tokens or reading.

A step cannot stop in the middle: earlier layers have changed by then. So decoding sequences are
promised the most that they can need, and prompts what is expected of them. A prompt that keeps more
than that may take what nobody was promised; where even this runs out, it is spoiled: its tokens are
thrown away while the step goes on, and nobody else notices.
"""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor


class Promise:
    """The pages set aside for decoding sequences, layer by layer, and who broke the bounds.

    Args:
        num_aside: Pages that decoding sequences may take in the layers behind each one; None
            where everybody was promised the most.
    """

    def __init__(self, num_aside: Sequence[int] | None = None) -> None:
        self._num_aside = num_aside
        self.spoiled: set[int] = set()
        """Sequences that hold no whole text any more; to be released once the step is done."""

    def grants(
        self, layer: int, num_wanted: int, num_free: int, sequences: Int[Tensor, " B"]
    ) -> bool:
        """Tell whether a group may take pages now; if not, its sequences are spoiled."""
        if self._num_aside is None or num_wanted <= num_free - self._num_aside[layer]:
            return True
        self.spoiled.update(sequences.tolist())
        return False
