"""What a chunk of tokens does to the heads of one layer: fill rings, retire tokens, free pages.

Knows nothing of queries; of single tokens takes care `ops.append`. "Retire": a token that leaves
the ring is dropped if it is marked, and copied once onto the survivors if not.
Dims: B sequences of one group, T new tokens of each (padded), K heads, X tokens that leave.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.layout import Group
from snello.cache.promise import Promise
from snello.cache.ring import Ring
from snello.cache.store import EMPTY, PageStore
from snello.cache.table import PageTable
from snello.cache.tiles import Piece
from snello.ops.pages import Fresh
from snello.ops.retain import in_sight


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of a group that are not stored yet, and what is known about their fate.

    `fresh` holds the rows of the flat batch that the others were taken from.
    """

    fresh: Fresh
    keys: Float[Tensor, "B T K D"]
    values: Float[Tensor, "B T K E"]
    positions: Int[Tensor, "B T"]
    evict: Bool[Tensor, "B T K"]

    @classmethod
    def cut(cls, fresh: Fresh, group: Group) -> "Chunk":
        """Take a group's tokens out of the flat batch."""
        k, v, evict = fresh
        rows = group.rows
        return cls(fresh, k[rows], v[rows], group.key_positions, evict[rows])

    def piece(self) -> Piece:
        """The same, one row for each head, as a reader wants it."""
        return Piece(
            self.keys.transpose(1, 2).flatten(0, 1),
            self.values.transpose(1, 2).flatten(0, 1),
            self.positions.repeat_interleave(self.keys.shape[2], dim=0),
            self.evict.transpose(1, 2).flatten(0, 1),
        )


class Heads:
    """The heads of one layer in one group of sequences.

    Invariant after each step, with q the last position of a sequence: the ring holds the last
    `ring_tokens` positions up to q, with marks; survivors are older, unmarked, and no whole page of
    them is out of sight of q (see `reclaim`).
    """

    def __init__(
        self,
        store: PageStore,
        table: PageTable,
        num_survivors: Int[Tensor, "L N K"],
        ring: Ring,
        group: Group,
        promise: Promise,
    ) -> None:
        self._store, self._table, self._ring, self._group = store, table, ring, group
        self._promise = promise
        self._num_survivors = num_survivors.view(-1)
        self._ends = group.starts + group.counts
        self.rows = table.rows(ring.layer, group.sequences, ring.num_heads)  # (B, K)

    def mark(self, positions: Int[Tensor, " B"], evict: Bool[Tensor, "B K"]) -> None:
        """Note the fate of one token of each ring; negative positions are ignored."""
        self._store.mark(self._ring_slots(positions[:, None])[:, 0], evict)

    def absorb(self, chunk: Chunk) -> None:
        """Move the window to the last new token: retire what leaves it, store what is in it."""
        self._retire(chunk)
        self._fill(chunk)

    def _retire(self, chunk: Chunk) -> None:
        """Copy onto the survivors what leaves the window unmarked and in sight."""
        starts, ring = self._group.starts, self._ring
        first = (starts - ring.ring_tokens).clamp_min(0)
        num_leaving = (self._ends - ring.ring_tokens).clamp_min(0) - first
        most = int(num_leaving.max())
        if most == 0 or ring.survivor_span == 0:
            return
        steps = torch.arange(most, device=first.device)
        leaving = (first[:, None] + steps).where(steps < num_leaving[:, None], -1)  # (B, X)
        stored = (leaving < starts[:, None])[..., None]
        slots = self._ring_slots(leaving.where(stored[..., 0], -1))  # (B, X, K)
        columns = (leaving - starts[:, None]).clamp(0, self._group.rows.shape[1] - 1)
        marked = chunk.evict.take_along_dim(columns[..., None], dim=1)
        marked = self._store.marks(slots).where(stored, marked)
        visible = (leaving >= 0) & in_sight(self._ends[:, None] - 1, leaving, ring.horizon)
        kept = ~marked & visible[..., None]
        targets = self._append(kept)
        sizes = chunk.keys.shape[-1], chunk.values.shape[-1]
        self._store.retire(slots[kept & stored], targets[kept & stored], sizes)
        fresh = kept & ~stored
        sequence, step, head = fresh.nonzero(as_tuple=True)
        index, positions = (sequence, columns[sequence, step], head), leaving[sequence, step]
        self._store.write_survivors(
            targets[fresh], chunk.keys[index], chunk.values[index], positions
        )

    def _fill(self, chunk: Chunk) -> None:
        """Store the new tokens that are in the window of the last one."""
        T = min(self._group.rows.shape[1], self._ring.ring_tokens)
        positions = (self._ends - T)[:, None] + torch.arange(T, device=self._ends.device)  # (B, T)
        columns = (positions - self._group.starts[:, None])[..., None]
        positions = positions.where(columns[..., 0] >= 0, -1)
        columns = columns.clamp_min(0)
        slots = self._ring_slots(positions)
        self._store.write(
            slots,
            chunk.keys.take_along_dim(columns[..., None], dim=1),
            chunk.values.take_along_dim(columns[..., None], dim=1),
            positions[..., None].expand_as(slots),
            chunk.evict.take_along_dim(columns, dim=1),
        )

    def _append(self, kept: Bool[Tensor, "B X K"]) -> Int[Tensor, "B X K"]:
        """Lengthen the survivors by what is kept; tell the slot of each, the trash for the rest."""
        S = self._store.survivor_tokens
        before = self._num_survivors[self.rows]
        ranks = before[:, None] + kept.cumsum(1) - 1
        after = before + kept.sum(1)
        num_new = (after + S - 1) // S - (before + S - 1) // S
        wanted = int(num_new.sum())
        if wanted and not self._is_granted(wanted):
            return self._append(torch.zeros_like(kept))
        if wanted:
            pages = self._store.pool.take(wanted)
            self._table.append(self.rows.flatten(), num_new.flatten(), pages)
        self._num_survivors[self.rows] = after
        pages = self._table.look_up(self.rows[:, None], self._ring.ring_pages + ranks // S)
        return pages.where(kept, self._store.trash) * S + ranks % S

    def _is_granted(self, num_pages: int) -> bool:
        """Ask for pages; one token for each sequence was promised the most it can need."""
        num_free, sequences = self._store.pool.num_free, self._group.sequences
        return self._group.is_decode or self._promise.grants(
            self._ring.layer, num_pages, num_free, sequences
        )

    def _ring_slots(self, positions: Int[Tensor, "B X"]) -> Int[Tensor, "B X K"]:
        """Find the slots of positions in the ring; negative positions lead to the trash page."""
        ring_slot = (positions.clamp_min(0) % self._ring.ring_tokens)[..., None]
        S = self._store.page_tokens
        pages = self._table.look_up(self.rows[:, None], ring_slot // S)  # (B, X, K)
        pages = pages.where(positions[..., None] >= 0, self._store.trash)
        return pages * S + ring_slot % S


def reclaim(
    store: PageStore,
    table: PageTable,
    num_survivors: Int[Tensor, "L N K"],
    ring: Ring,
    rows: Int[Tensor, "X K"],
    last: Int[Tensor, " X"],
) -> None:
    """Give back survivor pages that lie wholly behind the horizon of the last positions."""
    pages = table.list_pages(rows)[..., ring.ring_pages :]
    newest = store.positions[pages, -1]  # (X, K, M); EMPTY where a page is not full
    is_behind = (newest < EMPTY) & ~in_sight(last[:, None, None], newest, ring.horizon)
    num_behind = is_behind.sum(-1)
    if bool(num_behind.any()):
        num_survivors.view(-1)[rows] -= num_behind * store.survivor_tokens
        store.give_back(table.drop(rows.flatten(), num_behind.flatten(), ring.ring_pages))
