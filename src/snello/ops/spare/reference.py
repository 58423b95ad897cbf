"""Spare pages in plain torch. Knows nothing of layers' keys, or of what is stored.

Dims: L layers, N sequences that may be open, B that append one token each, K heads, P pages, F
places on the stack of free ones.
"""

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
    """Give a page to each head that may need one for the token that leaves its ring.

    That is: where a token leaves, and all survivor pages are full. Layers of which nothing survives
    have no heads in `num_heads`.

    Args:
        sequences: Their handles.
        starts: How many tokens each held before the step.
        tails: All layers' survivors and spare pages, `(L, N, K)`; no sequence has one yet.
        ring_tokens: How many tokens a full window holds.
        num_heads: Of each layer.
        page_slots: Survivors that a page holds.
        free: The stack of free pages, last in, first out.
        num_free: How many of it are free.
        num_holders: How many hold each page.

    Returns:
        How many were handed out; if more are needed than are free, that number, negative, and
        nothing has changed.
    """
    heads = torch.arange(tails.spare.shape[2], device=sequences.device)
    leaves = starts >= ring_tokens[:, None]  # (L, B)
    exists = heads < num_heads[:, None, None]
    needs = leaves[..., None] & exists & (tails.num_survivors[:, sequences] % page_slots == 0)
    count = int(needs.sum())
    if count > num_free:
        return -count
    pages = free[num_free - count : num_free].flip(0)
    spare = tails.spare[:, sequences]
    spare[needs] = pages
    tails.spare[:, sequences] = spare
    num_holders[pages] = 1
    return count


def take_back(
    sequences: Int[Tensor, " B"],
    spare: Int[Tensor, "L N K"],
    free: Int[Tensor, " F"],
    num_free: int,
    num_holders: Int32[Tensor, " P"],
) -> int:
    """Put the spare pages that sequences still have back on the stack; return how many."""
    left = spare[:, sequences]
    pages = left[left >= 0]
    free[num_free : num_free + len(pages)] = pages.flip(0)
    num_holders[pages] = 0
    spare[:, sequences] = -1
    return len(pages)
