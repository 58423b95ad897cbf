"""The oracle of all memories: python lists, and a mask over everything, written out plainly.

Knows nothing of pages, windows or eviction; keeps every key and value of every sequence.
"""

from dataclasses import dataclass, field

import torch

from snello.config.model import CacheShape


@dataclass
class NaiveSequence:
    length: int = 0
    keys: dict = field(default_factory=dict)  # layer -> list of (K, D)
    values: dict = field(default_factory=dict)


class NaiveStep:
    def __init__(self, memory, sequences, counts, wants_decisions):
        self.memory = memory
        self.sequences = sequences
        self.counts = counts
        self.wants_decisions = wants_decisions
        starts = [memory.sequences[handle].length for handle in sequences]
        ranges = list(zip(starts, counts, strict=True))
        self.positions = torch.cat([torch.arange(start, start + n) for start, n in ranges])
        self.lengths = torch.cat([torch.full((n,), start + n) for start, n in ranges])
        self.logits = {}

    def attend(self, layer, q, k, v, logits, *, scale):
        shape = self.memory.shapes[layer]
        assert k.shape[1:] == (shape.num_heads, shape.key_size)
        assert (v is None) == shape.value_in_key
        assert (logits is not None) == self.wants_decisions
        self.logits[layer] = logits
        out, first = [], 0
        for handle, count in zip(self.sequences, self.counts, strict=True):
            rows = slice(first, first + count)
            store = self.memory.sequences[handle]
            keys = store.keys.setdefault(layer, [])
            keys.extend(k[rows].unbind(0))
            values = store.values.setdefault(layer, [])
            values.extend((k[..., : shape.value_size] if v is None else v)[rows].unbind(0))
            out.append(attend_fully(q[rows], keys, values, self.positions[rows], shape, scale))
            first += count
        return torch.cat(out)


class NaiveMemory:
    """Keeps all; `wants_decisions` only makes it ask for logits, and remember them."""

    def __init__(self, shapes: tuple[CacheShape, ...], wants_decisions: bool = False):
        self.shapes = shapes
        self.wants_decisions = wants_decisions
        self.sequences = {}

    def add(self):
        self.sequences[len(self.sequences)] = NaiveSequence()
        return len(self.sequences) - 1

    def begin(self, sequences, counts):
        return NaiveStep(self, sequences, counts, self.wants_decisions)

    def commit(self, step):
        for handle, count in zip(step.sequences, step.counts, strict=True):
            self.sequences[handle].length += count

    def release(self, sequence):
        del self.sequences[sequence]

    def length(self, sequence):
        return self.sequences[sequence].length


def attend_fully(q, keys, values, positions, shape, scale):
    groups = q.shape[1] // shape.num_heads
    k = torch.stack(keys).repeat_interleave(groups, dim=1)  # (T, H, D)
    v = torch.stack(values).repeat_interleave(groups, dim=1)  # (T, H, E)
    scores = torch.einsum("qhd,thd->hqt", q, k) * scale
    mask = torch.tensor(
        [[sees(int(i), j, shape.horizon) for j in range(len(keys))] for i in positions]
    )
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqt,the->qhe", weights, v)


def sees(i, j, horizon):
    if j > i:
        return False
    if horizon.kind == "sliding":
        return j > i - horizon.span_tokens
    if horizon.kind == "chunked":
        return j // horizon.span_tokens == i // horizon.span_tokens
    return True
