"""Two small numbers in one byte: the first in its lower half. Knows nothing of what they mean."""

import torch
from jaxtyping import Int
from torch import Tensor


def pack_nibbles(codes: Int[Tensor, "*rows D"]) -> Int[Tensor, "*rows C"]:
    """Pack numbers from -8 to 7, given as int8; an odd last one stands beside a 0."""
    codes = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
    return (codes[..., 0::2] & 15) | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: Int[Tensor, "*rows C"], size: int) -> Int[Tensor, "*rows D"]:
    """Return the first `size` numbers, as int8."""
    both = torch.stack([(packed << 4) >> 4, packed >> 4], dim=-1)
    return both.flatten(-2)[..., :size]
