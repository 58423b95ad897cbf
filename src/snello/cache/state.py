"""What a sequence is made of, copied out of its pages and put into others, byte by byte.

Knows nothing of files or of who wants it. Only live tokens are copied: what was forgotten, and
slots that were never filled, take no room.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.paged import PagedMemory
from snello.cache.store import MARK_BYTES, POSITION_BYTES, measure_scales
from snello.ops.narrow import count_bytes


class Codes(NamedTuple):
    """Survivors that are stored narrow: their bytes, their scales and where they stood."""

    keys: Int[Tensor, "X C"]
    values: Int[Tensor, "X B"]
    scales: Float[Tensor, "X 2"]
    positions: Int[Tensor, " X"]


@dataclass(frozen=True, slots=True)
class SequenceState:
    """The live tokens of one sequence, by layer, head, page and slot, windows before survivors.

    Invariant: head k of layer l has `count_ring(num_tokens)[l] + survivors[l, k]` of the N tokens;
    where survivors are narrow, the N tokens are the windows', and the X of `codes` are survivors.
    """

    num_tokens: int
    """How many tokens the sequence was given, forgotten ones included."""

    survivors: Int[Tensor, "L K"]
    keys: Float[Tensor, "N D"]
    values: Float[Tensor, "N E"]
    positions: Int[Tensor, " N"]
    evict: Bool[Tensor, " N"]
    codes: Codes | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the live tokens, marks that nobody has left out."""
        tensors = (self.keys, self.values, self.positions, self.evict, *(self.codes or ()))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_state(memory: PagedMemory, sequence: int) -> int:
    """Return the bytes that `copy_out` would take."""
    store = memory.store
    widths = store.keys.shape[-1], store.values.shape[-1]
    ring = memory.count_ring(memory.length(sequence)) * memory.table.exists[:, 0]
    exact, behind = int(ring.sum()), int(memory.count_survivors(sequence).sum())
    exact_bytes = sum(widths) * store.dtype.itemsize + POSITION_BYTES + MARK_BYTES
    if store.survivors is None:
        return (exact + behind) * exact_bytes
    codes = sum(count_bytes(width, store.survivors) for width in widths)
    narrow_bytes = codes + measure_scales(store.survivors) + POSITION_BYTES
    return exact * exact_bytes + behind * narrow_bytes


def copy_out(memory: PagedMemory, sequence: int) -> SequenceState:
    """Copy a sequence to tensors of its own, in the host's memory; the sequence stays as it is."""
    store = memory.store
    survivors = memory.count_survivors(sequence)
    pages = memory.table.pages[:, sequence]
    slots, narrow_slots = _find_slots(memory, memory.length(sequence), survivors, pages)
    return SequenceState(
        num_tokens=memory.length(sequence),
        survivors=survivors.cpu(),
        keys=store.keys.flatten(0, 1)[slots].cpu(),
        values=store.values.flatten(0, 1)[slots].cpu(),
        positions=store.positions_of(slots).cpu(),
        evict=store.marks(slots).cpu(),
        codes=None if narrow_slots is None else _copy_codes(memory, narrow_slots),
    )


def put_in(memory: PagedMemory, state: SequenceState) -> int:
    """Open a sequence that goes on where the copied one stood, and return its handle.

    Every token gets the place among its head's slots that it had, so that what is computed from
    then on is the same bit for bit. Nothing is shared with anybody.

    Raises:
        OutOfPages: no room; nothing has changed.
        ValueError: no more sequences may be open.
    """
    store, device = memory.store, memory.device
    survivors = state.survivors.to(device)
    num_held = _count_pages(memory, state.num_tokens, survivors)
    store.pool.require(int(num_held.sum()))
    memory.require_unused_sequence()
    columns = torch.arange(int(num_held.max()), device=device)
    is_held = columns < num_held[..., None]
    pages = torch.full(is_held.shape, store.blank, dtype=torch.int64, device=device)
    pages[is_held] = store.pool.take(int(num_held.sum()))
    sequence = memory.open_copy(state.num_tokens, survivors, num_held, pages)
    slots, narrow_slots = _find_slots(memory, state.num_tokens, survivors, pages)
    tensors = (state.keys, state.values, state.positions, state.evict)
    store.write(slots, *(tensor.to(device) for tensor in tensors))
    if narrow_slots is not None:
        assert state.codes is not None, "a state of exact survivors was put among narrow ones"
        store.write_codes(narrow_slots, *(tensor.to(device) for tensor in state.codes))
    return sequence


def _copy_codes(memory: PagedMemory, slots: Int[Tensor, " X"]) -> Codes:
    positions = memory.store.positions.view(-1)[slots]
    return Codes(*(part.cpu() for part in (*memory.store.read_codes(slots), positions)))


def _count_pages(
    memory: PagedMemory, num_tokens: int, survivors: Int[Tensor, "L K"]
) -> Int[Tensor, "L K"]:
    """How many pages each head holds: those of its window, then those of its survivors."""
    S, V = memory.store.page_tokens, memory.store.survivor_tokens
    ring = (memory.count_ring(num_tokens) + S - 1) // S
    return (ring + (survivors + V - 1) // V) * memory.table.exists[:, 0]


def _find_slots(
    memory: PagedMemory,
    num_tokens: int,
    survivors: Int[Tensor, "L K"],
    pages: Int[Tensor, "L K M"],
) -> tuple[Int[Tensor, " N"], Int[Tensor, " X"] | None]:
    """List the slots that hold live tokens, by layer, head, page and place in the page.

    Returns:
        The slots of all tokens, or those of the windows and those of narrow survivors.
    """
    store, first = memory.store, memory.ring_columns
    in_window = memory.count_ring(num_tokens) * memory.table.exists[:, 0]
    window = _list_slots(pages, torch.zeros_like(first), in_window, store.page_tokens)
    behind = _list_slots(pages, first, survivors, store.survivor_tokens)
    if store.survivors is not None:
        return window[window >= 0], behind[behind >= 0]
    slots = torch.cat([window, behind], dim=-1)
    return slots[slots >= 0], None


def _list_slots(
    pages: Int[Tensor, "L K M"],
    first_columns: Int[Tensor, "L 1"],
    counts: Int[Tensor, "L K"],
    slots_per_page: int,
) -> Int[Tensor, "L K X"]:
    """The first slots of each head from a column on, padded with -1."""
    place = torch.arange(int(counts.max()), device=pages.device)
    columns = first_columns[..., None] + place // slots_per_page
    columns = columns.expand(*counts.shape, -1).clamp_max(pages.shape[-1] - 1)
    slots = pages.gather(-1, columns) * slots_per_page + place % slots_per_page
    return slots.where(place < counts[..., None], -1)
