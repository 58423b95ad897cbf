"""Contexts that nobody computed: a memory is filled with random keys, as if a text had been read.

Knows nothing of time. What a step costs depends on how many tokens each head holds, not on what is
in them; so a timing of decoding need not wait for a prefill. This file reaches into memories and
requests, past what they offer to others.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snello.cache.dense import DenseMemory, DenseStep
from snello.cache.heads import Chunk
from snello.cache.sparse import SparseMemory, SparseStep
from snello.config.engine import SamplingConfig
from snello.engine.engine import Engine

CHUNK_TOKENS = 1024
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Filler:
    """Fills sequences of one memory.

    Args:
        memory: dense or sparse.
        kept: for each layer and head, the share of tokens that survive the window; dense memory
            keeps all, whatever this says.
    """

    def __init__(self, memory: DenseMemory | SparseMemory, kept: Sequence[Sequence[float]]) -> None:
        self._memory, self._kept = memory, kept
        generator = torch.Generator().manual_seed(0)
        shape = memory.shapes[0]
        size = (CHUNK_TOKENS, shape.num_heads)
        self._keys = torch.randn(*size, shape.key_size, generator=generator)
        self._values = torch.randn(*size, shape.value_size, generator=generator)

    @torch.inference_mode()
    def append(self, sequence: int, num_tokens: int) -> None:
        """Append tokens to a sequence, a chunk at a time.

        Raises:
            OutOfPages: the pool cannot hold them; what fitted is there, and the caller releases it.
        """
        while num_tokens > 0:
            count = min(num_tokens, CHUNK_TOKENS)
            step = self._memory.begin([sequence], [count])
            if isinstance(step, SparseStep):
                self._append_sparse(step)
            else:
                self._append_dense(step)
            self._memory.commit(step)
            num_tokens -= count

    def _append_sparse(self, step: SparseStep) -> None:
        assert isinstance(self._memory, SparseMemory)
        (group,) = step.layout.groups
        rows = group.rows
        for layer, kept in enumerate(self._kept):
            evict = ~spread_evenly(step.positions, kept, layer)
            chunk = Chunk(
                self._keys[rows], self._values[rows], group.key_positions, evict[rows[0]][None]
            )
            self._memory.open_heads(layer, group).absorb(chunk)

    def _append_dense(self, step: DenseStep) -> None:
        memory, count = self._memory, len(step.positions)
        for layer, shape in enumerate(memory.shapes):
            slots = step._slots[:, layer, : shape.num_heads]
            positions = step.positions[:, None].expand_as(slots)
            unmarked = torch.zeros_like(slots, dtype=torch.bool)
            memory.store.write(slots, self._keys[:count], self._values[:count], positions, unmarked)


def spread_evenly(
    positions: Int[Tensor, " T"], kept: Sequence[float], layer: int
) -> Bool[Tensor, "T K"]:
    """Tell which tokens each head keeps: its share of any stretch, exact to one token."""
    shares = torch.tensor(kept, dtype=torch.float64)
    phases = torch.arange(len(kept), dtype=torch.float64) * GOLDEN + layer * GOLDEN**2
    steps = positions[:, None].double() * shares + phases % 1.0
    return (steps + shares).floor() > steps.floor()


@torch.inference_mode()
def add_filled(
    engine: Engine, filler: Filler, prompt_ids: Sequence[int], sampling: SamplingConfig
) -> int:
    """Add a request whose prompt, but for its last token, is in memory already; return its number.

    Raises:
        OutOfPages: it does not fit; the engine is as before.
    """
    memory = engine.memory
    sequence = memory.add()
    try:
        filler.append(sequence, len(prompt_ids) - 1)
    except BaseException:
        memory.release(sequence)
        raise
    number = engine.add(prompt_ids, sampling)
    thread = engine._requests[number].thread
    thread.memory_sequence, thread.num_stored = sequence, len(prompt_ids) - 1
    return number
