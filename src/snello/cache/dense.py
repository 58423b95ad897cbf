"""The memory that forgets nothing: the baseline. Knows nothing of windows, marks or policies.

Dims: T rows of the flat batch, H query heads, K key-value heads, L layers, S slots per page.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.layout import Layout
from snello.cache.memory import Step
from snello.cache.paged import PagedMemory
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

    def __init__(self, shapes: Sequence[CacheShape], **given: Any) -> None:
        super().__init__(shapes, **given)
        num_held = self.table.num_held[0]
        self.no_tails = Tails(torch.zeros_like(num_held), torch.full_like(num_held, -1))
        self.append_token = resolve(self.backend)
        self.reader = open_reader(
            self.backend, self.store, self.table, self.shapes, window_tokens=0
        )

    def begin(self, sequences: Sequence[int], counts: Sequence[int]) -> "DenseStep":
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

    def num_live_tokens(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head of each layer holds now; 0 for heads a layer does not have."""
        return self.table.exists[:, 0].long() * self.length(sequence)

    def portrait(self, sequence: int) -> list[list[list[int]]]:
        """Tell the positions each head holds: `portrait(sequence)[layer][head]`."""
        positions = list(range(self.length(sequence)))
        return [[positions] * shape.num_heads for shape in self.shapes]


class DenseStep:
    """One forward pass in a dense memory; every layer attends once."""

    wants_decisions = False

    def __init__(self, memory: DenseMemory, layout: Layout) -> None:
        self.layout = layout
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

    def _store(self, layer: int, k: Float[Tensor, "T K D"], v: Float[Tensor, "T K E"]) -> None:
        """Put every new token where its position says, as in a ring that never turns."""
        memory, shape, K = self._memory, self._memory.shapes[layer], k.shape[1]
        marks = self._no_marks[:, :K]
        if self._slots is not None:
            positions = self.positions[:, None].expand(-1, K)
            memory.store.write(self._slots[:, layer, :K], k, v, positions, marks)
            return
        (work,) = self.works
        slots, lists = memory.store.slots, memory.table.layers[layer]
        given = work.news, work.about, slots, lists, memory.no_tails
        memory.append_token(k, v, marks, *given, shape, ring_tokens=UNBOUNDED)
