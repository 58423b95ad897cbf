"""How pages are shown to the operators that read and write them. Knows nothing of who owns them.

Dims: P pages of S slots, N sequences that may be open, B that are worked on, K key-value heads,
M pages listed for each.
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


class News(NamedTuple):
    """One new token of each of B sequences: its row in the flat batch, its position, and whose."""

    rows: Int[Tensor, " B"]
    positions: Int[Tensor, " B"]
    sequences: Int[Tensor, " B"]


class Tails(NamedTuple):
    """How many survivors each head has, and the page it takes next if its last one is full.

    -1 stands where no page was handed out.
    """

    num_survivors: Int[Tensor, "N K"]
    spare: Int[Tensor, "N K"]


class Fresh(NamedTuple):
    """New tokens that are not stored yet: rows of the flat batch, with marks about themselves."""

    keys: Float[Tensor, "T K D"]
    values: Float[Tensor, "T K E"]
    evict: Bool[Tensor, "T K"]
