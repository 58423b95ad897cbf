"""What dense and sparse memory have in common: one pool of pages, open sequences, counters.

Knows nothing of what is stored when, or for how long.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from snello.cache.layout import Layout, arrange
from snello.cache.meters import Meters
from snello.cache.roster import Roster
from snello.cache.store import PageStore
from snello.cache.table import PageTable
from snello.config.model import CacheShape
from snello.ops.native import Backend, choose_backend, explain_refusal


class PagedMemory:
    """Sequences whose heads hold pages of one pool; a page belongs to one head of one layer.

    A step that was begun must be committed, or all its sequences released. Give either `num_pages`
    or `budget_bytes`. `backend` is the fastest there is unless it is named; see `ops.native`.
    """

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
    ) -> None:
        self.shapes = tuple(shapes)
        self.device = torch.device(device)
        self.backend = _decide(backend, self.device, dtype, self.shapes)
        self.store = PageStore(
            self.shapes,
            num_pages=num_pages,
            budget_bytes=budget_bytes,
            page_tokens=page_tokens,
            dtype=dtype,
            device=self.device,
        )
        num_heads = [shape.num_heads for shape in self.shapes]
        self.table = PageTable(num_heads, max_sequences, self.store.blank, self.device)
        self.meters = Meters(sum(num_heads), max_sequences, self.device)
        self._roster = Roster(max_sequences)

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

    def length(self, sequence: int) -> int:
        """How many tokens the sequence has been given so far, forgotten ones included."""
        return self._roster.length(sequence)

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        self._roster.close(sequence)
        self.store.give_back(self.table.clear(sequence))

    def extend(self, num_pages: int) -> None:
        """Make the pool larger by `num_pages`, between steps; nothing that is stored moves."""
        self.store.extend(num_pages)

    def check(self) -> None:
        """Raise if a page is lost or held twice; call it when idle, not in a step."""
        self.store.pool.check()
        listed = self.table.pages[self.table.pages != self.store.blank].tolist()
        if not len(set(listed)) == len(listed) == self.store.pool.num_held:
            raise RuntimeError(
                f"page accounting is broken: heads list {len(listed)} pages, {len(set(listed))} "
                f"of them different, but the pool gave out {self.store.pool.num_held}."
            )

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
    wanted: Backend | None, device: torch.device, dtype: torch.dtype, shapes: Sequence[CacheShape]
) -> Backend:
    """The backend that was asked for, or else the fastest, if it serves such pages."""
    backend = wanted or choose_backend(device)
    widest = max(shape.key_size for shape in shapes)
    refusal = explain_refusal(backend, device, dtype, widest)
    if refusal is None:
        return backend
    if wanted is not None:
        raise ValueError(
            f"backend {backend!r} was asked for, but {refusal}. Leave the backend out, or choose "
            "'reference'."
        )
    return "reference"
