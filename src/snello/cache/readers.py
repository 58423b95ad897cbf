"""Who reads for a memory: compiled kernels, or torch tile by tile; chosen when it is built.

Knows nothing of when a token is stored or dropped.
Dims: T rows of the flat batch, H query heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from snello.cache.heads import Chunk
from snello.cache.reading import Reader
from snello.cache.store import PageStore
from snello.cache.table import PageTable
from snello.cache.tiles import fold, unfold
from snello.cache.work import Work
from snello.config.model import CacheShape
from snello.ops import chunk_attend, page_attend
from snello.ops.native import Backend


@runtime_checkable
class PageReader(Protocol):
    """Attends for one group of a step; see `read`."""

    def start(self, q: Float[Tensor, "T H D"], shape: CacheShape) -> Float[Tensor, "T H E"]:
        """Make room for what a layer's queries will read."""

    def read(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        work: Work,
        chunk: Chunk | None,
        *,
        scale: float,
        out: Float[Tensor, "T H E"],
    ) -> None:
        """Attend over the pages of the group's heads and over a chunk not stored yet.

        Without a chunk, the queries see all that the pages hold and that is in sight; with one,
        marks decide too. The group's rows of `out` are written, and `work.num_seen` grows.
        """


@dataclass(frozen=True, slots=True)
class TiledReader:
    """Plain torch, within bounded memory, on any device."""

    store: PageStore
    table: PageTable
    shapes: tuple[CacheShape, ...]
    window_tokens: int
    ring_pages: tuple[int, ...]

    def start(self, q: Float[Tensor, "T H D"], shape: CacheShape) -> Float[Tensor, "T H E"]:
        """In the precision of the queries."""
        return q.new_empty(*q.shape[:2], shape.value_size)

    def read(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        work: Work,
        chunk: Chunk | None,
        *,
        scale: float,
        out: Float[Tensor, "T H E"],
    ) -> None:
        """As `PageReader.read`."""
        group, shape = work.group, self.shapes[layer]
        ring_pages = self.ring_pages[layer]
        reader = Reader(self.store, self.table, shape, self.window_tokens, ring_pages, scale)
        rows = self.table.rows(layer, group.sequences, shape.num_heads)
        piece = None if chunk is None else chunk.piece()
        read, num_seen = reader.read(*fold(q, group, shape.num_heads), rows, piece)
        unfold(read, group, out)
        work.num_seen.add_(num_seen)


@dataclass(frozen=True, slots=True)
class KernelReader:
    """Compiled kernels that read the pages where they are; on CPU they compute in float32."""

    backend: Backend
    store: PageStore
    table: PageTable
    shapes: tuple[CacheShape, ...]
    window_tokens: int
    ring_pages: tuple[int, ...]
    attend_pages: Callable[..., None]
    attend_chunks: Callable[..., None]

    def start(self, q: Float[Tensor, "T H D"], shape: CacheShape) -> Float[Tensor, "T H E"]:
        """In the numbers that the kernels compute in."""
        dtype = torch.float32 if self.backend == "cpu" else q.dtype
        return q.new_empty(*q.shape[:2], shape.value_size, dtype=dtype)

    def read(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        work: Work,
        chunk: Chunk | None,
        *,
        scale: float,
        out: Float[Tensor, "T H E"],
    ) -> None:
        """As `PageReader.read`."""
        q, slots, lists = q.to(out.dtype), self.store.slots, self.table.layers[layer]
        shape, to = self.shapes[layer], {"scale": scale, "out": out, "num_seen": work.num_seen}
        to["narrow"] = self.store.show_narrow(self.ring_pages[layer])
        if work.group.is_decode:
            self.attend_pages(q, work.news, slots, lists, shape, **to)
        else:
            fresh, counts = None if chunk is None else chunk.fresh, work.group.counts
            given = q, work.news, counts, fresh, slots, lists, shape
            self.attend_chunks(*given, self.window_tokens, **to)


def open_reader(
    backend: Backend,
    store: PageStore,
    table: PageTable,
    shapes: tuple[CacheShape, ...],
    window_tokens: int,
    ring_pages: Sequence[int] | None = None,
) -> PageReader:
    """Choose who reads; `ring_pages` are those of each layer's windows, if there are any."""
    rings = tuple(ring_pages) if ring_pages is not None else (0,) * len(shapes)
    given = store, table, shapes, window_tokens, rings
    if backend == "reference":
        return TiledReader(*given)
    kernels = page_attend.resolve(backend), chunk_attend.resolve(backend)
    return KernelReader(backend, *given, *kernels)
