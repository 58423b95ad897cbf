"""What dense and sparse memory have in common: one pool of pages, open sequences, counters.

Knows nothing of what is stored when, or for how long. A head's pages stand in this order:
    [0, ring_columns)          the window's; written to at every step
    [ring_columns, num_held)   survivors, in order of position; only the last one is written to
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snello.cache.layout import Layout, arrange
from snello.cache.memory import Step
from snello.cache.meters import Meters
from snello.cache.promise import Promise
from snello.cache.roster import Roster
from snello.cache.store import EMPTY, PageStore
from snello.cache.table import PageTable
from snello.config.engine import SurvivorFormat
from snello.config.model import CacheShape
from snello.ops.narrow import INT4
from snello.ops.native import Backend, choose_backend, explain_refusal


@runtime_checkable
class PagedStep(Step, Protocol):
    """A step in pages: which rows it has, and what it may take from the pool."""

    @property
    def layout(self) -> Layout:
        """Which rows belong together."""

    @property
    def promise(self) -> Promise:
        """What was promised, and who broke its bounds."""


class PagedMemory:
    """Sequences whose heads hold pages of one pool; a page belongs to one head of one layer.

    A step that was begun must be committed, or all its sequences released. Give either `num_pages`
    or `budget_bytes`. `backend` is the fastest there is unless it is named; see `ops.native`.

    Invariant, see `check`: a page is listed by as many sequences as the pool counts holders, by
    none of them twice, and a page that a step may write to is listed once.
    """

    can_cut = False
    """Whether a fork may go on from any earlier point of a sequence."""

    can_move = True
    """Whether slots, positions and marks are all that there is to a sequence; see `cache.state`."""

    def __init__(  # noqa: PLR0913  (the pool's, and what runs on it)
        self,
        shapes: Sequence[CacheShape],
        *,
        max_sequences: int,
        num_pages: int | None = None,
        budget_bytes: int | None = None,
        page_tokens: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
        survivors: torch.dtype | None = None,
    ) -> None:
        self.shapes = tuple(shapes)
        self.device = torch.device(device)
        self.backend = _decide(backend, self.device, dtype, self.shapes, survivors)
        self.store = PageStore(
            self.shapes,
            num_pages=num_pages,
            budget_bytes=budget_bytes,
            page_tokens=page_tokens,
            dtype=dtype,
            device=self.device,
            survivors=survivors,
        )
        num_heads = [shape.num_heads for shape in self.shapes]
        self.table = PageTable(num_heads, max_sequences, self.store.blank, self.device)
        self.meters = Meters(sum(num_heads), max_sequences, self.device)
        self.ring_columns: Int[Tensor, "L 1"] = self.table.num_held.new_zeros(len(num_heads), 1)
        self._roster = Roster(max_sequences)

    @property
    def survivor_format(self) -> SurvivorFormat:
        """How survivors are stored, by the name that users give it."""
        formats: dict[torch.dtype | None, SurvivorFormat]
        formats = {None: "same", torch.int8: "int8", torch.float8_e4m3fn: "fp8", INT4: "int4"}
        return formats[self.store.survivors]

    @property
    def num_bytes_in_use(self) -> int:
        """Bytes of all pages that are taken."""
        return self.store.num_bytes_in_use

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were in use after any step."""
        return self.meters.peak_bytes

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """What is replaced when memory moves: who recorded addresses compares it by identity."""
        return self.table.pages, self.store.keys

    def kv_reads(self, sequence: int) -> float:
        """Tokens read so far by a sequence; see `Meters`."""
        return self.meters.kv_reads(sequence)

    def peak_live_tokens(self, sequence: int) -> float:
        """Most tokens stored for a sequence after any step; see `Meters`."""
        return self.meters.peak_live_tokens(sequence)

    def peak_sequence_bytes(self, sequence: int) -> int:
        """Bytes of the most pages that a sequence held after any step; see `Meters`."""
        return self.meters.peak_pages(sequence) * self.store.bytes_per_page

    def add(self) -> int:
        """Open an empty sequence and return its handle."""
        sequence = self._roster.open()
        self.meters.clear(sequence)
        return sequence

    def begin(
        self, sequences: Sequence[int], counts: Sequence[int], *, kept: np.ndarray | None = None
    ) -> "PagedStep":
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`.

        Args:
            sequences: Their handles.
            counts: Their new tokens.
            kept: The share of a prompt that each layer is expected to keep; None: all of it.

        Raises:
            OutOfPages: the pool cannot serve it; nothing has changed.
        """
        raise NotImplementedError

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        raise NotImplementedError

    def length(self, sequence: int) -> int:
        """How many tokens the sequence has been given so far, forgotten ones included."""
        return self._roster.length(sequence)

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        self._roster.close(sequence)
        self.store.give_back(self.table.clear(sequence))

    @property
    def num_unused_sequences(self) -> int:
        """How many more sequences may be open at the same time."""
        return self._roster.num_unused

    def require_unused_sequence(self) -> None:
        """Raise `ValueError` if no more sequences may be open."""
        self._roster.require_unused()

    def fork(self, sequence: int) -> int:
        """Open a sequence that goes on from where another one stands, and return its handle.

        Full survivor pages never change: they are shared. The window and the survivors' last page
        are copied at once, not at the first write: either sequence writes to them with its next
        token, and so no step has to ask who else holds a page. Between steps only.

        Raises:
            OutOfPages: no room for the copies; nothing has changed.
            ValueError: the sequence is not open, or no more may be.
        """
        num_tokens = self.length(sequence)
        return self._fork(sequence, num_tokens, self.count_survivors(sequence))

    def open_copy(
        self,
        num_tokens: int,
        survivors: Int[Tensor, "L K"],
        num_held: Int[Tensor, "L K"],
        pages: Int[Tensor, "L K M"],
    ) -> int:
        """Open a sequence on pages that are counted for it already, and return its handle.

        Raises:
            ValueError: no more sequences may be open.
        """
        sequence = self.add()
        self._roster.lengthen([sequence], [num_tokens])
        self.table.assign(sequence, num_held, pages)
        self._note_survivors(sequence, survivors)
        return sequence

    def count_ring(self, num_tokens: int) -> Int[Tensor, "L 1"]:
        """How many tokens the window of each layer holds after `num_tokens`."""
        raise NotImplementedError

    def count_survivors(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head holds in survivor pages; 0 for heads a layer does not have."""
        raise NotImplementedError

    def count_pages(self, sequences: Sequence[int]) -> tuple[int, list[int]]:
        """How many pages some sequences hold together, and how many each holds alone.

        Alone: the pages that its release would free.
        """
        pages = self.table.pages[:, list(sequences)]  # (L, B, K, M)
        holders = self.store.pool.num_holders
        is_held = torch.zeros(len(holders) + 2, dtype=torch.bool, device=self.device)
        is_held[pages.flatten()] = True
        is_held[self.store.blank] = False
        sole = torch.zeros_like(is_held)
        sole[: len(holders)] = holders == 1
        sole[self.store.blank] = False
        return int(is_held.sum()), sole[pages].sum((0, 2, 3)).tolist()

    def count_kept(self, sequences: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Sum, for each layer, how many tokens were kept behind the window, and how many could be.

        A memory without a window has none behind it.
        """
        raise NotImplementedError

    def expect_pages(self, num_tokens: Sequence[int], kept: np.ndarray) -> list[float]:
        """Estimate the pages of sequences of these lengths that keep `kept[l]` in layer l."""
        raise NotImplementedError

    def expect_shared_pages(self, num_tokens: int, kept: np.ndarray) -> float:
        """Estimate how many pages of such a sequence its forks share."""
        raise NotImplementedError

    def portrait(self, sequence: int) -> list[list[list[int]]]:
        """Tell the positions each head holds: `portrait(sequence)[layer][head]`, ascending."""
        stored = self.store.positions[self.table.pages[:, sequence]].flatten(2)  # (L, K, slots)
        return [
            [sorted(head[head < EMPTY].tolist()) for head in stored[layer, : shape.num_heads]]
            for layer, shape in enumerate(self.shapes)
        ]

    def num_live_tokens(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head of each layer holds now; 0 for heads a layer does not have."""
        raise NotImplementedError

    def extend(self, num_pages: int) -> None:
        """Make the pool larger by `num_pages`, between steps; nothing that is stored moves."""
        self.store.extend(num_pages)

    def check(self) -> None:
        """Raise if a page is lost or held wrongly; call it when idle, not in a step."""
        pool, blank = self.store.pool, self.store.blank
        pool.check()
        listed = self.table.pages[self.table.pages != blank]
        num_listed = torch.bincount(listed, minlength=len(pool.num_holders))
        num_listed[blank : blank + 2] = pool.num_holders[blank : blank + 2]
        if not torch.equal(num_listed, pool.num_holders.long()):
            raise RuntimeError(
                f"page accounting is broken: heads list {len(listed)} pages, "
                f"{len(torch.unique(listed))} of them different, but the pool gave out "
                f"{pool.num_held} to {int(pool.num_holders.sum())} holders."
            )
        for sequence in self._roster.open_sequences:
            self._check_sequence(sequence)

    def _check_sequence(self, sequence: int) -> None:
        pages = self.table.pages[:, sequence]
        num_held = self.table.num_held[:, sequence]
        is_own, is_shared = self._sort_columns(num_held, self.count_survivors(sequence))
        own, both = pages[is_own], pages[is_own | is_shared]
        if len(torch.unique(both)) < len(both) or bool(
            (self.store.pool.num_holders[own] > 1).any()
        ):
            raise RuntimeError(
                f"page accounting is broken: sequence {sequence} lists a page twice, or another "
                "one holds a page that it writes to."
            )

    def _fork(self, sequence: int, num_tokens: int, survivors: Int[Tensor, "L K"]) -> int:
        """Fork with fewer survivors, where the memory can still tell what the window was."""
        S = self.store.survivor_tokens
        needed = self.ring_columns + (survivors + S - 1) // S
        num_held = self.table.num_held[:, sequence].minimum(needed)
        is_own, is_shared = self._sort_columns(num_held, survivors)
        source = self.table.pages[:, sequence]
        self.store.pool.require(int(is_own.sum()))
        self.require_unused_sequence()
        pages = source.where(is_shared, self.store.blank)
        pages[is_own] = self.store.pool.take(int(is_own.sum()))
        self.store.pool.share(source[is_shared])
        self.store.copy_pages(source[is_own], pages[is_own])
        return self.open_copy(num_tokens, survivors, num_held, pages)

    def _sort_columns(
        self, num_held: Int[Tensor, "L K"], survivors: Int[Tensor, "L K"]
    ) -> tuple[Bool[Tensor, "L K M"], Bool[Tensor, "L K M"]]:
        """Tell which of the first `num_held` pages are written to, and which are full for good."""
        columns = torch.arange(self.table.pages.shape[-1], device=self.device)
        first = self.ring_columns[..., None]
        is_held = columns < num_held[..., None]
        full = first + (survivors // self.store.survivor_tokens)[..., None]
        is_shared = is_held & (columns >= first) & (columns < full)
        return is_held & ~is_shared, is_shared

    def _note_survivors(self, sequence: int, survivors: Int[Tensor, "L K"]) -> None:
        """Take over the count for a sequence that has just been opened."""
        raise NotImplementedError

    def _arrange(self, sequences: Sequence[int], counts: Sequence[int]) -> Layout:
        starts = [self._roster.length(sequence) for sequence in sequences]
        return arrange(sequences, starts, counts, self.device)

    def _grow(self, layout: Layout, filled: Int[Tensor, "L B"], num_spare: int) -> None:
        """Let every head hold at least `filled` pages, if `num_spare` would still be free."""
        num_held = self.table.num_held[:, layout.sequences]
        num_new = (filled[..., None] - num_held).clamp_min(0) * self.table.exists
        wanted = int(num_new.sum())
        self.store.pool.require(wanted + num_spare)
        if wanted:
            self.table.append_each(layout.sequences, num_new, self.store.pool.take(wanted))

    def _finish(self, layout: Layout, num_live: Int[Tensor, " B"]) -> None:
        """Note that a step is done, and how many tokens each sequence holds in all its heads."""
        self._roster.lengthen(layout.sequences.tolist(), layout.counts.tolist())
        self.meters.count_live(layout.sequences, num_live, self.num_bytes_in_use)
        num_pages = self.table.num_held[:, layout.sequences].sum((0, 2))
        self.meters.count_pages(layout.sequences, num_pages)


def _decide(
    wanted: Backend | None,
    device: torch.device,
    dtype: torch.dtype,
    shapes: Sequence[CacheShape],
    survivors: torch.dtype | None,
) -> Backend:
    """The backend that was asked for, or else the fastest, if it serves such pages."""
    backend = wanted or choose_backend(device)
    widest = max(shape.key_size for shape in shapes)
    refusal = explain_refusal(backend, device, dtype, widest, survivors)
    if refusal is None:
        return backend
    if wanted is not None:
        raise ValueError(
            f"backend {backend!r} was asked for, but {refusal}. Leave the backend out, or choose "
            "'reference'."
        )
    return "reference"
