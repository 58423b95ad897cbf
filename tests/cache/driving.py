"""Driving memories directly with random numbers, as a decoder would, in steps of any size."""

import math

import torch

from snello.config.model import CacheShape, Horizon

PLAIN = CacheShape(num_heads=2, key_size=8, value_size=8)
MIXED = (
    CacheShape(num_heads=1, key_size=8, value_size=4),
    PLAIN,
    CacheShape(num_heads=1, key_size=12, value_size=9, value_in_key=True),
    CacheShape(
        num_heads=2, key_size=8, value_size=8, horizon=Horizon(kind="sliding", span_tokens=21)
    ),
    CacheShape(
        num_heads=2, key_size=8, value_size=8, horizon=Horizon(kind="chunked", span_tokens=24)
    ),
)
"""One shared head with narrow values, grouped queries, MLA, and both horizons."""

QUERY_HEADS = 4


class Text:
    """The numbers of one sequence, for each layer: queries, keys, values, eviction logits."""

    def __init__(self, num_tokens, shapes, *, evicted=0.5, seed=0):
        self.num_tokens = num_tokens
        self.layers = [
            self._invent(shape, evicted, seed + 100 * i) for i, shape in enumerate(shapes)
        ]

    def _invent(self, shape, evicted, seed):
        generator = torch.Generator().manual_seed(seed)
        T, K = self.num_tokens, shape.num_heads
        q = torch.randn(T, QUERY_HEADS, shape.key_size, generator=generator)
        k = torch.randn(T, K, shape.key_size, generator=generator)
        v = torch.randn(T, K, shape.value_size, generator=generator)
        logits = evicted - torch.rand(T, K, generator=generator)
        return q, k, None if shape.value_in_key else v, logits

    def rows(self, layer, first, last):
        return [None if part is None else part[first:last] for part in self.layers[layer]]


def take_step(memory, handles, texts, counts):
    """Append counts[i] tokens to sequence i, where not 0; return what each read, by layer."""
    live = [i for i, count in enumerate(counts) if count]
    starts = [memory.length(handles[i]) for i in live]
    step = memory.begin([handles[i] for i in live], [counts[i] for i in live])
    read = [[] for _ in texts]
    for layer in range(len(texts[0].layers)):
        pieces = [
            texts[i].rows(layer, start, start + counts[i])
            for i, start in zip(live, starts, strict=True)
        ]
        given = [None if part[0] is None else torch.cat(part) for part in zip(*pieces, strict=True)]
        out = step.attend(layer, *given, scale=1 / math.sqrt(given[1].shape[-1]))
        for i, part in zip(live, out.split([counts[i] for i in live]), strict=True):
            read[i].append(part)
    memory.commit(step)
    return read


def take_plan(memory, texts, plan, handles=None):
    """Take all steps of a plan; return for each sequence and layer what was read."""
    handles = handles or [memory.add() for _ in texts]
    reads = [take_step(memory, handles, texts, counts) for counts in plan]
    return handles, [
        [
            torch.cat([read[i][layer] for read in reads if read[i]])
            for layer in range(len(texts[0].layers))
        ]
        for i in range(len(texts))
    ]


def plan_chunks(texts, size):
    """Steps of at most `size` tokens of each text, until all texts are at their end."""
    longest = max(text.num_tokens for text in texts)
    return [
        [min(size, max(0, text.num_tokens - first)) for text in texts]
        for first in range(0, longest, size)
    ]


def assert_same(reads, expected, atol=1e-5):
    for read, wanted in zip(reads, expected, strict=True):
        for part, part_wanted in zip(read, wanted, strict=True):
            torch.testing.assert_close(part, part_wanted, atol=atol, rtol=0)
