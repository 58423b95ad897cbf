"""How queries read pages within bounded memory: tile by tile, block by block.

Knows nothing of when a token is stored or dropped.
Dims: B sequences, R rows (key-value heads of sequences), r rows of a tile, T queries of a row,
g query heads of a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.store import PageStore
from snello.cache.table import PageTable
from snello.cache.tiles import Piece, Tile, cut_rows
from snello.config.model import CacheShape
from snello.ops.attend import attend, attend_part, merge
from snello.ops.narrow import round_trip
from snello.ops.retain import in_sight, is_recent, retain

MOST_QUERIES = 128
"""Queries of a row that are worked on at once; a smaller block skips more keys that lie ahead."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The rule and the shape of one layer, and the pages it reads.

    Memory at work is bounded by `store.tile_bytes` of keys and values, and as much of scores; by a
    few times that where survivors are narrow, which are widened here.
    """

    store: PageStore
    table: PageTable
    shape: CacheShape
    window_tokens: int
    ring_pages: int
    scale: float

    def read(
        self,
        q: Float[Tensor, "R T g D"],
        query_positions: Int[Tensor, "R T"],
        heads: Int[Tensor, "B K"],
        chunk: Piece | None,
    ) -> tuple[Float[Tensor, "R T g E"], Int[Tensor, " B"]]:
        """Attend over the pages of `heads` (rows of the table) and over a chunk not stored yet.

        Without a chunk, the queries see all that the pages hold and that is in sight: it is the
        caller who stores only that. With one, marks decide too.

        Returns:
            What was read, and how many tokens each sequence saw, summed over queries and heads.
        """
        num_held = self.table.num_held.view(-1)[heads].flatten()
        whole = Tile(q, query_positions, self.table.list_pages(heads).flatten(0, 1), chunk)
        out = q.new_empty(*q.shape[:3], self.shape.value_size)
        num_seen = torch.zeros_like(num_held)
        tiles = cut_rows(
            num_held.cpu().numpy(),
            extra_pages=0 if chunk is None else -(-q.shape[1] // self.store.page_tokens),
            most_pages=self.store.tile_bytes // self.store.bytes_per_page,
        )
        for rows, num_pages in tiles:
            index = rows.to(q.device)
            out[index], num_seen[index] = self._read_tile(whole.select(index, num_pages))
        return out, num_seen.view(heads.shape).sum(1)

    def _read_tile(self, tile: Tile) -> tuple[Float[Tensor, "r T g E"], Int[Tensor, " r"]]:
        """Read in blocks of queries."""
        num_rows, T = tile.query_positions.shape
        num_keys = tile.pages.shape[1] * self.store.survivor_tokens + T
        affordable = self.store.tile_bytes // (4 * num_rows * num_keys)
        step = max(1, min(T, MOST_QUERIES, affordable))
        blocks = [self._read_block(tile.block(first, first + step)) for first in range(0, T, step)]
        if len(blocks) == 1:
            return blocks[0]
        out, num_seen = zip(*blocks, strict=True)
        return torch.cat(out, dim=1), torch.stack(num_seen).sum(0)

    def _read_block(self, tile: Tile) -> tuple[Float[Tensor, "r T g E"], Int[Tensor, " r"]]:
        """Read all keys at once, or in parts where even one row is longer than memory allows."""
        num_rows, num_pages = tile.pages.shape
        most_pages = max(1, self.store.tile_bytes // (num_rows * self.store.bytes_per_page))
        if num_pages <= most_pages and self.store.survivors is None:
            piece = self._gather(tile.pages, tile.chunk)
            visible = self._show(tile.query_positions, piece)
            out = attend(tile.q, *self._view(piece, tile.q.dtype), visible, scale=self.scale)
            return out[..., : self.shape.value_size], _count(visible)
        parts, num_seen = [], torch.zeros_like(tile.pages[:, 0])
        for piece in self._split(tile, most_pages):
            visible = self._show(tile.query_positions, piece)
            view = self._view(piece, tile.q.dtype)
            parts.append(attend_part(tile.q, *view, visible, scale=self.scale))
            num_seen += _count(visible)
        return merge(parts).out[..., : self.shape.value_size], num_seen

    def _split(self, tile: Tile, most_pages: int) -> Iterator[Piece]:
        """Yield the tokens of a tile in parts; each is overwritten by the next."""
        has_marks = tile.chunk is not None
        is_narrow = self.store.survivors is not None
        num_exact = self.ring_pages if is_narrow else tile.pages.shape[1]
        for part in _cut(tile.pages[:, :num_exact], most_pages):
            piece = self._load(part, has_marks=has_marks)
            yield from self._round(piece) if is_narrow and has_marks else (piece,)
        for part in _cut(tile.pages[:, num_exact:], most_pages):
            yield self._load_survivors(part, has_marks=has_marks)
        if tile.chunk is not None:
            yield from self._round(tile.chunk) if is_narrow else (tile.chunk,)

    def _round(self, piece: Piece) -> Iterator[Piece]:
        """Yield tokens for those whose windows they are in, and for those that see them behind."""
        assert self.store.survivors is not None
        yield piece._replace(is_rounded=False)
        keys = round_trip(piece.keys, self.store.survivors)
        values = round_trip(piece.values, self.store.survivors)
        yield piece._replace(keys=keys, values=values, is_rounded=True)

    def _gather(self, pages: Int[Tensor, "r M"], chunk: Piece | None) -> Piece:
        """Bring the tokens of pages and of a chunk together."""
        if chunk is None:
            return self._load(pages, has_marks=False)
        if pages.shape[1] == 0:
            return chunk
        return self._load(pages, has_marks=True).join(chunk)

    def _load(self, pages: Int[Tensor, "r M"], *, has_marks: bool) -> Piece:
        """Read pages into the store's buffers, which the next call overwrites."""
        S, sizes = self.store.page_tokens, self._sizes
        positions = self.store.positions[pages][..., :S].flatten(1)
        evict = self.store.evict[pages].flatten(1) if has_marks else None
        keys, values = self.store.gather(pages)
        return Piece(keys[..., : sizes[0]], values[..., : sizes[1]], positions, evict)

    def _load_survivors(self, pages: Int[Tensor, "r M"], *, has_marks: bool) -> Piece:
        """Widen narrow pages, of which no token is marked."""
        positions = self.store.positions[pages].flatten(1)
        evict = torch.zeros_like(positions, dtype=torch.bool) if has_marks else None
        return Piece(*self.store.gather_survivors(pages, self._sizes), positions, evict)

    @property
    def _sizes(self) -> tuple[int, int]:
        """How much of a key and of a value is this layer's, which may be narrower than others."""
        return self.shape.key_size, self.shape.numbers_per_slot - self.shape.key_size

    def _show(self, query_positions: Int[Tensor, "r T"], piece: Piece) -> Bool[Tensor, "r 1 T N"]:
        """Tell who sees what."""
        horizon = self.shape.horizon
        if piece.evict is None:
            keys = piece.positions[:, None, None]
            return in_sight(query_positions[:, None, :, None], keys, horizon)
        evict = piece.evict[:, None]
        seen = retain(query_positions, piece.positions, evict, self.window_tokens, horizon)
        if piece.is_rounded is None:
            return seen
        distance = (query_positions[:, :, None] - piece.positions[:, None])[:, None]
        return seen & (is_recent(distance, self.window_tokens) != piece.is_rounded)

    def _view(
        self, piece: Piece, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "r 1 N D"], Float[Tensor, "r 1 N V"]]:
        """Show keys and values as attention wants them; a value in the key is the key itself."""
        keys = piece.keys[:, None].to(dtype)
        return keys, keys if self.shape.value_in_key else piece.values[:, None].to(dtype)


def _cut(pages: Int[Tensor, "r M"], most_pages: int) -> tuple[Int[Tensor, "r m"], ...]:
    """Cut columns into parts; no columns make no part."""
    firsts = range(0, pages.shape[1], most_pages)
    return tuple(pages[:, first : first + most_pages] for first in firsts)


def _count(visible: Bool[Tensor, "r 1 T N"]) -> Int[Tensor, " r"]:
    """Sum what is seen by each row; over bytes, which torch adds six times faster than booleans."""
    return visible.flatten(1).view(torch.uint8).sum(dim=1, dtype=torch.int32).long()
