"""Memory on huge pages, where kernels and system have them. Knows nothing of what is kept there.

A large tensor that is read in any order is read faster so: on pages of 4 KiB, every other read
waits for an address to be looked up.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from snello.ops.native import load_library

FEWEST_BYTES = 2**21
"""Less than a huge page is taken from torch as ever."""


def allocate_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of zeros; nothing is committed before it is written to, on most systems."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < FEWEST_BYTES or not load_library().is_loaded:
        return torch.zeros(*shape, dtype=dtype, device=device)
    raw: Tensor = torch.ops.snello.zeros_huge(num_bytes)
    return raw.view(dtype).view(*shape)
