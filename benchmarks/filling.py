"""Contexts that nobody computed: a memory is filled with random keys, as if a text had been read.

Knows nothing of time. What a step costs depends on how many tokens each head holds, not on what is
in them; so a timing of decoding need not wait for a prefill. This file reaches into memories and
requests, past what they offer to others, and `PagedMemory.check` holds it to their rules.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.engine import SamplingConfig
from snello.engine.engine import Engine

NUM_RANDOM_TOKENS = 4096
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Filler:
    """Opens sequences of one memory that hold a text of any length already.

    Args:
        memory: dense or sparse, of layers that see all positions.
        kept: for each layer and head, the share of tokens that survive the window; dense memory
            keeps all, whatever this says.
    """

    def __init__(self, memory: DenseMemory | SparseMemory, kept: Sequence[Sequence[float]]) -> None:
        assert all(shape.horizon.kind == "full" for shape in memory.shapes), "horizons end here"
        self._memory, self._kept = memory, kept
        generator, shape = torch.Generator().manual_seed(0), memory.shapes[0]
        self._keys = torch.randn(NUM_RANDOM_TOKENS, shape.key_size, generator=generator)
        self._values = torch.randn(NUM_RANDOM_TOKENS, shape.value_size, generator=generator)

    @torch.inference_mode()
    def open(self, num_tokens: int) -> int:
        """Open a sequence of `num_tokens` tokens and return its handle.

        Raises:
            OutOfPages: the pool cannot hold it; nothing has changed.
        """
        memory, S = self._memory, self._memory.store.page_tokens
        num_ring = [min(num_tokens, self._ring_tokens(layer)) for layer in range(len(self._kept))]
        kept = [
            spread_evenly(torch.arange(num_tokens), shares, layer)
            for layer, shares in enumerate(self._kept)
        ]
        behind = [marks[: num_tokens - ring] for marks, ring in zip(kept, num_ring, strict=True)]
        survivors = torch.stack([marks.sum(0) for marks in behind])  # (L, K)
        ring_pages = (torch.tensor(num_ring)[:, None] + S - 1) // S
        num_pages = (ring_pages + (survivors + S - 1) // S)[:, None]  # (L, 1, K)
        memory.store.pool.require(int(num_pages.sum()))
        sequence = memory.add()
        pages = memory.store.pool.take(int(num_pages.sum()))
        memory.table.append_each(torch.tensor([sequence]), num_pages, pages)
        for layer, ring in enumerate(num_ring):
            self._write(layer, sequence, kept[layer], ring)
        if isinstance(memory, SparseMemory):
            memory.num_survivors[:, sequence] = survivors
        memory._roster.lengthen([sequence], [num_tokens])
        return sequence

    def _ring_tokens(self, layer: int) -> int:
        """How many tokens a full window holds; in dense memory every text is a window."""
        is_sparse = isinstance(self._memory, SparseMemory)
        return self._memory.rings.layers[layer].ring_tokens if is_sparse else 2**40

    def _write(self, layer: int, sequence: int, kept: Bool[Tensor, "T K"], num_ring: int) -> None:
        """Write the tokens of one layer: survivors in order, the window where positions say."""
        store = self._memory.store
        num_tokens, S = len(kept), store.page_tokens
        ring = torch.arange(num_tokens - num_ring, num_tokens)
        is_marked = ~kept[ring]
        is_marked[-1] = False  # its fate is not known yet
        for head in range(kept.shape[1]):
            pages = self._memory.table.pages[layer, sequence, head]
            old = kept[: num_tokens - num_ring, head].nonzero()[:, 0]
            first = -(-num_ring // S) * S
            places = [ring % self._ring_tokens(layer), first + torch.arange(len(old))]
            positions, place = torch.cat([ring, old]), torch.cat(places)
            marks = torch.cat([is_marked[:, head], torch.zeros_like(old, dtype=torch.bool)])
            if not isinstance(self._memory, SparseMemory):
                marks.zero_()
            source = (positions + 37 * head) % NUM_RANDOM_TOKENS
            slots = pages[place // S] * S + place % S
            store.write(slots, self._keys[source], self._values[source], positions, marks)


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
    sequence = filler.open(len(prompt_ids) - 1)
    number = engine.add(prompt_ids, sampling)
    thread = engine._requests[number].thread
    thread.memory_sequence, thread.num_stored = sequence, len(prompt_ids) - 1
    return number
