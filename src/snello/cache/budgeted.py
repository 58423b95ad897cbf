"""The memory in which a rule that sees attention keeps every head within a budget.

Knows nothing of how a rule chooses. Plain torch, on any device: it says what a rule is worth, not
how fast it could be. Dims: T rows of the flat batch, B sequences, Q new tokens of each, H query
heads, K key-value heads, L layers, N places, R notes, S slots per page.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.layout import Layout
from snello.cache.memory import Step
from snello.cache.paged import PagedMemory
from snello.cache.places import Places, arrange_kept, gather_places
from snello.cache.promise import Promise
from snello.cache.store import EMPTY
from snello.cache.weighing import read, split_group, weigh
from snello.config.model import CacheShape
from snello.ops.retain import in_sight
from snello.policies import Rule, Sight


class BudgetedMemory(PagedMemory):
    """The tokens that a rule keeps, and no others.

    Invariant: a head with n tokens has them in its first n slots, in any order, and between steps
    it holds ceil(n / S) pages. A new token is read before it is stored: what is dropped in its own
    step never takes a slot, and otherwise it takes the slot of one that is dropped. So a head never
    holds more than the rule's limit, while its newest query reads one token more.

    Within a piece of a prompt every token sees all before it, and the rule decides at its end: a
    prompt that is cut into other pieces may keep other tokens. So may a thread that is computed
    anew after it gave way, because all its tokens then come as one piece.
    """

    can_move = False

    def __init__(self, shapes: Sequence[CacheShape], *, rule: Rule, **given: Any) -> None:
        super().__init__(shapes, backend="reference", **given)
        assert self.store.survivors is None, "nothing leaves a window where there is none"
        self.rule = rule
        self.num_kept = torch.zeros_like(self.table.num_held)
        num_pages = self.store.positions.shape[0]
        self._notes = torch.zeros(
            num_pages, self.store.page_tokens, rule.num_notes, device=self.device
        )

    def begin(
        self,
        sequences: Sequence[int],
        counts: Sequence[int],
        *,
        kept: np.ndarray | None = None,  # noqa: ARG002  (the rule bounds it)
    ) -> "BudgetedStep":
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`, and take its pages.

        Raises:
            OutOfPages: the pool cannot serve it; nothing has changed.
        """
        layout = self._arrange(sequences, counts)
        most = self.num_kept[:, layout.sequences].amax(-1) + layout.counts  # (L, B)
        if self.rule.limit is not None:
            most = most.clamp_max(self.rule.limit)
        in_chunk = most.clamp_max(self.rule.chunk_limit)
        most = torch.where(layout.counts > 1, in_chunk, most)
        self._grow(layout, self._count_pages(most), num_spare=0)
        return BudgetedStep(self, layout)

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        assert isinstance(step, BudgetedStep), "this step was begun by another kind of memory"
        layout = step.layout
        self._give_back_surplus(layout.sequences)
        self.meters.count_reads(layout.sequences, step.num_seen)
        self._finish(layout, self.num_kept[:, layout.sequences].sum((0, 2)))

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back. Its counters stay until it is reused."""
        super().release(sequence)
        self.num_kept[:, sequence] = 0

    def fork(self, sequence: int) -> int:
        """Open a sequence that goes on from where another one stands; see `PagedMemory.fork`.

        Any slot may be written to next: all pages are copied, with what the rule noted.
        """
        fork = super().fork(sequence)
        mine, theirs = self.table.pages[:, fork], self.table.pages[:, sequence]
        self._notes[mine] = self._notes[theirs]
        return fork

    def count_ring(self, num_tokens: int) -> Int[Tensor, "L 1"]:  # noqa: ARG002
        """Return zeros: there is no window."""
        return torch.zeros_like(self.ring_columns)

    def count_survivors(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head holds."""
        return self.num_kept[:, sequence].clone()

    def count_kept(self, sequences: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Return zeros: no token stands behind a window."""
        return np.zeros(len(self.shapes)), np.zeros(len(self.shapes))

    def expect_pages(self, num_tokens: Sequence[int], kept: np.ndarray) -> list[float]:  # noqa: ARG002
        """Return the most pages of sequences of these lengths."""
        S, limit = self.store.page_tokens, self.rule.limit
        num_heads = sum(shape.num_heads for shape in self.shapes)
        most = [count if limit is None else min(count, limit) for count in num_tokens]
        return [float(num_heads * -(-count // S)) for count in most]

    def expect_shared_pages(self, num_tokens: int, kept: np.ndarray) -> float:  # noqa: ARG002
        """Return 0: forks share nothing."""
        return 0.0

    def num_live_tokens(self, sequence: int) -> Int[Tensor, "L K"]:
        """How many tokens each head of each layer holds now; 0 for heads a layer does not have."""
        return self.num_kept[:, sequence].clone()

    @torch.inference_mode(mode=False)
    def extend(self, num_pages: int) -> None:
        """Make the pool larger by `num_pages`, between steps; nothing that is stored moves."""
        super().extend(num_pages)
        more = self._notes.new_zeros(num_pages, *self._notes.shape[1:])
        self._notes = torch.cat([self._notes, more])

    def gather(self, layer: int, sequences: Int[Tensor, " B"]) -> Places:
        """Copy out what the heads of some sequences hold in one layer."""
        shape = self.shapes[layer]
        rows = self.table.rows(layer, sequences, shape.num_heads)
        num_places = int(self.num_kept[layer, sequences].max())
        return gather_places(self.store, self._notes, self.table.list_pages(rows), num_places)

    def settle(
        self, layer: int, sequences: Int[Tensor, " B"], places: Places, keep: Bool[Tensor, "B K N"]
    ) -> None:
        """Let go of all tokens of some heads but those that stay, and store those that are new.

        Tokens that lie where they may stay are not moved.
        """
        num_heads, S = self.shapes[layer].num_heads, self.store.page_tokens
        pages = self.table.list_pages(self.table.rows(layer, sequences, num_heads))
        moves = arrange_kept(keep, places.num_old)
        slots = places.name_slots(pages, S)
        stays = slots[moves.stays]
        self._notes.flatten(0, 1)[stays] = places.notes[moves.stays]
        self.store.blank_slots(slots[moves.leaves & (places.positions < EMPTY)])
        targets, parts = slots[moves.targets], places.take(moves.sources)
        unmarked = torch.zeros_like(targets, dtype=torch.bool)
        self.store.write(targets, parts.keys, parts.values, parts.positions, unmarked)
        self._notes.flatten(0, 1)[targets] = parts.notes
        self.num_kept[layer, sequences, :num_heads] = keep.sum(-1)

    def _count_pages(self, num_tokens: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        S = self.store.page_tokens
        return (num_tokens + S - 1) // S

    def _give_back_surplus(self, sequences: Int[Tensor, " B"]) -> None:
        """Return the pages that hold nothing after a step."""
        needed = self._count_pages(self.num_kept[:, sequences])
        if bool((self.table.num_held[:, sequences] > needed).any()):
            self.store.give_back(self.table.truncate(sequences, needed))

    def _sort_columns(
        self,
        num_held: Int[Tensor, "L K"],
        survivors: Int[Tensor, "L K"],  # noqa: ARG002  (any of them may be replaced)
    ) -> tuple[Bool[Tensor, "L K M"], Bool[Tensor, "L K M"]]:
        """All pages are written to, and none is full for good."""
        columns = torch.arange(self.table.pages.shape[-1], device=self.device)
        is_held = columns < num_held[..., None]
        return is_held, torch.zeros_like(is_held)

    def _note_survivors(self, sequence: int, survivors: Int[Tensor, "L K"]) -> None:
        self.num_kept[:, sequence] = survivors

    def _check_sequence(self, sequence: int) -> None:
        super()._check_sequence(sequence)
        kept, held = self.num_kept[:, sequence], self.table.num_held[:, sequence]
        stored = self.store.positions[self.table.pages[:, sequence]].flatten(2) < EMPTY
        places = torch.arange(stored.shape[-1], device=self.device)
        is_whole = torch.equal(stored, places < kept[..., None])
        if not is_whole or not torch.equal(held, self._count_pages(kept)):
            raise RuntimeError(
                f"page accounting is broken: sequence {sequence} has {int(stored.sum())} tokens in "
                f"{int(held.sum())} pages, and {int(kept.sum())} in its books."
            )


class BudgetedStep:
    """One forward pass in a budgeted memory; every layer attends once."""

    wants_decisions = False

    def __init__(self, memory: BudgetedMemory, layout: Layout) -> None:
        self.layout = layout
        self.promise = Promise()
        self.positions: Int[Tensor, " T"] = layout.positions
        self.lengths: Int[Tensor, " T"] = layout.lengths
        self._memory = memory
        self._parts = [part for group in layout.groups for part in split_group(group)]
        self._num_seen = layout.counts.new_zeros(memory.table.pages.shape[1])

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
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002  (the rule decides)
        *,
        scale: float,
    ) -> Float[Tensor, "T H V"]:
        """Attend over what is held and over the new tokens, then store those that stay."""
        memory, shape = self._memory, self._memory.shapes[layer]
        k, v = (part.to(memory.store.dtype) for part in (k, k[..., :0] if v is None else v))
        out = q.new_empty(*q.shape[:2], shape.value_size)
        for part in self._parts:
            held = memory.gather(layer, part.sequences)
            places = held.append(k[part.rows], v[part.rows], part.positions)
            queries, keys = part.positions[:, None, :, None], places.positions[:, :, None]
            visible = in_sight(queries, keys, shape.horizon)  # (B, K, Q, N)
            scores, weights = weigh(q[part.rows], places.keys, visible, scale)
            values = places.keys if shape.value_in_key else places.values
            out[part.rows] = read(weights, values[..., : shape.value_size]).to(q.dtype)
            sight = Sight(
                scores=scores,
                weights=weights,
                keys=places.keys.float(),
                positions=places.positions,
                is_live=places.is_live,
                last=part.positions[:, -1],
                layer=layer,
                notes=places.notes,
            )
            verdict = memory.rule.decide(sight)
            memory.settle(layer, part.sequences, replace(places, notes=verdict.notes), verdict.keep)
            self._num_seen.index_add_(0, part.sequences, visible.sum((1, 2, 3)))
        return out
