"""How pages are shown to the operators that read and write them. Knows nothing of who owns them.

Dims: P pages of S slots, N sequences that may be open, B that are worked on, K key-value heads,
M pages listed for each, V slots of a page of survivors. V is S unless survivors are narrow.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.ops.narrow import widen


def count_survivor_slots(
    page_tokens: int, dtype: torch.dtype, survivors: torch.dtype | None
) -> int:
    """How many slots the bytes of a page make where survivors are stored as `survivors`."""
    return page_tokens if survivors is None else page_tokens * dtype.itemsize // survivors.itemsize


class Slots(NamedTuple):
    """The contents of a page store, of which a layer may fill only the first part of each row.

    Slots without a token have a position that is ahead of every query. Of a page that is not one of
    survivors, only the first S positions and marks are in use.
    """

    keys: Float[Tensor, "P S D"]
    values: Float[Tensor, "P S E"]
    positions: Int[Tensor, "P V"]
    evict: Bool[Tensor, "P V"]


class Narrow(NamedTuple):
    """What makes survivors of bytes: a format, and a scale for each key and each value.

    The first `ring_pages` pages of each head are as in `Slots`; those behind hold one byte a
    number in the same tensors, see `view_codes`.
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


def view_codes(stored: Float[Tensor, "P S D"]) -> Int[Tensor, "P V D"]:
    """Show the bytes of pages as pages of survivors, one byte a number."""
    num_pages, page_tokens, size = stored.shape
    num_slots = count_survivor_slots(page_tokens, stored.dtype, torch.int8)
    return stored.view(torch.int8).view(num_pages, num_slots, size)


def load_head(slots: Slots, pages: Int[Tensor, " M"], narrow: Narrow | None) -> Tokens:
    """Bring the tokens of one head's pages together, empty slots included."""
    if narrow is None:
        keys, values, positions, evict = (part[pages].flatten(0, 1) for part in slots)
        return Tokens(keys, values, positions, evict, torch.zeros_like(evict))
    S, ring, tail = slots.keys.shape[1], pages[: narrow.ring_pages], pages[narrow.ring_pages :]
    exact = Slots(*(part[ring][:, :S] for part in slots))
    scales = narrow.scales[tail].flatten(0, 1)
    keys, values = (
        widen(view_codes(part)[tail].flatten(0, 1), scales[:, i], narrow.dtype)
        for i, part in enumerate(slots[:2])
    )
    marks = slots.evict[tail].flatten()
    survivors = Tokens(keys, values, slots.positions[tail].flatten(), marks, torch.ones_like(marks))
    return load_head(exact, torch.arange(len(ring), device=ring.device), None).join(survivors)
