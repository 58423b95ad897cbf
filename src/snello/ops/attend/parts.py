"""Partial attentions and how they add up to the whole.

Knows nothing of how a part was computed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Part(NamedTuple):
    """Attention over some of the keys: what was read, and the logsumexp of the scores read.

    A row that sees nothing has zeros in `out` and minus infinity in `lse`.
    """

    out: Float[Tensor, "B Q H E"]
    lse: Float[Tensor, "B Q H"]


def merge(parts: Sequence[Part]) -> Part:
    """Attend over the union of the parts' keys, given the attention over each.

    The largest logsumexp is subtracted before exponentiating, and an empty part weighs nothing,
    also where all parts are empty.
    """
    lse = torch.stack([part.lse for part in parts])  # (parts, B, Q, H)
    largest = lse.amax(dim=0).clamp_min(torch.finfo(lse.dtype).min)  # finite also where empty
    weights = (lse - largest).exp()
    total = weights.sum(dim=0)
    shares = weights / total.clamp_min(torch.finfo(lse.dtype).tiny)
    out = torch.zeros_like(parts[0].out)
    for part, share in zip(parts, shares, strict=True):
        out += part.out * share[..., None].to(out.dtype)
    return Part(out, largest + total.log())
