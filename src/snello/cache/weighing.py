"""Attention that shows its weights, for sequences that append equally many tokens.

Knows nothing of pages or rules. Plain torch.
Dims: B sequences, Q queries, H query heads, K key-value heads, N keys, D key size, E value size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.layout import Group


class Rows(NamedTuple):
    """Rows of the flat batch that are worked on together, without padding."""

    sequences: Int[Tensor, " B"]
    rows: Int[Tensor, "B Q"]
    positions: Int[Tensor, "B Q"]


def split_group(group: Group) -> Iterator[Rows]:
    """Yield single tokens together, and longer pieces one by one: weights of many are large."""
    if group.is_decode:
        yield Rows(group.sequences, group.rows, group.query_positions)
        return
    for index, count in enumerate(group.counts.tolist()):
        one = slice(index, index + 1)
        rows, positions = group.rows[one, :count], group.query_positions[one, :count]
        yield Rows(group.sequences[one], rows, positions)


def weigh(
    q: Float[Tensor, "B Q H D"],
    keys: Float[Tensor, "B K N D"],
    visible: Bool[Tensor, "B K Q N"],
    scale: float,
) -> tuple[Float[Tensor, "B H Q N"], Float[Tensor, "B H Q N"]]:
    """Return scores, minus infinity where a key is hidden, and their softmax, in float32.

    Every query sees itself.
    """
    B, Q, H, D = q.shape
    K = keys.shape[1]
    grouped = q.float().view(B, Q, K, H // K, D).permute(0, 2, 3, 1, 4) * scale
    scores = grouped @ keys.float().transpose(-1, -2)[:, :, None]  # (B, K, g, Q, N)
    scores = scores.masked_fill(~visible[:, :, None], -torch.inf).flatten(1, 2)
    return scores, scores.softmax(dim=-1)


def read(
    weights: Float[Tensor, "B H Q N"], values: Float[Tensor, "B K N E"]
) -> Float[Tensor, "B Q H E"]:
    """Sum the values up by their weights."""
    B, H, Q, N = weights.shape
    K = values.shape[1]
    grouped = weights.view(B, K, H // K, Q, N)
    out: Tensor = grouped @ values.float()[:, :, None]  # (B, K, g, Q, E)
    return out.flatten(1, 2).transpose(1, 2)
