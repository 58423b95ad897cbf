"""How the rows of a step are cut into pieces of bounded size. Knows nothing of attention or stores.

A row here is one key-value head of one sequence: heads differ in how much they keep, so each is
work of its own size.
Dims: N rows of the flat batch, B sequences of a group, R rows (B * K), r rows of a tile, T queries
of a row, g query heads of a row, M pages.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.layout import Group


class Piece(NamedTuple):
    """Some tokens of each row, with what decides who sees them.

    `evict` is None where no mark hides a token from these queries. `is_rounded` is None where the
    tokens are all there is; else they are there once more, exact for queries whose windows they are
    in, and rounded for those that see them behind.
    """

    keys: Float[Tensor, "r N D"]
    values: Float[Tensor, "r N E"]
    positions: Int[Tensor, "r N"]
    evict: Bool[Tensor, "r N"] | None
    is_rounded: bool | None = None

    def select(self, rows: Int[Tensor, " r"]) -> "Piece":
        """The same for some of the rows."""
        evict = None if self.evict is None else self.evict[rows]
        return Piece(self.keys[rows], self.values[rows], self.positions[rows], evict)

    def cut(self, num_tokens: int) -> "Piece":
        """The first tokens of each row."""
        now = slice(num_tokens)
        evict = None if self.evict is None else self.evict[:, now]
        return Piece(self.keys[:, now], self.values[:, now], self.positions[:, now], evict)

    def join(self, other: "Piece") -> "Piece":
        """These tokens and then the others, all with their marks."""
        assert self.evict is not None
        assert other.evict is not None
        return Piece(
            torch.cat([self.keys, other.keys], dim=1),
            torch.cat([self.values, other.values], dim=1),
            torch.cat([self.positions, other.positions], dim=1),
            torch.cat([self.evict, other.evict], dim=1),
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows of about one length: their queries, their pages, and new tokens not stored yet."""

    q: Float[Tensor, "r T g D"]
    query_positions: Int[Tensor, "r T"]
    pages: Int[Tensor, "r M"]
    chunk: Piece | None

    def select(self, rows: Int[Tensor, " r"], num_pages: int) -> "Tile":
        """The same for some of the rows, of which none holds more than `num_pages`."""
        chunk = None if self.chunk is None else self.chunk.select(rows)
        pages = self.pages[rows, :num_pages]
        return Tile(self.q[rows], self.query_positions[rows], pages, chunk)

    def block(self, first: int, last: int) -> "Tile":
        """The same for some of the queries, without the new tokens that none of them can see."""
        chunk = None if self.chunk is None else self.chunk.cut(last)
        queries, positions = self.q[:, first:last], self.query_positions[:, first:last]
        return Tile(queries, positions, self.pages, chunk)


def cut_rows(
    num_pages: np.ndarray, *, extra_pages: int, most_pages: int
) -> Iterator[tuple[Int[Tensor, " r"], int]]:
    """Cut rows into tiles of at most `most_pages` in all, where one row alone may be longer.

    No row is padded to more than twice its length. Every row counts `extra_pages` beside its own.

    Yields:
        The rows of a tile, ascending (about the order in which pages were taken), and the largest
        number of pages that one of them holds.
    """
    order = np.argsort(-num_pages, kind="stable")
    lengths = num_pages[order] + extra_pages
    first = 0
    while first < len(order):
        longest = int(lengths[first])
        num_fitting = max(1, most_pages // max(1, longest))
        num_similar = int(np.searchsorted(-lengths, -(longest // 2), side="right"))
        last = min(first + num_fitting, num_similar)
        yield torch.from_numpy(np.sort(order[first:last])), longest - extra_pages
        first = last


def fold(
    q: Float[Tensor, "N H D"], group: Group, num_heads: int
) -> tuple[Float[Tensor, "R T g D"], Int[Tensor, "R T"]]:
    """Take a group's queries, and their positions, out of the flat batch."""
    B, T = group.rows.shape
    grouped = q[group.rows].view(B, T, num_heads, -1, q.shape[-1])
    rows = grouped.transpose(1, 2).flatten(0, 1)
    return rows, group.query_positions.repeat_interleave(num_heads, dim=0)


def unfold(read: Float[Tensor, "R T g E"], group: Group, out: Float[Tensor, "N H E"]) -> None:
    """Put what a group's queries read into its rows of the flat batch."""
    B, T = group.rows.shape
    heads = read.view(B, -1, *read.shape[1:]).transpose(1, 2).reshape(B, T, -1, read.shape[-1])
    if group.is_decode:
        out[group.rows[:, 0]] = heads[:, 0]
    else:
        valid = group.query_positions >= 0
        out[group.rows[valid]] = heads[valid]
