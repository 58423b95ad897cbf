"""Which rows of a flat batch belong together. Knows nothing of keys, pages or heads.

Sequences that append one token each form one group; longer ones are grouped with others of about
their length and padded to the longest, at most twice the shortest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from snello.cache.store import EMPTY


@dataclass(frozen=True, slots=True)
class Group:
    """B sequences that append up to T tokens each, as padded rows of the flat batch.

    Padding is marked three times: row 0 in `rows`, -1 in `query_positions` (which sees nothing) and
    EMPTY in `key_positions` (which nothing sees).
    """

    sequences: Int[Tensor, " B"]
    starts: Int[Tensor, " B"]
    """How many tokens each sequence held before."""
    counts: Int[Tensor, " B"]
    rows: Int[Tensor, "B T"]
    query_positions: Int[Tensor, "B T"]
    key_positions: Int[Tensor, "B T"]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence appends exactly one token."""
        return self.rows.shape[1] == 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one step: B sequences, T rows, and the groups they are worked on in."""

    sequences: Int[Tensor, " B"]
    starts: Int[Tensor, " B"]
    """How many tokens each sequence held before."""
    counts: Int[Tensor, " B"]
    positions: Int[Tensor, " T"]
    lengths: Int[Tensor, " T"]
    owners: Int[Tensor, " T"]
    groups: tuple[Group, ...]


def arrange(
    sequences: Sequence[int], starts: Sequence[int], counts: Sequence[int], device: torch.device
) -> Layout:
    """Lay out a step in which `sequences[i]`, holding `starts[i]` tokens, appends `counts[i]`."""
    if not len(sequences) == len(starts) == len(counts) or not sequences:
        raise ValueError(
            f"a step got {len(sequences)} sequences and {len(counts)} counts; it needs as many "
            "counts as sequences, and at least one."
        )
    if min(counts) < 1 or len(set(sequences)) < len(sequences):
        raise ValueError(
            f"a step got sequences {list(sequences)} with counts {list(counts)}; each sequence "
            "may appear once and appends at least 1 token."
        )
    if max(counts) == 1:
        return _arrange_single(sequences, starts, device)
    owner, start, count = np.array(sequences), np.array(starts), np.array(counts)
    first_rows = count.cumsum() - count
    positions = np.arange(count.sum()) + (start - first_rows).repeat(count)
    bucket = np.ceil(np.log2(count)).astype(np.int64)  # 0: one token, then (2^(b-1), 2^b]
    groups = []
    for size in np.unique(bucket):
        chosen = np.flatnonzero(bucket == size)
        part = owner[chosen], start[chosen], count[chosen], first_rows[chosen]
        groups.append(_group(*part, device=device))
    return Layout(
        sequences=torch.from_numpy(owner).to(device),
        starts=torch.from_numpy(start).to(device),
        counts=torch.from_numpy(count).to(device),
        positions=torch.from_numpy(positions).to(device),
        lengths=torch.from_numpy((start + count).repeat(count)).to(device),
        owners=torch.from_numpy(owner.repeat(count)).to(device),
        groups=tuple(groups),
    )


def _arrange_single(
    sequences: Sequence[int], starts: Sequence[int], device: torch.device
) -> Layout:
    """Lay out a step of one token each, as most are: with as few tensors as it takes."""
    owners = torch.tensor(sequences, device=device)
    positions = torch.tensor(starts, device=device)
    ones = torch.ones_like(owners)
    shown = positions[:, None].to(torch.int32)
    rows = torch.arange(len(sequences), device=device)[:, None]
    group = Group(owners, positions, ones, rows, shown, shown)
    return Layout(owners, positions, ones, positions, positions + 1, owners, (group,))


def _group(
    owner: np.ndarray, start: np.ndarray, count: np.ndarray, first: np.ndarray, device: torch.device
) -> Group:
    column = np.arange(count.max())
    valid = column < count[:, None]
    positions = start[:, None] + column

    def tensor(array: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.from_numpy(array).to(device, dtype)

    return Group(
        sequences=tensor(owner),
        starts=tensor(start),
        counts=tensor(count),
        rows=tensor(np.where(valid, first[:, None] + column, 0)),
        query_positions=tensor(np.where(valid, positions, -1), torch.int32),
        key_positions=tensor(np.where(valid, positions, EMPTY), torch.int32),
    )
