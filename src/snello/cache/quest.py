"""Dense memory of which a single query reads some pages only: all is kept, less is read.

Knows nothing of how pages are chosen. Plain torch, on any device.
Dims: T rows of the flat batch, B sequences, H query heads, K key-value heads, M pages, N slots.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.dense import DenseMemory, DenseStep
from snello.cache.layout import Layout
from snello.cache.memory import Step
from snello.cache.store import EMPTY
from snello.cache.weighing import read, weigh
from snello.cache.work import Work
from snello.config.model import CacheShape
from snello.ops.retain import in_sight
from snello.policies.quest import WHOLE_LAYERS, Quest


class QuestMemory(DenseMemory):
    """Every token of every head, with the smallest and largest numbers of each full page of keys.

    Invariant: where `_is_bounded` says so, a page is full, and its bounds are those of its keys; a
    full page never changes, so forks share bounds as they share pages.
    """

    def __init__(self, shapes: Sequence[CacheShape], *, quest: Quest, **given: Any) -> None:
        super().__init__(shapes, backend="reference", **given)
        self.quest = quest
        num_pages, width = self.store.keys.shape[0], self.store.keys.shape[-1]
        self._bounds = torch.zeros(num_pages, 2, width, device=self.device)
        self._is_bounded = torch.zeros(num_pages, dtype=torch.bool, device=self.device)
        self._bound_reads = torch.zeros(given["max_sequences"], device=self.device)

    def bound_reads(self, sequence: int) -> float:
        """Pages whose bounds a sequence has read so far, a mean over heads and layers.

        The bounds of a page are two keys wide: as much as one token, which is a key and a value.
        """
        num_heads = sum(shape.num_heads for shape in self.shapes)
        return float(self._bound_reads[sequence]) / num_heads

    def add(self) -> int:
        """Open an empty sequence and return its handle."""
        sequence = super().add()
        self._bound_reads[sequence] = 0
        return sequence

    def begin(
        self, sequences: Sequence[int], counts: Sequence[int], *, kept: np.ndarray | None = None
    ) -> "QuestStep":
        """As `DenseMemory.begin`."""
        step = super().begin(sequences, counts, kept=kept)
        return QuestStep(self, step.layout)

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        assert isinstance(step, QuestStep), "this step was begun by another kind of memory"
        super().commit(step)

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        pages = self.table.pages[:, sequence].flatten()
        super().release(sequence)
        self._is_bounded[pages[self.store.positions[pages, 0] == EMPTY]] = False

    @torch.inference_mode(mode=False)
    def extend(self, num_pages: int) -> None:
        """Make the pool larger by `num_pages`, between steps; nothing that is stored moves."""
        super().extend(num_pages)
        more = self._bounds.new_zeros(num_pages, *self._bounds.shape[1:])
        self._bounds = torch.cat([self._bounds, more])
        self._is_bounded = torch.cat([self._is_bounded, self._is_bounded.new_zeros(num_pages)])

    def read_some(
        self, layer: int, q: Float[Tensor, "B H D"], work: Work, scale: float
    ) -> Float[Tensor, "B H E"]:
        """Attend with one query of each sequence over the pages that are chosen for it."""
        shape, S, group = self.shapes[layer], self.store.page_tokens, work.group
        pages = self.table.list_pages(self.table.rows(layer, group.sequences, shape.num_heads))
        num_pages = group.starts // S + 1
        grouped = q.float().view(len(q), shape.num_heads, -1, q.shape[-1])
        bounds = self._find_bounds(pages, num_pages)[..., : shape.key_size]
        chosen = self.quest.choose(grouped, bounds, num_pages, S)  # (B, K, M)
        keys, values, positions = self._gather(pages, chosen, shape)
        queries = group.starts[:, None, None, None]
        visible = in_sight(queries, positions[:, :, None], shape.horizon)  # (B, K, 1, N)
        _, weights = weigh(q[:, None], keys, visible, scale)
        work.num_seen.add_(visible.sum((1, 2, 3)))
        num_bounds = (num_pages - 1) * shape.num_heads
        self._bound_reads.index_add_(0, group.sequences, num_bounds.to(self._bound_reads.dtype))
        return read(weights, values)[:, 0]

    def _find_bounds(
        self, pages: Int[Tensor, "B K M"], num_pages: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K M 2 D"]:
        """Look the bounds of all pages up that are full for good; note those that are new."""
        columns = torch.arange(pages.shape[-1], device=self.device)
        is_full = (columns < num_pages[:, None, None] - 1).expand(pages.shape)
        fresh = pages[is_full & ~self._is_bounded[pages]]
        if len(fresh):
            keys = self.store.keys[fresh].float()  # (new pages, S, D)
            self._bounds[fresh] = torch.stack([keys.amin(1), keys.amax(1)], dim=1)
            self._is_bounded[fresh] = True
        return self._bounds[pages]

    def _gather(
        self, pages: Int[Tensor, "B K M"], chosen: Bool[Tensor, "B K M"], shape: CacheShape
    ) -> tuple[Float[Tensor, "B K N D"], Float[Tensor, "B K N E"], Int[Tensor, "B K N"]]:
        """Read the chosen pages alone, those of a head with fewer padded with blank ones."""
        most = int(chosen.sum(-1).max())
        columns = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :most]
        picked = pages.gather(-1, columns).where(chosen.gather(-1, columns), self.store.blank)
        keys = self.store.keys[picked].flatten(2, 3)
        values = keys if shape.value_in_key else self.store.values[picked].flatten(2, 3)
        positions = self.store.positions[picked].flatten(2)
        return keys[..., : shape.key_size], values[..., : shape.value_size], positions


class QuestStep(DenseStep):
    """One forward pass; in all layers but the first, single tokens read some pages only."""

    def __init__(self, memory: QuestMemory, layout: Layout) -> None:
        super().__init__(memory, layout)
        self._quest_memory = memory

    @torch.no_grad()
    def attend(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"] | None,
        logits: Float[Tensor, "T K"] | None,
        *,
        scale: float,
    ) -> Float[Tensor, "T H V"]:
        """Store the new tokens of one layer, then attend over all tokens so far, or over some."""
        if layer < WHOLE_LAYERS:
            return super().attend(layer, q, k, v, logits, scale=scale)
        memory = self._quest_memory
        self._store(layer, k, k[..., :0] if v is None else v)
        out = memory.reader.start(q, memory.shapes[layer])
        for work in self.works:
            if work.group.is_decode:
                rows = work.group.rows[:, 0]
                out[rows] = memory.read_some(layer, q[rows], work, scale).to(out.dtype)
            else:
                memory.reader.read(layer, q, work, None, scale=scale, out=out)
        return out.to(q.dtype)
