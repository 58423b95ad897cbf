"""The oracle: keeps everything, and hides what was evicted by the one rule. For tests and studies.

Knows nothing of pages, and frees nothing: it says what sparse memory should compute, slowly.
Dims: T rows of the flat batch, H query heads, K key-value heads, N tokens of one sequence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.layout import Layout, arrange
from snello.cache.memory import Step
from snello.cache.roster import Roster
from snello.config.model import CacheShape
from snello.dms.decision import shift_decisions
from snello.ops.attend import attend_part
from snello.ops.retain import retain
from snello.policies import Policy


class MaskedMemory:
    """Every token and every mark ever announced, per sequence and layer.

    `seen[(sequence, layer)]` counts the tokens that all rows and heads saw so far.
    """

    def __init__(
        self,
        shapes: Sequence[CacheShape],
        *,
        window_tokens: int,
        shift: int,
        policy: Policy,
        max_sequences: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shapes, self.policy = tuple(shapes), policy
        self.window_tokens, self.shift = window_tokens, shift
        self.device = torch.device(device)
        self.history: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.seen: dict[tuple[int, int], int] = {}
        self._roster = Roster(max_sequences)

    def add(self) -> int:
        """Open an empty sequence and return its handle."""
        sequence = self._roster.open()
        for layer, shape in enumerate(self.shapes):
            numbers = torch.zeros(0, shape.num_heads, shape.numbers_per_slot, device=self.device)
            marks = torch.zeros(0, shape.num_heads, dtype=torch.bool, device=self.device)
            self.history[sequence, layer] = numbers, marks
            self.seen[sequence, layer] = 0
        return sequence

    def length(self, sequence: int) -> int:
        """How many tokens the sequence has been given so far."""
        return self._roster.length(sequence)

    def begin(self, sequences: Sequence[int], counts: Sequence[int]) -> "MaskedStep":
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`; never out of pages."""
        starts = [self._roster.length(sequence) for sequence in sequences]
        return MaskedStep(self, arrange(sequences, starts, counts, self.device))

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""
        assert isinstance(step, MaskedStep), "this step was begun by another kind of memory"
        self._roster.lengthen(step.layout.sequences.tolist(), step.layout.counts.tolist())

    def release(self, sequence: int) -> None:
        """Forget a sequence."""
        self._roster.close(sequence)
        for layer in range(len(self.shapes)):
            del self.history[sequence, layer]

    def kv_reads(self, sequence: int) -> float:
        """Tokens that the rows of a sequence saw so far, a mean over heads and layers."""
        total = sum(self.seen[sequence, layer] for layer in range(len(self.shapes)))
        return total / sum(shape.num_heads for shape in self.shapes)


class MaskedStep:
    """One forward pass in a masked memory; every layer attends once."""

    def __init__(self, memory: MaskedMemory, layout: Layout) -> None:
        self.layout = layout
        self.positions: Int[Tensor, " T"] = layout.positions
        self.lengths: Int[Tensor, " T"] = layout.lengths
        self.wants_decisions: bool = memory.policy.needs_logits
        self._memory = memory

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
        """Keep the new tokens of one layer, then attend over all that the rule shows."""
        memory = self._memory
        marks = memory.policy.mark(layer, logits, self.positions, k.shape[1])
        numbers = k if v is None else torch.cat([k, v], dim=-1)
        outs = []
        for sequence in self.layout.sequences.tolist():
            mine = self.layout.owners == sequence
            old_numbers, old_marks = memory.history[sequence, layer]
            history = torch.cat([old_numbers, numbers[mine]]), torch.cat([old_marks, marks[mine]])
            memory.history[sequence, layer] = history
            outs.append(self._attend_one(layer, sequence, q[mine], *history, scale=scale))
        return torch.cat(outs)

    def _attend_one(
        self,
        layer: int,
        sequence: int,
        q: Float[Tensor, "T H D"],
        numbers: Float[Tensor, "N K X"],
        marks: Bool[Tensor, "N K"],
        *,
        scale: float,
    ) -> Float[Tensor, "T H V"]:
        memory, shape = self._memory, self._memory.shapes[layer]
        positions = torch.arange(numbers.shape[0], device=numbers.device)
        document = torch.zeros_like(positions)[None]
        evict = shift_decisions(marks[None], document, memory.shift)[0]
        visible = retain(
            positions[-q.shape[0] :], positions, evict.T, memory.window_tokens, shape.horizon
        )
        memory.seen[sequence, layer] += int(visible.sum())
        heads = numbers.transpose(0, 1)[None]  # (1, K, N, X)
        keys = heads[..., : shape.key_size]
        values = keys if shape.value_in_key else heads[..., shape.key_size :]
        values = values[..., : shape.value_size]
        return attend_part(q[None], keys, values, visible[None], scale=scale).out[0]
