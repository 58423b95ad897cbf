"""Spare pages through the compiled kernel. Knows nothing of layers' keys, or of what is stored."""

import torch
from jaxtyping import Int, Int32
from torch import Tensor

from snello.ops.pages import Tails


def hand_out(  # noqa: PLR0913  (operators are told all they need)
    sequences: Int[Tensor, " B"],
    starts: Int[Tensor, " B"],
    tails: Tails,
    ring_tokens: Int[Tensor, " L"],
    num_heads: Int[Tensor, " L"],
    page_slots: int,
    free: Int[Tensor, " F"],
    num_free: int,
    num_holders: Int32[Tensor, " P"],
) -> int:
    """As `reference.hand_out`."""
    rule = ring_tokens, num_heads, page_slots
    pool = free, num_free, num_holders
    return int(torch.ops.snello.hand_out.default(sequences, starts, *tails, *rule, *pool))


def take_back(
    sequences: Int[Tensor, " B"],
    spare: Int[Tensor, "L N K"],
    free: Int[Tensor, " F"],
    num_free: int,
    num_holders: Int32[Tensor, " P"],
) -> int:
    """As `reference.take_back`."""
    pool = free, num_free, num_holders
    return int(torch.ops.snello.take_back.default(sequences, spare, *pool))
