"""What a sequence is made of, copied out of its pages and put into others.

Knows nothing of files or of who wants it. Only live tokens are copied: what was forgotten, and
slots that were never filled, take no room.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.paged import PagedMemory


@dataclass(frozen=True, slots=True)
class SequenceState:
    """The live tokens of one sequence, by layer, head, page and slot, windows before survivors.

    Invariant: head k of layer l has `count_ring(num_tokens)[l] + survivors[l, k]` of the N tokens.
    """

    num_tokens: int
    """How many tokens the sequence was given, forgotten ones included."""

    survivors: Int[Tensor, "L K"]
    keys: Float[Tensor, "N D"]
    values: Float[Tensor, "N E"]
    positions: Int[Tensor, " N"]
    evict: Bool[Tensor, " N"]

    @property
    def num_bytes(self) -> int:
        """Bytes of the live tokens."""
        tensors = (self.keys, self.values, self.positions, self.evict)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_state(memory: PagedMemory, sequence: int) -> int:
    """Return the bytes that `copy_out` would take."""
    store = memory.store
    per_token = store.bytes_per_page // store.page_tokens
    ring = memory.count_ring(memory.length(sequence)) * memory.table.exists[:, 0]
    return int((ring + memory.count_survivors(sequence)).sum()) * per_token


def copy_out(memory: PagedMemory, sequence: int) -> SequenceState:
    """Copy a sequence to tensors of its own, in the host's memory; the sequence stays as it is."""
    store = memory.store
    survivors = memory.count_survivors(sequence)
    slots = _find_slots(memory, memory.length(sequence), survivors, memory.table.pages[:, sequence])
    return SequenceState(
        num_tokens=memory.length(sequence),
        survivors=survivors.cpu(),
        keys=store.keys.flatten(0, 1)[slots].cpu(),
        values=store.values.flatten(0, 1)[slots].cpu(),
        positions=store.positions.view(-1)[slots].cpu(),
        evict=store.evict.view(-1)[slots].cpu(),
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
    slots = _find_slots(memory, state.num_tokens, survivors, pages)
    tensors = (state.keys, state.values, state.positions, state.evict)
    store.write(slots, *(tensor.to(device) for tensor in tensors))
    return sequence


def _count_pages(
    memory: PagedMemory, num_tokens: int, survivors: Int[Tensor, "L K"]
) -> Int[Tensor, "L K"]:
    """How many pages each head holds: those of its window, then those of its survivors."""
    S = memory.store.page_tokens
    ring = (memory.count_ring(num_tokens) + S - 1) // S
    return (ring + (survivors + S - 1) // S) * memory.table.exists[:, 0]


def _find_slots(
    memory: PagedMemory,
    num_tokens: int,
    survivors: Int[Tensor, "L K"],
    pages: Int[Tensor, "L K M"],
) -> Int[Tensor, " N"]:
    """List the slots that hold live tokens, by layer, head, page and place in the page."""
    S = memory.store.page_tokens
    place = torch.arange(pages.shape[-1] * S, device=pages.device)
    first = memory.ring_columns * S
    in_ring = place < (memory.count_ring(num_tokens) * memory.table.exists[:, 0])[..., None]
    behind = place - first[..., None]
    is_survivor = (behind >= 0) & (behind < survivors[..., None])
    slots = pages[..., place // S] * S + place % S
    return slots[in_ring | is_survivor]
