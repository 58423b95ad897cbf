"""Tensors of pages: what is written in each slot. Knows nothing of who owns a page or why.

A slot holds the key and the value of one token of one head, the token's position, and whether it is
marked for eviction. Keys come after RoPE, so slots may be in any order.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.pages import PagePool
from snello.config.model import CacheShape
from snello.ops.huge import allocate_zeros
from snello.ops.pages import Slots

EMPTY = 2**30
"""The position of a slot without a token: ahead of every query, so that no rule ever shows it."""


def measure_page(shapes: Sequence[CacheShape], page_tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of one page: the numbers of its slots, with a position and a mark each."""
    width = sum(_widths(shapes))
    return page_tokens * (width * dtype.itemsize + 5)  # position and mark: 4 + 1


def _widths(shapes: Sequence[CacheShape]) -> tuple[int, int]:
    """How wide the widest key is, and the widest value that is not part of its key."""
    values = [0 if shape.value_in_key else shape.value_size for shape in shapes]
    return max(shape.key_size for shape in shapes), max(values)


class PageStore:
    """One pool of pages and their contents.

    Invariant: every slot of a free page, and of the page `blank`, holds zeros at position EMPTY.
    Tables may therefore be padded with `blank`. What is written to the page `trash` is never read.
    """

    def __init__(
        self,
        shapes: Sequence[CacheShape],
        *,
        num_pages: int | None,
        budget_bytes: int | None,
        page_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        key_width, value_width = _widths(shapes)
        self.page_tokens = page_tokens
        self.bytes_per_page = measure_page(shapes, page_tokens, dtype)
        if (num_pages is None) == (budget_bytes is None):
            raise ValueError(
                f"num_pages is {num_pages} and budget_bytes is {budget_bytes}; give exactly one."
            )
        if num_pages is None:
            num_pages = (budget_bytes or 0) // self.bytes_per_page
        self.pool = PagePool(num_pages, device)
        self.blank, self.trash = num_pages, num_pages + 1
        slots = (num_pages + 2, page_tokens)
        self.keys = allocate_zeros((*slots, key_width), dtype, device)
        self.values = allocate_zeros((*slots, value_width), dtype, device)
        self.positions = torch.full(slots, EMPTY, dtype=torch.int32, device=device)
        self.evict = torch.zeros(slots, dtype=torch.bool, device=device)
        self.tile_bytes = 2**23 if device.type == "cpu" else 2**28
        self._key_scratch = self.keys.new_zeros(0, key_width)
        self._value_scratch = self.values.new_zeros(0, value_width)

    @property
    def num_bytes_in_use(self) -> int:
        """Bytes of the pages that are taken, whether or not all their slots are filled."""
        return self.pool.num_held * self.bytes_per_page

    @property
    def slots(self) -> Slots:
        """The tensors of all pages, as operators want them; `extend` replaces them."""
        return Slots(self.keys, self.values, self.positions, self.evict)

    @torch.inference_mode(mode=False)
    def extend(self, num_pages: int) -> None:
        """Make the pool larger; pages keep their numbers, and `blank` and `trash` theirs."""
        first_page = self.positions.shape[0]
        slots = (num_pages, self.page_tokens)
        self.keys = torch.cat([self.keys, self.keys.new_zeros(*slots, self.keys.shape[-1])])
        self.values = torch.cat([self.values, self.values.new_zeros(*slots, self.values.shape[-1])])
        self.positions = torch.cat([self.positions, self.positions.new_full(slots, EMPTY)])
        self.evict = torch.cat([self.evict, self.evict.new_zeros(slots)])
        self.pool.extend(first_page, num_pages)

    def write(
        self,
        slots: Int[Tensor, "*shape"],
        keys: Float[Tensor, "*shape D"],
        values: Float[Tensor, "*shape E"],
        positions: Int[Tensor, "*shape"],
        evict: Bool[Tensor, "*shape"],
    ) -> None:
        """Put tokens, with their marks, into slots (page * page_tokens + offset)."""
        _put(self.keys, slots, keys)
        _put(self.values, slots, values)
        self.positions.view(-1)[slots] = positions.to(torch.int32)
        self.evict.view(-1)[slots] = evict

    def mark(self, slots: Int[Tensor, "*shape"], evict: Bool[Tensor, "*shape"]) -> None:
        """Note what was decided about the tokens in `slots`."""
        self.evict.view(-1)[slots] = evict

    def copy(self, sources: Int[Tensor, " N"], targets: Int[Tensor, " N"]) -> None:
        """Copy tokens from slot to slot; the copies are unmarked."""
        _put(self.keys, targets, self.keys.flatten(0, 1)[sources])
        _put(self.values, targets, self.values.flatten(0, 1)[sources])
        self.positions.view(-1)[targets] = self.positions.view(-1)[sources]
        self.evict.view(-1)[targets] = False

    def gather(
        self, pages: Int[Tensor, "R M"]
    ) -> tuple[Float[Tensor, "R N D"], Float[Tensor, "R N E"]]:
        """Read the keys and values of whole pages, one after the other, for each of R rows.

        The results lie in buffers that the next call overwrites.
        """
        num_slots = pages.numel() * self.page_tokens
        if num_slots > self._key_scratch.shape[0]:
            self._widen_scratch(num_slots)
        keys = _take(self.keys, pages, self._key_scratch[:num_slots])
        return keys, _take(self.values, pages, self._value_scratch[:num_slots])

    def give_back(self, pages: Int[Tensor, " N"]) -> None:
        """Return pages to the pool, and blank those that nobody else holds."""
        freed = self.pool.give_back(pages)
        self.keys[freed] = 0
        self.values[freed] = 0
        self.positions[freed] = EMPTY
        self.evict[freed] = False

    def copy_pages(self, sources: Int[Tensor, " N"], targets: Int[Tensor, " N"]) -> None:
        """Copy whole pages, marks included."""
        self.keys[targets] = self.keys[sources]
        self.values[targets] = self.values[sources]
        self.positions[targets] = self.positions[sources]
        self.evict[targets] = self.evict[sources]

    def blank_slots(self, slots: Int[Tensor, " N"]) -> None:
        """Make slots of held pages as empty as those of a free page."""
        self.keys.flatten(0, 1)[slots] = 0
        self.values.flatten(0, 1)[slots] = 0
        self.positions.view(-1)[slots] = EMPTY
        self.evict.view(-1)[slots] = False

    @torch.inference_mode(mode=False)  # or these buffers could not be used outside of it
    def _widen_scratch(self, num_slots: int) -> None:
        self._key_scratch = self.keys.new_zeros(num_slots, self.keys.shape[-1])
        self._value_scratch = self.values.new_zeros(num_slots, self.values.shape[-1])


def _put(
    store: Float[Tensor, "P S W"], slots: Int[Tensor, "*shape"], numbers: Float[Tensor, "*shape X"]
) -> None:
    """Write numbers to slots, of which they may fill only the first part."""
    store.flatten(0, 1)[slots, : numbers.shape[-1]] = numbers.to(store.dtype)


def _take(
    store: Float[Tensor, "P S W"], pages: Int[Tensor, "R M"], out: Float[Tensor, "N W"]
) -> Float[Tensor, "R _ W"]:
    """Read whole pages into `out`."""
    whole = store.flatten(1)
    torch.index_select(whole, 0, pages.flatten(), out=out.view(pages.numel(), whole.shape[1]))
    return out.view(len(pages), pages.shape[1] * store.shape[1], store.shape[2])
