"""The memory of training: one micro batch of packed documents, all kept, forgotten softly.

Knows nothing of losses or optimizers; the teacher's pass is the same memory without a decision.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.config.dms import DecisionConfig
from snello.config.model import CacheShape
from snello.dms.decision import marks, shift_decisions
from snello.dms.relaxation import draw_logistic, log_keep, relax, straight_through
from snello.ops.retain import in_sight, is_recent
from snello.ops.soft_attend import Layout, SoftAttend


@dataclass(frozen=True, slots=True, kw_only=True)
class Softening:
    """How decisions are relaxed, and which noise they see."""

    row_keys: tuple[tuple[int, ...], ...]
    """What names the noise of each packed row, such as (seed, step, row of the step); the layer is
    added to it. Equal keys give equal noise: on recomputation, on resume, on any split of a step
    over processes and micro batches that keeps the names."""

    tau: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """What one layer decided about the real tokens of the micro batch."""

    alpha_sum: Float[Tensor, " K"]
    """Straight-through evictions, summed over real tokens; soft ones carry a gradient."""

    live_tokens: Int[Tensor, " K"]
    """Tokens alive at the end of each document under hard decisions, summed over documents."""

    dense_tokens: Int[Tensor, ""]
    """The same with nothing evicted."""


class TrainingMemory:
    """A `Step` over B rows of T tokens, in which every document is seen whole.

    Invariant: `records[layer]` is what the latest `attend` of that layer decided; a layer that is
    computed again for activation checkpointing writes the same once more.

    Three ways to hand it to a decoder: without `decision`, nothing is evicted (the teacher); with
    `decision` and `softening`, evictions are soft and noisy (the student); with `decision` alone
    they are hard, as at inference.
    """

    def __init__(
        self,
        segments: Int[Tensor, "B T"],
        shapes: tuple[CacheShape, ...],
        *,
        attend: SoftAttend,
        decision: DecisionConfig | None,
        softening: Softening | None = None,
    ) -> None:
        """Describe a micro batch.

        Args:
            segments: the document of each token, contiguous within a row; negative where padded.
            shapes: what each layer stores.
            attend: from `ops.soft_attend.resolve`.
            decision: how tokens are evicted, or None for no eviction.
            softening: how decisions are relaxed, or None for hard ones.

        Raises:
            ValueError: `softening` names the noise of another number of rows, or softens nothing.
        """
        if softening is not None and decision is None:
            raise ValueError("TrainingMemory got a softening without a decision; give both.")
        if softening is not None and len(softening.row_keys) != len(segments):
            raise ValueError(
                f"Softening.row_keys names {len(softening.row_keys)} rows, but the micro batch has "
                f"{len(segments)}; give one key for each row."
            )
        window_tokens = 0 if decision is None else decision.window_tokens
        horizons = {shape.horizon for shape in shapes}
        self._layouts = {horizon: Layout(segments, window_tokens, horizon) for horizon in horizons}
        layout = next(iter(self._layouts.values()))
        self._positions = layout.positions
        self._lengths = measure_documents(layout.positions)
        self._is_real = segments >= 0
        self._segments, self._shapes, self._attend = segments, shapes, attend
        self._decision, self._softening = decision, softening
        self.records: dict[int, LayerRecord] = {}

    @property
    def positions(self) -> Int[Tensor, " T"]:
        """Position of each token in its own document."""
        return self._positions.flatten()

    @property
    def lengths(self) -> Int[Tensor, " T"]:
        """Length of each token's document."""
        return self._lengths.flatten()

    @property
    def wants_decisions(self) -> bool:
        """Whether tokens are evicted at all."""
        return self._decision is not None

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"] | None,
        logits: Float[Tensor, "T K"] | None,
        *,
        scale: float,
    ) -> Float[Tensor, "T H E"]:
        """Attend over everything, softening what left the window (see `Step.attend`)."""
        shape = self._shapes[layer]
        value = k[..., : shape.value_size] if v is None else v
        keep = None
        if self._decision is not None:
            assert logits is not None
            keep = self._decide(layer, self._decision, self._unpack(logits)).transpose(1, 2)
        answer = self._attend(
            self._unpack(q).transpose(1, 2),
            self._unpack(k).transpose(1, 2),
            self._unpack(value).transpose(1, 2),
            keep,
            self._layouts[shape.horizon],
            scale=scale,
        )
        return answer.transpose(1, 2).flatten(0, 1)

    @property
    def num_decisions(self) -> int:
        """How many decisions about real tokens all layers and heads take together."""
        num_heads = sum(shape.num_heads for shape in self._shapes)
        return int(self._is_real.sum()) * num_heads

    def sum_alpha(self) -> Float[Tensor, ""]:
        """Sum the straight-through evictions of all layers, heads and real tokens."""
        sums = [self.records[layer].alpha_sum.sum() for layer in range(len(self._shapes))]
        return torch.stack(sums).sum()

    def mean_alpha(self) -> Float[Tensor, ""]:
        """The evicted share of this micro batch, over layers, heads and real tokens together."""
        return self.sum_alpha() / self.num_decisions

    def kept_fractions(self) -> list[Float[Tensor, " K"]]:
        """For each layer and head, the share of tokens still alive when their document ends."""
        records = [self.records[layer] for layer in range(len(self._shapes))]
        return [record.live_tokens / record.dense_tokens for record in records]

    def _unpack(self, x: Float[Tensor, "N ..."]) -> Float[Tensor, "B T ..."]:
        return x.view(*self._segments.shape, *x.shape[1:])

    def _decide(
        self, layer: int, decision: DecisionConfig, logits: Float[Tensor, "B T K"]
    ) -> Float[Tensor, "B T K"]:
        """Give log_keep about each token, and record what was decided."""
        evict = shift_decisions(marks(logits), self._segments, decision.shift)
        if self._softening is None:
            alpha = evict.float()
            keep = torch.zeros_like(alpha).masked_fill(evict, -torch.inf)
        else:
            z = relax(logits, self._draw_noise(layer, logits.shape[-1]), self._softening.tau)
            keep = shift_decisions(log_keep(z), self._segments, decision.shift)
            alpha = shift_decisions(straight_through(z), self._segments, decision.shift)
        dense, live = self._survey(layer, decision, evict)
        self.records[layer] = LayerRecord(
            alpha_sum=(alpha * self._is_real[..., None]).sum((0, 1)),
            live_tokens=live.sum((0, 1)),
            dense_tokens=dense.sum(),
        )
        return keep

    def _draw_noise(self, layer: int, num_heads: int) -> Float[Tensor, "B T K"]:
        """Draw for each row, token and head; one draw for all heads that decide together."""
        assert self._softening is not None
        assert self._decision is not None
        num_draws = num_heads if self._decision.granularity == "head" else 1
        shape, device = (self._segments.shape[1], num_draws), self._segments.device
        rows = [draw_logistic(shape, (*key, layer), device) for key in self._softening.row_keys]
        return torch.stack(rows).expand(-1, -1, num_heads)

    def _survey(
        self, layer: int, decision: DecisionConfig, evict: Bool[Tensor, "B T K"]
    ) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T K"]]:
        """Tell which tokens their document's last token sees: without eviction, and with it."""
        ends = self._lengths - 1
        dense = self._is_real & in_sight(ends, self._positions, self._shapes[layer].horizon)
        recent = is_recent(ends - self._positions, decision.window_tokens)
        return dense, dense[..., None] & (recent[..., None] | ~evict)


def measure_documents(positions: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each token, the length of its document, from positions that count each one from 0."""
    num_tokens = positions.shape[1]
    index = torch.arange(num_tokens, device=positions.device).expand_as(positions)
    is_end = torch.ones_like(positions, dtype=torch.bool)
    is_end[:, :-1] = positions[:, 1:] == 0
    ends = index.masked_fill(~is_end, num_tokens).flip(1).cummin(dim=1).values.flip(1)
    return positions + ends - index + 1


def measure_factor(memory: TrainingMemory) -> float:
    """Dense over live tokens at the documents' ends, over all layers and heads together.

    A ratio of sums, as memory is counted: the mean of the heads' own ratios would let one nearly
    empty head hide seven full ones.
    """
    records = memory.records.values()
    dense = sum(int(record.dense_tokens) * len(record.live_tokens) for record in records)
    return dense / sum(int(record.live_tokens.sum()) for record in records)
