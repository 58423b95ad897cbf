"""The memory that forgets nothing: the baseline. Knows nothing of windows, marks or policies.

Dims: T rows of the flat batch, H query heads, K key-value heads, L layers, S slots per page.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.layout import Layout
from snello.cache.memory import Step
from snello.cache.paged import PagedMemory, PagedStep
from snello.cache.promise import Promise
from snello.cache.readers import open_reader
from snello.cache.ring import UNBOUNDED
from snello.cache.work import count_reads, plan_work
from snello.config.model import CacheShape
from snello.ops.append import resolve
from snello.ops.pages import Tails


class DenseMemory(PagedMemory):
    """Every token of every head, for as long as its sequence is open.

    Invariant: each head of a sequence of n tokens holds ceil(n / S) pages, in order of position.
    """

    can_cut = True

    def __init__(self, shapes: Sequence[CacheShape], **given: Any) -> None:
        super().__init__(shapes, **given)
        assert self.store.survivors is None, "nothing leaves a window where there is none"
        num_held = self.table.num_held[0]
        self.no_tails = Tails(torch.zeros_like(num_held), torch.full_like(num_held, -1))
        self.append_token = resolve(self.backend)
        self.reader = open_reader(
            self.backend, self.store, self.table, self.shapes, window_tokens=0
        )

    @property
    def tails(self) -> tuple[None, None]:
        """Survivors and spare pages of all heads: there are none."""
        return None, None

    @property
    def ring_sizes(self) -> list[int]:
        """How many tokens the window of each layer holds: any number."""
        return [UNBOUNDED] * len(self.shapes)

    def begin(
        self,
        sequences: Sequence[int],
        counts: Sequence[int],
        *,
        kept: np.ndarray | None = None,  # noqa: ARG002  (all is kept)
    ) -> PagedStep:
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`, and take its pages.

        Raises:
            OutOfPages: the pool cannot serve it; nothing has changed.
        """
        layout = self._arrange(sequences, counts)
        S = self.store.page_tokens
        filled = (layout.starts + layout.counts + S - 1) // S
        self._grow(layout, filled.expand(len(self.shapes), -1), num_spare=0)
        return DenseStep(self, layout)

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        assert isinstance(step, DenseStep), "this step was begun by another kind of memory"
        layout = step.layout
        count_reads(step.works, self.meters)
        num_heads = sum(shape.num_heads for shape in self.shapes)
        self._finish(layout, (layout.starts + layout.counts) * num_heads)

    def fork(self, sequence: int, num_tokens: int | None = None) -> int:
        """Open a sequence that goes on from where another one stands; see `PagedMemory.fork`.

        Nothing was forgotten, so it may also go on from any earlier point: after `num_tokens`.

        Raises:
            OutOfPages: no room for the copies; nothing has changed.
            ValueError: the sequence is not open or has fewer tokens, or no more may be open.
        """
        length = self.length(sequence)
        num_tokens = length if num_tokens is None else num_tokens
        if not 0 <= num_tokens <= length:
            raise ValueError(
                f"a fork after {num_tokens} tokens was asked for, and sequence {sequence} has "
                f"{length}; give a number from 0 to {length}."
            )
        survivors = self.table.exists[:, 0].long() * num_tokens
        fork = self._fork(sequence, num_tokens, survivors)
        self._blank_behind(fork, num_tokens)
        return fork

    def count_ring(self, num_tokens: int) -> Int[Tensor, "L 1"]:  # noqa: ARG002
        """Return zeros: there is no window."""
        return torch.zeros_like(self.ring_columns)

    def count_survivors(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head holds: all of them."""
        return self.num_live_tokens(sequence)

    def count_kept(self, sequences: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Return zeros: no token stands behind a window."""
        return np.zeros(len(self.shapes)), np.zeros(len(self.shapes))

    def expect_pages(self, num_tokens: Sequence[int], kept: np.ndarray) -> list[float]:  # noqa: ARG002
        """Return the pages of sequences of these lengths; nothing is ever dropped."""
        S, num_heads = self.store.page_tokens, sum(shape.num_heads for shape in self.shapes)
        return [float(num_heads * -(-count // S)) for count in num_tokens]

    def expect_shared_pages(self, num_tokens: int, kept: np.ndarray) -> float:  # noqa: ARG002
        """Return how many pages of such a sequence are full."""
        num_heads = sum(shape.num_heads for shape in self.shapes)
        return float(num_heads * (num_tokens // self.store.page_tokens))

    def num_live_tokens(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head of each layer holds now; 0 for heads a layer does not have."""
        return self.table.exists[:, 0].long() * self.length(sequence)

    def portrait(self, sequence: int) -> list[list[list[int]]]:
        """Tell the positions each head holds: `portrait(sequence)[layer][head]`."""
        positions = list(range(self.length(sequence)))
        return [[positions] * shape.num_heads for shape in self.shapes]

    def _blank_behind(self, sequence: int, num_tokens: int) -> None:
        """Empty what the last pages of a shortened copy hold behind its end."""
        S = self.store.page_tokens
        if num_tokens % S:
            last = self.table.pages[:, sequence, :, num_tokens // S][self.table.exists[:, 0]]
            behind = torch.arange(num_tokens % S, S, device=self.device)
            self.store.blank_slots((last[:, None] * S + behind).flatten())

    def _note_survivors(self, sequence: int, survivors: Int[Tensor, "L K"]) -> None:
        """Nothing to note: the length says it all."""


class DenseStep:
    """One forward pass in a dense memory; every layer attends once."""

    wants_decisions = False

    def __init__(self, memory: DenseMemory, layout: Layout) -> None:
        self.layout = layout
        self.promise = Promise()
        self.positions: Int[Tensor, " T"] = layout.positions
        self.lengths: Int[Tensor, " T"] = layout.lengths
        self.works = plan_work(layout, shift=0)
        self._memory = memory
        num_rows, most_heads = len(self.positions), memory.table.num_held.shape[2]
        self._no_marks = torch.zeros(num_rows, most_heads, dtype=torch.bool, device=memory.device)
        self._slots: Int[Tensor, "T L K"] | None = None
        if not all(group.is_decode for group in layout.groups):
            S = memory.store.page_tokens
            pages = memory.table.pages[:, layout.owners, :, layout.positions // S]  # (T, L, K)
            self._slots = pages * S + (layout.positions % S)[:, None, None]

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
        """Store the new tokens of one layer, then attend over all tokens so far."""
        memory = self._memory
        self._store(layer, k, k[..., :0] if v is None else v)
        out = memory.reader.start(q, memory.shapes[layer])
        for work in self.works:
            memory.reader.read(layer, q, work, None, scale=scale, out=out)
        return out.to(q.dtype)

    def announce(self) -> None:
        """Tell what all layers announce: nothing is marked."""

    def _store(self, layer: int, k: Float[Tensor, "T K D"], v: Float[Tensor, "T K E"]) -> None:
        """Put every new token where its position says, as in a ring that never turns."""
        memory, shape, K = self._memory, self._memory.shapes[layer], k.shape[1]
        k, v = k.to(memory.store.dtype), v.to(memory.store.dtype)
        marks = self._no_marks[:, :K]
        if self._slots is not None:
            positions = self.positions[:, None].expand(-1, K)
            memory.store.write(self._slots[:, layer, :K], k, v, positions, marks)
            return
        (work,) = self.works
        slots, lists = memory.store.slots, memory.table.layers[layer]
        given = work.news, work.about, slots, lists, memory.no_tails
        memory.append_token(k, v, marks, *given, shape, ring_tokens=UNBOUNDED)
