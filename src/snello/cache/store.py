"""Tensors of pages: what is written in each slot. Knows nothing of who owns a page or why.

A slot holds the key and the value of one token of one head, the token's position, and whether it is
marked for eviction. Keys come after RoPE, so slots may be in any order. A page of survivors may
hold a byte or half a byte a number, in more slots; the bytes of a page are the same.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from snello.cache.pages import PagePool
from snello.config.model import CacheShape
from snello.ops.huge import allocate_zeros
from snello.ops.narrow import BITS, SCALES, narrow, widen
from snello.ops.pages import Narrow, Slots, count_survivor_slots, view_codes

EMPTY = 2**30
"""The position of a slot without a token: ahead of every query, so that no rule ever shows it."""


POSITION_BYTES, MARK_BYTES = 4, 1


def measure_page(
    shapes: Sequence[CacheShape],
    page_tokens: int,
    dtype: torch.dtype,
    survivors: torch.dtype | None = None,
) -> int:
    """Return the bytes of one page: its numbers, and what is noted beside them for each slot."""
    numbers = page_tokens * (sum(_widths(shapes, survivors)) * dtype.itemsize + MARK_BYTES)
    num_slots = count_survivor_slots(page_tokens, dtype, survivors)
    return numbers + num_slots * (POSITION_BYTES + measure_scales(survivors))


def measure_scales(survivors: torch.dtype | None) -> int:
    """Return the bytes of the scales of one survivor: of its key and of its value."""
    return 0 if survivors is None else 2 * SCALES[survivors].itemsize


def _widths(shapes: Sequence[CacheShape], survivors: torch.dtype | None) -> tuple[int, int]:
    """How wide the widest key is, and the widest value that is not part of its key.

    Both even where two numbers share a byte.
    """
    values = [0 if shape.value_in_key else shape.value_size for shape in shapes]
    per_byte = 1 if survivors is None else 8 // BITS[survivors]
    key, value = max(shape.key_size for shape in shapes), max(values)
    return key + -key % per_byte, value + -value % per_byte


class PageStore:
    """One pool of pages and their contents.

    Invariant: every slot of a free page, and of the page `blank`, holds zeros at position EMPTY.
    Tables may therefore be padded with `blank`. What is written to the page `trash` is never read.

    A slot is named page * page_tokens + offset, one of a survivor page * survivor_tokens + offset.
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
        survivors: torch.dtype | None = None,
    ) -> None:
        key_width, value_width = _widths(shapes, survivors)
        self.page_tokens, self.dtype, self.survivors = page_tokens, dtype, survivors
        self.survivor_tokens = count_survivor_slots(page_tokens, dtype, survivors)
        self.bytes_per_page = measure_page(shapes, page_tokens, dtype, survivors)
        self.bytes_per_token = measure_page(shapes, page_tokens, dtype) / page_tokens
        self.bytes_per_survivor = self.bytes_per_page / self.survivor_tokens
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
        places = (num_pages + 2, self.survivor_tokens)
        self.positions = torch.full(places, EMPTY, dtype=torch.int32, device=device)
        self.evict = torch.zeros(slots, dtype=torch.bool, device=device)
        num_scales = 0 if survivors is None else self.survivor_tokens
        kind = torch.float32 if survivors is None else SCALES[survivors]
        self.scales = torch.zeros(num_pages + 2, num_scales, 2, dtype=kind, device=device)
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

    def show_narrow(self, ring_pages: int) -> Narrow | None:
        """What operators are told if survivors are narrow: pages behind `ring_pages` are theirs."""
        if self.survivors is None:
            return None
        return Narrow(self.scales, self.survivors, ring_pages)

    @torch.inference_mode(mode=False)
    def extend(self, num_pages: int) -> None:
        """Make the pool larger; pages keep their numbers, and `blank` and `trash` theirs."""
        first_page = self.positions.shape[0]
        slots = (num_pages, self.page_tokens)
        self.keys = torch.cat([self.keys, self.keys.new_zeros(*slots, self.keys.shape[-1])])
        self.values = torch.cat([self.values, self.values.new_zeros(*slots, self.values.shape[-1])])
        places = (num_pages, self.survivor_tokens)
        self.positions = torch.cat([self.positions, self.positions.new_full(places, EMPTY)])
        self.evict = torch.cat([self.evict, self.evict.new_zeros(slots)])
        more_scales = self.scales.new_zeros(num_pages, *self.scales.shape[1:])
        self.scales = torch.cat([self.scales, more_scales])
        self.pool.extend(first_page, num_pages)

    def write(
        self,
        slots: Int[Tensor, "*shape"],
        keys: Float[Tensor, "*shape D"],
        values: Float[Tensor, "*shape E"],
        positions: Int[Tensor, "*shape"],
        evict: Bool[Tensor, "*shape"],
    ) -> None:
        """Put tokens, with their marks, into slots that are not survivors'."""
        _put(self.keys, slots, keys)
        _put(self.values, slots, values)
        self.positions.view(-1)[self._place(slots)] = positions.to(torch.int32)
        self.evict.view(-1)[slots] = evict

    def mark(self, slots: Int[Tensor, "*shape"], evict: Bool[Tensor, "*shape"]) -> None:
        """Note what was decided about the tokens in `slots`."""
        self.evict.view(-1)[slots] = evict

    def marks(self, slots: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Tell what was decided about the tokens in `slots`."""
        return self.evict.view(-1)[slots]

    def positions_of(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Tell the positions of the tokens in `slots`."""
        return self.positions.view(-1)[self._place(slots)]

    def retire(
        self, sources: Int[Tensor, " N"], targets: Int[Tensor, " N"], sizes: tuple[int, int]
    ) -> None:
        """Copy tokens of a layer's `sizes` from slots to survivors' slots, unmarked."""
        keys = self.keys.flatten(0, 1)[sources, : sizes[0]]
        values = self.values.flatten(0, 1)[sources, : sizes[1]]
        self.write_survivors(targets, keys, values, self.positions_of(sources))

    def write_survivors(
        self,
        slots: Int[Tensor, " N"],
        keys: Float[Tensor, "N D"],
        values: Float[Tensor, "N E"],
        positions: Int[Tensor, " N"],
    ) -> None:
        """Put unmarked tokens into survivors' slots, rounded once if survivors are narrow."""
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        if self.survivors is None:
            unmarked = torch.zeros_like(positions, dtype=torch.bool)
            self.write(slots, keys, values, positions, unmarked)
            return
        key_codes, key_scales = narrow(keys, self.survivors)
        value_codes, value_scales = narrow(values, self.survivors)
        scales = torch.stack([key_scales, value_scales], dim=-1)
        self.write_codes(slots, key_codes, value_codes, scales, positions)

    def write_codes(
        self,
        slots: Int[Tensor, " N"],
        keys: Int[Tensor, "N C"],
        values: Int[Tensor, "N B"],
        scales: Float[Tensor, "N 2"],
        positions: Int[Tensor, " N"],
    ) -> None:
        """Put tokens that are rounded already into survivors' slots."""
        for codes, rows in zip(self._codes, (keys, values), strict=True):
            _put(codes, slots, rows)
        self.scales.view(-1, 2)[slots] = scales
        self.positions.view(-1)[slots] = positions.to(torch.int32)

    def read_codes(
        self, slots: Int[Tensor, " N"]
    ) -> tuple[Int[Tensor, "N C"], Int[Tensor, "N B"], Float[Tensor, "N 2"]]:
        """Read rounded keys, rounded values and their scales from survivors' slots."""
        keys, values = (codes.flatten(0, 1)[slots] for codes in self._codes)
        return keys, values, self.scales.view(-1, 2)[slots]

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

    def gather_survivors(
        self, pages: Int[Tensor, "R M"], sizes: tuple[int, int]
    ) -> tuple[Float[Tensor, "R N D"], Float[Tensor, "R N E"]]:
        """Read what the keys and values of whole narrow pages stand for, of a layer's `sizes`."""
        assert self.survivors is not None
        scales = self.scales[pages].flatten(1, 2)  # (R, N, 2)
        codes = [part[pages].flatten(1, 2) for part in self._codes]
        keys, values = (
            widen(part, scales[..., i], self.survivors, sizes[i]) for i, part in enumerate(codes)
        )
        return keys, values

    def give_back(self, pages: Int[Tensor, " N"]) -> None:
        """Return pages to the pool, and blank those that nobody else holds."""
        freed = self.pool.give_back(pages)
        self.keys[freed] = 0
        self.values[freed] = 0
        self.positions[freed] = EMPTY
        self.evict[freed] = False
        self.scales[freed] = 0

    def copy_pages(self, sources: Int[Tensor, " N"], targets: Int[Tensor, " N"]) -> None:
        """Copy whole pages, marks included."""
        self.keys[targets] = self.keys[sources]
        self.values[targets] = self.values[sources]
        self.positions[targets] = self.positions[sources]
        self.evict[targets] = self.evict[sources]
        self.scales[targets] = self.scales[sources]

    def blank_slots(self, slots: Int[Tensor, " N"]) -> None:
        """Make slots of held pages as empty as those of a free page."""
        self.keys.flatten(0, 1)[slots] = 0
        self.values.flatten(0, 1)[slots] = 0
        self.positions.view(-1)[self._place(slots)] = EMPTY
        self.evict.view(-1)[slots] = False

    @property
    def _codes(self) -> tuple[Int[Tensor, "P V C"], Int[Tensor, "P V B"]]:
        """The bytes of all keys and of all values, as rows of survivors."""
        num_slots = self.survivor_tokens
        return view_codes(self.keys, num_slots), view_codes(self.values, num_slots)

    def _place(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Where the positions of slots stand that are not survivors'."""
        S, V = self.page_tokens, self.survivor_tokens
        return slots if S == V else slots // S * V + slots % S

    @torch.inference_mode(mode=False)  # or these buffers could not be used outside of it
    def _widen_scratch(self, num_slots: int) -> None:
        self._key_scratch = self.keys.new_zeros(num_slots, self.keys.shape[-1])
        self._value_scratch = self.values.new_zeros(num_slots, self.values.shape[-1])


def _put(
    store: Num[Tensor, "P S W"], slots: Int[Tensor, "*shape"], numbers: Num[Tensor, "*shape X"]
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
