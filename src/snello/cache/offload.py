"""The memory that keeps all, a window of it on the device; the rest is fetched to be read.

What has left the window lies in pages of a store in the host's memory. Every step fetches all of
it, layer by layer, the next layer's while this one computes. This is offloading at its plainest,
exact: what InfiniGen (arXiv:2406.19707) or ArkVale add is to fetch less than all. Where the device
is the host, the copies are made and counted all the same.
Knows nothing of how copies are made. Plain torch.
Dims: T rows of the flat batch, B sequences, K heads, L layers, Q queries, N slots, M pages of S.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.dense import DenseMemory
from snello.cache.fetching import Fetched, Fetcher, read_slots
from snello.cache.layout import Layout
from snello.cache.memory import Step
from snello.cache.promise import Promise
from snello.cache.store import PageStore
from snello.cache.table import PageTable
from snello.cache.weighing import Rows, split_group
from snello.config.model import CacheShape
from snello.ops.attend import attend
from snello.ops.retain import in_sight

WINDOW_TOKENS = 64


class OffloadMemory(DenseMemory):
    """Each head's newest pages on the device, its older ones with the host.

    Invariant: of a sequence of n tokens, the first `num_away` pages of each head are the host's,
    all of them full and behind the window; the device holds the others, in order. Live tokens are
    those of both; bytes in use are the device's, and `host_bytes` the host's.
    """

    can_move = False
    can_cut = False

    def __init__(
        self, shapes: Sequence[CacheShape], *, window_tokens: int = WINDOW_TOKENS, **given: Any
    ) -> None:
        if window_tokens < 1:
            raise ValueError(f"window is {window_tokens}; at least 1 token stays on the device.")
        super().__init__(shapes, backend="reference", **given)
        self.window_tokens = window_tokens
        num_heads = [shape.num_heads for shape in self.shapes]
        host = torch.device("cpu")
        self.host = PageStore(
            self.shapes,
            num_pages=sum(num_heads),
            budget_bytes=None,
            page_tokens=self.store.page_tokens,
            dtype=self.store.dtype,
            device=host,
        )
        max_sequences = self.table.num_held.shape[1]
        self.away = PageTable(num_heads, max_sequences, self.host.blank, host)
        self.num_away = [0] * max_sequences
        self.fetcher = Fetcher(self.host, self.away, self.device)
        self.peak_fetched_bytes = 0
        self._moved_bytes = torch.zeros(max_sequences, dtype=torch.int64, device=self.device)

    @property
    def host_bytes(self) -> int:
        """Bytes of the host's pages that are taken."""
        return self.host.num_bytes_in_use

    def bytes_moved(self, sequence: int) -> int:
        """Bytes of keys, values and positions that were fetched for a sequence so far."""
        return int(self._moved_bytes[sequence])

    @property
    def peak_bytes(self) -> int:
        """The most bytes of pages after any step, and of two layers' fetched ones in any step."""
        return self.meters.peak_bytes + self.peak_fetched_bytes

    def add(self) -> int:
        """Open an empty sequence and return its handle."""
        sequence = super().add()
        self._moved_bytes[sequence] = 0
        return sequence

    def begin(
        self,
        sequences: Sequence[int],
        counts: Sequence[int],
        *,
        kept: np.ndarray | None = None,  # noqa: ARG002  (all is kept)
    ) -> "OffloadStep":
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`, and take its pages.

        Raises:
            OutOfPages: the device's pool cannot serve it; nothing has changed.
        """
        layout = self._arrange(sequences, counts)
        S = self.store.page_tokens
        away = torch.tensor([self.num_away[s] for s in sequences], device=self.device)
        filled = (layout.starts + layout.counts + S - 1) // S - away
        self._grow(layout, filled.expand(len(self.shapes), -1), num_spare=0)
        return OffloadStep(self, layout, away)

    def commit(self, step: Step) -> None:
        """Declare the step done, and send pages away that lie behind the window."""
        assert isinstance(step, OffloadStep), "this step was begun by another kind of memory"
        layout = step.layout
        self.meters.count_reads(layout.sequences, step.num_seen)
        ends = layout.starts + layout.counts
        for sequence, end in zip(layout.sequences.tolist(), ends.tolist(), strict=True):
            self._send_away(sequence, end)
        num_heads = sum(shape.num_heads for shape in self.shapes)
        self._finish(layout, ends * num_heads)
        self._moved_bytes[layout.sequences] += step.num_moved_bytes

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        super().release(sequence)
        self.host.give_back(self.away.clear(sequence))
        self.num_away[sequence] = 0

    def fork(self, sequence: int, num_tokens: int | None = None) -> int:
        """Open a sequence that goes on from where another one stands; full pages are shared.

        Raises:
            OutOfPages: no room for the copies; nothing has changed.
            ValueError: the sequence is not open, or no more may be, or it is to be shortened.
        """
        length = self.length(sequence)
        if num_tokens not in (None, length):
            raise ValueError(
                f"a fork after {num_tokens} tokens was asked for; a sequence that is partly away "
                f"goes on from its end only, after {length}."
            )
        fork = self._fork(sequence, length, self.count_survivors(sequence))
        self.num_away[fork] = self.num_away[sequence]
        pages = self.away.pages[:, sequence]
        self.host.pool.share(pages[pages != self.host.blank])
        self.away.assign(fork, self.away.num_held[:, sequence], pages.clone())
        return fork

    def count_survivors(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head holds on the device."""
        on_device = self.length(sequence) - self.num_away[sequence] * self.store.page_tokens
        return self.table.exists[:, 0].long() * on_device

    def expect_pages(self, num_tokens: Sequence[int], kept: np.ndarray) -> list[float]:  # noqa: ARG002
        """Return the device's pages of sequences of these lengths, between steps."""
        S, num_heads = self.store.page_tokens, sum(shape.num_heads for shape in self.shapes)
        return [
            float(num_heads * (-(-count // S) - self._count_away(count))) for count in num_tokens
        ]

    def expect_shared_pages(self, num_tokens: int, kept: np.ndarray) -> float:  # noqa: ARG002
        """Return how many of the device's pages of such a sequence are full."""
        num_full = num_tokens // self.store.page_tokens - self._count_away(num_tokens)
        return float(sum(shape.num_heads for shape in self.shapes) * num_full)

    def check(self) -> None:
        """Raise if a page is lost or held wrongly, on either side."""
        super().check()
        self.host.pool.check()
        num_listed = int((self.away.pages != self.host.blank).sum())
        num_holders = self.host.pool.num_holders.clone()
        num_holders[self.host.blank : self.host.blank + 2] = 0  # blank and trash are nobody's
        num_held = int(num_holders.sum())
        if num_listed != num_held:
            raise RuntimeError(
                f"page accounting is broken: {num_listed} pages of the host are listed, and its "
                f"pool counts {num_held} holders."
            )

    def _count_away(self, num_tokens: int) -> int:
        """How many pages of a head lie wholly behind the window."""
        return max(0, num_tokens - self.window_tokens) // self.store.page_tokens

    def _send_away(self, sequence: int, num_tokens: int) -> None:
        """Copy pages that the window has passed to the host, and give the device's back."""
        count = self._count_away(num_tokens) - self.num_away[sequence]
        if count == 0:
            return
        leaving = self.table.pages[:, sequence, :, :count][self.table.exists[:, 0]].flatten()
        if self.host.pool.num_free < len(leaving):
            with torch.inference_mode(mode=False):
                self.host.extend(max(len(leaving), self.host.pool.num_pages))
        taken = self.host.pool.take(len(leaving))
        for there, here in (
            (self.host.keys, self.store.keys),
            (self.host.values, self.store.values),
            (self.host.positions, self.store.positions),
        ):
            there[taken] = here[leaving].to(there.device)
        counts = (self.away.exists.long() * count).expand(-1, 1, -1)
        self.away.append_each(torch.tensor([sequence]), counts, taken)
        rows = torch.arange(self.table.num_held.numel(), device=self.device)
        rows = rows.view(self.table.num_held.shape)[:, sequence].flatten()
        gone = (self.table.exists[:, 0].long() * count).flatten()
        self.store.give_back(self.table.drop(rows, gone, 0))
        self.num_away[sequence] += count


class OffloadStep:
    """One forward pass; every layer attends once, in order."""

    wants_decisions = False

    def __init__(self, memory: OffloadMemory, layout: Layout, away: Int[Tensor, " B"]) -> None:
        self.layout = layout
        self.promise = Promise()
        self.positions: Int[Tensor, " T"] = layout.positions
        self.lengths: Int[Tensor, " T"] = layout.lengths
        self.num_moved_bytes = torch.zeros_like(layout.starts)
        self._num_seen = layout.counts.new_zeros(memory.table.pages.shape[1])
        self._memory = memory
        self._parts = [part for group in layout.groups for part in split_group(group)]
        S, owners = memory.store.page_tokens, layout.owners
        columns = layout.positions // S - away.repeat_interleave(layout.counts)
        pages = memory.table.pages[:, owners, :, columns]  # (T, L, K)
        self._slots = pages * S + (layout.positions % S)[:, None, None]
        self._place = {int(s): i for i, s in enumerate(layout.sequences.tolist())}
        self._coming: list[Fetched] = []
        self._coming = self._fetch(0)

    @property
    def num_seen(self) -> Int[Tensor, " B"]:
        """How many tokens the queries of each sequence saw, summed over heads and layers."""
        return self._num_seen[self.layout.sequences]

    @torch.no_grad()
    def attend(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"] | None,
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002  (nothing is ever forgotten)
        *,
        scale: float,
    ) -> Float[Tensor, "T H V"]:
        """Store the new tokens of one layer, then attend over the device's and the host's."""
        memory, shape = self._memory, self._memory.shapes[layer]
        stored = [part.to(memory.store.dtype) for part in (k, k[..., :0] if v is None else v)]
        positions = self.positions[:, None].expand(-1, k.shape[1])
        marks = torch.zeros_like(positions, dtype=torch.bool)
        memory.store.write(
            self._slots[:, layer, : k.shape[1]], stored[0], stored[1], positions, marks
        )
        fetched = self._coming
        self._coming = self._fetch(layer + 1)
        out = q.new_empty(*q.shape[:2], shape.value_size)
        for part, there in zip(self._parts, fetched, strict=True):
            out[part.rows] = self._read(layer, q[part.rows], part, there, scale)
        return out

    def _fetch(self, layer: int) -> list[Fetched]:
        """Begin to bring what the host holds of a layer; behind the last one there is nothing."""
        if layer == len(self._memory.shapes):
            return []
        K = self._memory.shapes[layer].num_heads
        fetched = [self._memory.fetcher.start(layer, part.sequences, K) for part in self._parts]
        for part, there in zip(self._parts, fetched, strict=True):
            own = [self._place[s] for s in part.sequences.tolist()]
            self.num_moved_bytes[own] += there.num_bytes
        both = sum(there.total_bytes for there in (*self._coming, *fetched))
        self._memory.peak_fetched_bytes = max(self._memory.peak_fetched_bytes, both)
        return fetched

    def _read(
        self, layer: int, q: Float[Tensor, "B Q H D"], part: Rows, fetched: Fetched, scale: float
    ) -> Float[Tensor, "B Q H V"]:
        """Let queries read what has come from the host and what the device holds."""
        memory, shape = self._memory, self._memory.shapes[layer]
        pages = memory.table.list_pages(memory.table.rows(layer, part.sequences, shape.num_heads))
        held = fetched.wait().join(read_slots(memory.store, pages))
        keys = held.keys[..., : shape.key_size].to(q.dtype)
        values = keys if shape.value_in_key else held.values.to(q.dtype)
        positions, out = held.positions[:, :, None], []
        bytes_of_query = 4 * len(q) * q.shape[2] * positions.shape[-1]
        step = max(1, memory.store.tile_bytes // bytes_of_query)
        for first in range(0, q.shape[1], step):
            block = slice(first, first + step)
            queries = part.positions[:, None, block, None]
            visible = in_sight(queries, positions, shape.horizon)  # (B, K, Q, N)
            self._num_seen.index_add_(0, part.sequences, visible.sum((1, 2, 3)))
            read = attend(q[:, block], keys, values[..., : shape.value_size], visible, scale=scale)
            out.append(read)
        return torch.cat(out, dim=1)
