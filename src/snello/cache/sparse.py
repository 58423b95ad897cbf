"""The memory that forgets: a window ring and survivors for each head, in pages of one pool.

Knows nothing of how a mark comes about: a policy announces it. Dims: T rows of the flat batch,
H query heads, K key-value heads, L layers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.heads import Chunk, Heads, reclaim
from snello.cache.layout import Group, Layout
from snello.cache.memory import Step
from snello.cache.paged import PagedMemory
from snello.cache.pages import OutOfPages
from snello.cache.promise import Promise
from snello.cache.readers import open_reader
from snello.cache.ring import Rings
from snello.cache.work import Work, count_reads, plan_work
from snello.config.engine import SurvivorFormat
from snello.config.model import CacheShape
from snello.dms.decision import shift_decisions
from snello.ops import spare
from snello.ops.append import resolve
from snello.ops.narrow import FORMATS
from snello.ops.native import Backend
from snello.ops.pages import Fresh, Tails
from snello.policies import Policy


class SparseMemory(PagedMemory):
    """The tokens that are alive, and no others.

    Invariant: see `Heads`; `num_survivors` counts what lies in survivor pages. Between steps no
    head holds a spare page.
    """

    def __init__(  # noqa: PLR0913  (the rule's three, and the pool's)
        self,
        shapes: Sequence[CacheShape],
        *,
        window_tokens: int,
        shift: int,
        policy: Policy,
        max_sequences: int,
        num_pages: int | None = None,
        budget_bytes: int | None = None,
        page_tokens: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
        survivors: SurvivorFormat = "same",
    ) -> None:
        super().__init__(
            shapes,
            max_sequences=max_sequences,
            num_pages=num_pages,
            budget_bytes=budget_bytes,
            page_tokens=page_tokens,
            dtype=dtype,
            device=device,
            backend=backend,
            survivors=FORMATS.get(survivors),
        )
        if window_tokens < 1:
            raise ValueError(
                f"window_tokens is {window_tokens}; it must be at least 1, so that a token is "
                "still there when its successor announces its fate."
            )
        self.window_tokens, self.shift, self.policy = window_tokens, shift, policy
        self.rings = Rings(self.shapes, window_tokens, page_tokens, self.device)
        ring_pages = [ring.ring_pages for ring in self.rings.layers]
        self._ring_pages: Int[Tensor, " L"] = torch.tensor(ring_pages, device=self.device)
        self.num_survivors = torch.zeros_like(self.table.num_held)
        self._num_heads = np.array([shape.num_heads for shape in self.shapes])
        self.ring_columns = self._ring_pages[:, None]
        self._spare = torch.full_like(self.table.num_held, -1)
        self._tails = [Tails(*part) for part in zip(self.num_survivors, self._spare, strict=True)]
        self._all_tails = Tails(self.num_survivors, self._spare)
        self._survivor_rule = self.rings.tell_survivors()
        self._spares = spare.resolve(self.backend)
        self._append_token = resolve(self.backend)
        self.reader = open_reader(
            self.backend, self.store, self.table, self.shapes, window_tokens, ring_pages
        )

    @property
    def tails(self) -> tuple[Int[Tensor, "L N K"], Int[Tensor, "L N K"]]:
        """Survivors and spare pages of all heads."""
        return self.num_survivors, self._spare

    @property
    def ring_sizes(self) -> list[int]:
        """How many tokens the window of each layer holds."""
        return [ring.ring_tokens for ring in self.rings.layers]

    def begin(
        self, sequences: Sequence[int], counts: Sequence[int], *, kept: np.ndarray | None = None
    ) -> "SparseStep":
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`, and take ring pages.

        Args:
            sequences: Their handles.
            counts: Their new tokens.
            kept: The share of a prompt that each layer is expected to keep behind its window; a
                sequence that keeps too much more is then spoiled, see `Promise`. Without it, the
                step must fit even if everything is kept.

        Raises:
            OutOfPages: the pool cannot serve that; nothing has changed.
        """
        layout = self._arrange(sequences, counts)
        if max(counts) == 1:
            self._begin_single(layout, opens_page=self._opens_ring_page(sequences))
            return SparseStep(self, layout, Promise())
        promise = Promise()
        is_single = layout.counts == 1
        single = layout.sequences[is_single]
        gain = self.rings.most_survivors(layout.starts, layout.counts)  # (L, B)
        if kept is not None:
            share = torch.from_numpy(kept).to(self.device)[:, None]
            gain = (gain * share).ceil().long()
            promise = Promise([0] * len(self.shapes))  # decoding sequences have theirs in hand
        num_promised = int(self._count_new_pages(layout, gain)[:, ~is_single].sum())
        self._hand_out(single, layout.starts[is_single])
        try:
            self._grow(layout, self._count_filled(layout), num_spare=num_promised)
        except OutOfPages:
            self._take_back(single)
            raise
        return SparseStep(self, layout, promise)

    def _begin_single(self, layout: Layout, *, opens_page: bool) -> None:
        """Take the pages of a step of one token each.

        Raises:
            OutOfPages: there are not as many; nothing has changed.
        """
        self._hand_out(layout.sequences, layout.starts)
        if not opens_page:
            return
        try:
            self._grow(layout, self._count_filled(layout), num_spare=0)
        except OutOfPages:
            self._take_back(layout.sequences)
            raise

    def _count_filled(self, layout: Layout) -> Int[Tensor, "L B"]:
        """How many ring pages each sequence needs after a step."""
        return self.rings.pages_filled(layout.starts + layout.counts)

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        assert isinstance(step, SparseStep), "this step was begun by another kind of memory"
        layout = step.layout
        self._take_back(layout.sequences)
        ends = layout.starts + layout.counts
        for ring, layers in self.rings.bounded:
            rows = self.table.rows_of(layers, layout.sequences, ring.num_heads)
            last = (ends - 1).repeat(len(layers))
            reclaim(self.store, self.table, self.num_survivors, ring, rows, last)
        count_reads(step.works, self.meters)
        self._finish(layout, self._count_live(layout.sequences, ends))

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        super().release(sequence)
        self._take_back(torch.tensor([sequence], device=self.device))
        self.num_survivors[:, sequence] = 0

    def count_ring(self, num_tokens: int) -> Int[Tensor, "L 1"]:
        """How many tokens the window of each layer holds after `num_tokens`."""
        return self.rings.num_filled(torch.tensor([num_tokens], device=self.device))

    def count_survivors(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head holds behind its window."""
        return self.num_survivors[:, sequence].clone()

    def _note_survivors(self, sequence: int, survivors: Int[Tensor, "L K"]) -> None:
        self.num_survivors[:, sequence] = survivors

    def count_kept(self, sequences: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Sum, by layer, how many tokens were kept behind the window, and how many could be."""
        kept = self.num_survivors[:, list(sequences)].sum((1, 2))
        lengths = np.array([self.length(sequence) for sequence in sequences])
        left = self.rings.count_behind(lengths).sum(1) * self._num_heads
        return kept.cpu().numpy().astype(float), left.astype(float)

    def expect_pages(self, num_tokens: Sequence[int], kept: np.ndarray) -> list[float]:
        """Estimate the pages of sequences of these lengths that keep `kept[l]` in layer l.

        The survivors' last page is half full on average.
        """
        S, V, lengths = self.store.page_tokens, self.store.survivor_tokens, np.array(num_tokens)
        behind = self.rings.count_behind(lengths) * kept[:, None]  # (L, B)
        ring = -(-np.minimum(lengths, self.rings.ring_tokens[:, None]) // S)
        per_head = ring + behind / V + 0.5 * (behind > 0)
        return [float(count) for count in self._num_heads @ per_head]

    def expect_shared_pages(self, num_tokens: int, kept: np.ndarray) -> float:
        """Estimate how many pages of such a sequence its forks share."""
        behind = self.rings.count_behind(np.array([num_tokens]))[:, 0] * kept
        full = np.maximum(behind / self.store.survivor_tokens - 0.5, 0.0)
        return float(self._num_heads @ full)

    def take_in(
        self,
        layer: int,
        work: Work,
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"],
        marks: Bool[Tensor, "T K"],
    ) -> None:
        """Store one new token of each sequence of a group, and retire what it pushes out."""
        slots, lists = self.store.slots, self.table.layers[layer]
        given = work.news, work.about, slots, lists, self._tails[layer]
        ring = self.rings.layers[layer]
        narrow = self.store.show_narrow(ring.ring_pages)
        self._append_token(k, v, marks, *given, self.shapes[layer], ring.ring_tokens, narrow)

    def num_live_tokens(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head of each layer holds now; 0 for heads a layer does not have."""
        length = torch.tensor([self.length(sequence)], device=self.device)
        ring = self.rings.num_filled(length) * self.table.exists[:, 0]
        return ring + self.num_survivors[:, sequence]

    def open_heads(self, layer: int, group: Group, promise: Promise) -> Heads:
        """Hand out the heads of one layer in one group, to be changed by a step."""
        ring = self.rings.layers[layer]
        return Heads(self.store, self.table, self.num_survivors, ring, group, promise)

    def _count_new_pages(self, layout: Layout, gain: Int[Tensor, "L B"]) -> Int[Tensor, "L B K"]:
        """How many pages each head takes if it gains that many survivors."""
        S = self.store.survivor_tokens
        before = self.num_survivors[:, layout.sequences]
        after = before + gain[..., None]
        return ((after + S - 1) // S - (before + S - 1) // S) * self.table.exists

    def _opens_ring_page(self, sequences: Sequence[int]) -> bool:
        """Tell whether the next token of any sequence is the first of a page of some ring."""
        lengths = map(self.length, sequences)
        S, longest = self.store.page_tokens, int(self.rings.ring_tokens.max())
        return any(length < longest and length % S == 0 for length in lengths)

    def _hand_out(self, sequences: Int[Tensor, " B"], starts: Int[Tensor, " B"]) -> None:
        """Give each head that may need a page for a single token one in advance.

        Raises:
            OutOfPages: there are not as many; nothing has changed.
        """
        V, pool = self.store.survivor_tokens, self.store.pool
        count = self._spares.hand_out(
            sequences, starts, self._all_tails, *self._survivor_rule, V, *pool.state
        )
        pool.require(abs(count))
        pool.num_free -= count
        if count:
            most_pages = int(self.num_survivors.max()) // V + 1
            self.table.reserve(most_pages + int(self._ring_pages.max()))

    def _take_back(self, sequences: Int[Tensor, " B"]) -> None:
        """Return the spare pages that were not needed; nothing was written to them."""
        pool = self.store.pool
        pool.num_free += self._spares.take_back(sequences, self._spare, *pool.state)

    def _count_live(
        self, sequences: Int[Tensor, " B"], lengths: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """Sum what all heads hold."""
        ring = self.rings.num_filled(lengths)[..., None] * self.table.exists
        return (ring + self.num_survivors[:, sequences]).sum((0, 2))


class SparseStep:
    """One forward pass in a sparse memory; every layer attends once."""

    def __init__(self, memory: SparseMemory, layout: Layout, promise: Promise) -> None:
        self.layout = layout
        self.promise = promise
        self.positions: Int[Tensor, " T"] = layout.positions
        self.lengths: Int[Tensor, " T"] = layout.lengths
        self.wants_decisions: bool = memory.policy.needs_logits
        self.works = plan_work(layout, memory.shift)
        self._memory = memory

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
        """Store the new tokens of one layer, drop what is forgotten, attend over what is alive."""
        memory, shape = self._memory, self._memory.shapes[layer]
        marks = memory.policy.mark(layer, logits, self.positions, shape.num_heads)
        # A chunk's own tokens are read as pages will hold them: equal however a text is cut.
        k, v = (part.to(memory.store.dtype) for part in (k, k[..., :0] if v is None else v))
        out = memory.reader.start(q, shape)
        for work in self.works:
            if work.group.is_decode:
                memory.take_in(layer, work, k, v, marks)
                memory.reader.read(layer, q, work, None, scale=scale, out=out)
            else:
                heads = memory.open_heads(layer, work.group, self.promise)
                chunk = self._announce(heads, work, k, v, marks)
                memory.reader.read(layer, q, work, chunk, scale=scale, out=out)
                heads.absorb(chunk)
        return out.to(q.dtype)

    def announce(self) -> Bool[Tensor, "L T K"] | None:
        """Tell what all layers announce, where no layer has to be asked; else None."""
        policy, memory = self._memory.policy, self._memory
        if policy.needs_logits:
            return None
        marks = [
            policy.mark(layer, None, self.positions, shape.num_heads)
            for layer, shape in enumerate(memory.shapes)
        ]
        return torch.stack(marks)

    def _announce(
        self,
        heads: Heads,
        work: Work,
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"],
        marks: Bool[Tensor, "T K"],
    ) -> Chunk:
        """Take a group's new tokens out of the flat batch, and tell everyone their fate.

        The first row of a sequence may speak about the last token of the step before.
        """
        news = work.news
        heads.mark(work.about.where(work.about < news.positions, -1), marks[news.rows])
        evict = shift_decisions(marks[None], self.layout.owners[None], self._memory.shift)[0]
        return Chunk.cut(Fresh(k, v, evict), work.group)
