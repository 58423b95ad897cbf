"""What one forward pass over a micro batch costs: its divergence from the teacher, its evictions.

Knows nothing of optimizers, processes or files. The student is the decoder with its memory told to
evict; the teacher is the same decoder told not to, or a frozen copy of the base.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snello.cache.training import Softening, TrainingMemory
from snello.config.retrofit import RetrofitConfig
from snello.dms.loss import distillation_loss
from snello.models.decoder import Decoder
from snello.ops.soft_attend import resolve
from snello.retrofit.batches import Batch
from snello.retrofit.companions import without_companions

LOGITS_AT_ONCE = 2**26


class Phase(NamedTuple):
    """Where a forward pass stands in the run."""

    step: int
    """Names the noise, with the seed and the row."""

    evicts: bool
    """False while borrowed neurons fade: they still take part in attention then."""

    is_hard: bool = False
    """Decide as at inference, without noise."""


class Parts(NamedTuple):
    """Sums over the micro batch, so that they add up over micro batches and processes."""

    divergence: Float[Tensor, ""]
    """Weighted KL, summed over tokens."""

    evictions: Float[Tensor, ""]
    """Straight-through evictions, summed over layers, heads and real tokens."""

    num_decisions: Float[Tensor, ""]
    dense_tokens: Float[Tensor, ""]
    live_tokens: Float[Tensor, ""]
    """Tokens alive at the documents' ends under hard decisions, over layers and heads."""


class Objective(nn.Module):
    """Student and teacher as one module, so that whoever spreads it sees every weight in use."""

    def __init__(self, decoder: Decoder, teacher: Decoder | None, config: RetrofitConfig) -> None:
        """Take the student, and the teacher where it is not the student itself."""
        super().__init__()
        self.decoder = decoder
        self.teacher = teacher
        self.config = config
        on_cpu = next(decoder.parameters()).device.type == "cpu"
        self.attend = resolve("blockwise" if on_cpu else "auto")
        chunk = config.kl_chunk_tokens or max(1, LOGITS_AT_ONCE // decoder.config.vocab_size)
        self.chunk_tokens = chunk

    def forward(self, batch: Batch, phase: Phase) -> Parts:
        """Run teacher and student over a micro batch."""
        taught = self._teach(batch)
        memory = self._remember(batch, phase)
        with self._autocast(batch):
            hidden = self.decoder(batch.tokens.flatten(), memory)
            divergence = distillation_loss(
                hidden,
                taught,
                batch.weights.flatten(),
                project_student=self.decoder.project,
                project_teacher=(self.teacher or self.decoder).project,
                direction=self.config.kl_direction,
                chunk_tokens=self.chunk_tokens,
            )
        return Parts(divergence, *_count(memory, divergence))

    @torch.no_grad()
    def _teach(self, batch: Batch) -> Float[Tensor, "T C"]:
        """Return the teacher's hidden states: no eviction, no companions."""
        memory = TrainingMemory(
            batch.segments, self.decoder.cache_shapes, attend=self.attend, decision=None
        )
        with self._autocast(batch), self._as_teacher() as teacher:
            hidden: Tensor = teacher(batch.tokens.flatten(), memory)
        return hidden

    @contextmanager
    def _as_teacher(self) -> Iterator[Decoder]:
        if self.teacher is not None:
            yield self.teacher
            return
        with without_companions(self.decoder):
            yield self.decoder

    def _remember(self, batch: Batch, phase: Phase) -> TrainingMemory:
        """Set the student's mode, and return the memory that evicts as the phase says."""
        self.decoder.set_fade(0.0 if phase.evicts else 1.0)
        keys = tuple(
            (self.config.seed, phase.step, batch.first_row + row)
            for row in range(len(batch.tokens))
        )
        soft = Softening(row_keys=keys, tau=self.config.tau)
        return TrainingMemory(
            batch.segments,
            self.decoder.cache_shapes,
            attend=self.attend,
            decision=self.config.decision if phase.evicts else None,
            softening=soft if phase.evicts and not phase.is_hard else None,
        )

    def _autocast(self, batch: Batch) -> torch.autocast:
        lowered = self.config.precision == "bfloat16"
        return torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=lowered)


def _count(
    memory: TrainingMemory, like: Float[Tensor, ""]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return evictions, decisions, dense and live tokens; zeros where nothing is evicted."""
    if not memory.wants_decisions:
        zero = torch.zeros_like(like)
        return zero, zero, zero, zero
    records = memory.records.values()
    dense = sum(int(r.dense_tokens) * len(r.live_tokens) for r in records)
    live = sum(int(r.live_tokens.sum()) for r in records)
    numbers = [float(memory.num_decisions), float(dense), float(live)]
    decisions, dense_tokens, live_tokens = torch.tensor(numbers, device=like.device).unbind()
    return memory.sum_alpha(), decisions, dense_tokens, live_tokens
