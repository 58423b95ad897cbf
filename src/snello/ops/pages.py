"""How pages are shown to the operators that read and write them. Knows nothing of who owns them.

Dims: P pages of S slots, N sequences that may be open, B that are worked on, K key-value heads,
M pages listed for each, V slots of a page of survivors, C bytes of one of its rows. V is S unless
survivors are narrow.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.ops.narrow import BITS, widen


def count_survivor_slots(
    page_tokens: int, dtype: torch.dtype, survivors: torch.dtype | None
) -> int:
    """How many slots the bytes of a page make where survivors are stored as `survivors`."""
    bits = 8 * dtype.itemsize
    return page_tokens if survivors is None else page_tokens * bits // BITS[survivors]


class Slots(NamedTuple):
    """The contents of a page store, of which a layer may fill only the first part of each row.

    Slots without a token have a position that is ahead of every query. Of a page that is not one of
    survivors, only the first S positions are in use; of one of narrow survivors, no mark is.
    """

    keys: Float[Tensor, "P S D"]
    values: Float[Tensor, "P S E"]
    positions: Int[Tensor, "P V"]
    evict: Bool[Tensor, "P S"]


class Narrow(NamedTuple):
    """What makes survivors of bytes: a format, and a scale for each key and each value.

    The first `ring_pages` pages of each head are as in `Slots`; those behind hold bytes in the same
    tensors, see `view_codes`, of which a layer fills the first part of each row.
    """

    scales: Float[Tensor, "P V 2"]
    dtype: torch.dtype
    ring_pages: int


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
    """New tokens that are not stored yet: rows of the flat batch, with marks about themselves.

    Where survivors are narrow, numbers that pages can hold.
    """

    keys: Float[Tensor, "T K D"]
    values: Float[Tensor, "T K E"]
    evict: Bool[Tensor, "T K"]


class Tokens(NamedTuple):
    """What a head holds, token by token; `is_narrow` says which of them are rounded already."""

    keys: Float[Tensor, "X D"]
    values: Float[Tensor, "X E"]
    positions: Int[Tensor, " X"]
    evict: Bool[Tensor, " X"]
    is_narrow: Bool[Tensor, " X"]

    def join(self, other: "Tokens") -> "Tokens":
        """These tokens and then the others."""
        return Tokens(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def view_codes(stored: Float[Tensor, "P S D"], num_slots: int) -> Int[Tensor, "P V C"]:
    """Show the bytes of pages as pages of `num_slots` survivors each."""
    raw = stored.view(torch.int8)
    num_pages, page_tokens, size = raw.shape
    return raw.view(num_pages, num_slots, page_tokens * size // num_slots)


def load_head(
    slots: Slots, pages: Int[Tensor, " M"], narrow: Narrow | None, sizes: tuple[int, int]
) -> Tokens:
    """Bring the tokens of one head's pages together, empty slots included.

    `sizes` says how many numbers of each key and of each value are this layer's.
    """
    if narrow is None:
        parts = (slots.keys[..., : sizes[0]], slots.values[..., : sizes[1]], *slots[2:])
        keys, values, positions, evict = (part[pages].flatten(0, 1) for part in parts)
        return Tokens(keys, values, positions, evict, torch.zeros_like(evict))
    S, ring, tail = slots.keys.shape[1], pages[: narrow.ring_pages], pages[narrow.ring_pages :]
    exact = slots._replace(positions=slots.positions[:, :S])
    scales, positions = narrow.scales[tail].flatten(0, 1), slots.positions[tail].flatten()
    keys, values = (
        widen(codes[tail].flatten(0, 1), scales[:, i], narrow.dtype, sizes[i])
        for i, codes in enumerate(view_codes(part, slots.positions.shape[1]) for part in slots[:2])
    )
    unmarked = torch.zeros_like(positions, dtype=torch.bool)
    survivors = Tokens(keys, values, positions, unmarked, ~unmarked)
    return load_head(exact, ring, None, sizes).join(survivors)
