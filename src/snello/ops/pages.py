"""How pages are shown to the operators that read and write them. Knows nothing of who owns them.

Dims: P pages of S slots, N sequences, K key-value heads, M pages listed for each.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Slots(NamedTuple):
    """The contents of a page store, of which a layer may fill only the first part of each row.

    Slots without a token have a position that is ahead of every query.
    """

    keys: Float[Tensor, "P S D"]
    values: Float[Tensor, "P S E"]
    positions: Int[Tensor, "P S"]
    evict: Bool[Tensor, "P S"]


class Lists(NamedTuple):
    """The pages that each head of one layer holds, in order; what stands behind is no page of it.

    Contiguous, or the compiled kernels refuse it.
    """

    pages: Int[Tensor, "N K M"]
    num_held: Int[Tensor, "N K"]
