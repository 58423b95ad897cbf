"""Which tokens each row of each step holds: packed or padded, by number alone.

Knows nothing of models. A batch depends on the seed and on the step's number, on nothing that went
before it, so a resumed run sees what the uninterrupted one would have seen.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.retrofit.documents import Document

PADDING = -1
_SLICES_OF_ONE_SORT = 16
_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens. Positions restart with each document; padding has the segment -1."""

    tokens: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    segments: Int[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    """Weight in the distillation: 0 for padding and after the end of a text."""

    first_row: int
    """Number of the first row in the whole step, over processes and accumulation."""

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """Which tokens are not padding."""
        return self.segments != PADDING

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        return Batch(
            self.tokens.to(device),
            self.positions.to(device),
            self.segments.to(device),
            self.weights.to(device),
            self.first_row,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Documents by number, shuffled anew in each round over a source that ends."""

    write: Callable[[int], Document]
    """Gives the document of a number; it has at least one token."""

    size: int | None
    seed: int

    def __getitem__(self, number: int) -> Document:
        if self.size is None:
            return self.write(number)
        turn, place = divmod(number, self.size)
        return self.write(_shuffled(self.size, self.seed, turn)[place])

    def mean_tokens(self) -> float:
        """Mean length of the first documents; it only spaces out where rows begin."""
        lengths = [len(self[number].ids) for number in range(min(self.size or _SAMPLE, _SAMPLE))]
        return sum(lengths) / len(lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How rows are made: all of one step's rows have numbers, whoever computes them."""

    documents: Documents
    rows_of_step: int
    sequence_tokens: int
    eos_ids: tuple[int, ...]
    prompt_weight: float
    stride: int
    """Packed: row r starts with document `r * stride`, and takes as many as fit. 0: padded."""

    def batch(self, step: int, rows: range) -> Batch:
        """Return the given rows of a step."""
        texts, length = self._pack(step, rows) if self.stride else self._choose(step, rows)
        shape = (len(texts), length)
        tokens = torch.zeros(shape, dtype=torch.long)
        positions = torch.zeros(shape, dtype=torch.long)
        segments = torch.full(shape, PADDING)
        weights = torch.zeros(shape)
        for i, row in enumerate(texts):
            start = 0
            for segment, document in enumerate(row):
                end = start + len(document.ids)
                tokens[i, start:end] = torch.tensor(document.ids)
                positions[i, start:end] = torch.arange(end - start)
                segments[i, start:end] = segment
                weights[i, start:end] = self._weigh(document)
                start = end
        return Batch(tokens, positions, segments, weights, rows.start)

    def _weigh(self, document: Document) -> Float[Tensor, " T"]:
        """Weight of the prediction made at each token: one that reads the prompt's end is reply."""
        weights = torch.ones(len(document.ids))
        weights[: max(0, document.reply_start - 1)] = self.prompt_weight
        for end in self.eos_ids:
            weights[torch.tensor(document.ids) == end] = 0.0
        return weights

    def _pack(self, step: int, rows: range) -> tuple[list[list[Document]], int]:
        """Fill rows with document after document."""
        first = step * self.rows_of_step
        return [self._fill(first + row) for row in rows], self.sequence_tokens

    def _fill(self, row: int) -> list[Document]:
        """Fill one row; the last document is cut where the row ends."""
        packed: list[Document] = []
        room, number = self.sequence_tokens, row * self.stride
        while room > 0:
            packed.append(_cut(self.documents[number], room))
            room, number = room - len(packed[-1].ids), number + 1
        return packed

    def _choose(self, step: int, rows: range) -> tuple[list[list[Document]], int]:
        """Take the step's slice out of a sorted group of documents, and its longest length.

        The length is that of the whole step, so that a split over processes changes nothing.
        """
        group, place = divmod(step, _SLICES_OF_ONE_SORT)
        documents, order = _sorted_group(self, group)
        first = order[place] * self.rows_of_step
        longest = len(documents[first + self.rows_of_step - 1].ids)
        return [[documents[first + row]] for row in rows], longest


def make_plan(
    documents: Documents,
    *,
    rows_of_step: int,
    sequence_tokens: int,
    packed: bool,
    eos_ids: Sequence[int],
    prompt_weight: float,
) -> Plan:
    """Decide how rows are made of these documents."""
    return Plan(
        documents=documents,
        rows_of_step=rows_of_step,
        sequence_tokens=sequence_tokens,
        eos_ids=tuple(eos_ids),
        prompt_weight=prompt_weight,
        stride=max(1, round(sequence_tokens / documents.mean_tokens())) if packed else 0,
    )


def _shuffled(size: int, seed: int, turn: int) -> list[int]:
    return _shuffle(size, f"{seed}/{turn}")


@lru_cache(maxsize=4)
def _shuffle(size: int, key: str) -> list[int]:
    order = list(range(size))
    random.Random(key).shuffle(order)
    return order


@lru_cache(maxsize=2)
def _sorted_group(plan: Plan, group: int) -> tuple[list[Document], list[int]]:
    """Documents of sixteen steps from short to long, and the order in which steps take them."""
    size = plan.rows_of_step * _SLICES_OF_ONE_SORT
    chosen = [plan.documents[number] for number in range(group * size, (group + 1) * size)]
    cut = [_cut(document, plan.sequence_tokens) for document in chosen]
    ordered = sorted(cut, key=lambda document: len(document.ids))
    return ordered, _shuffle(_SLICES_OF_ONE_SORT, f"{plan.documents.seed}/group {group}")


def _cut(document: Document, num_tokens: int) -> Document:
    return Document(document.ids[:num_tokens], min(document.reply_start, num_tokens))
