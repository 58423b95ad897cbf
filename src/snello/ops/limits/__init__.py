"""What the machine gives at most, for benchmarks: bytes read, int8 products. CPU kernels only.

Knows nothing of what the bytes mean.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor


def read_all(data: UInt8[Tensor, "*shape"]) -> None:
    """Read all bytes, with all of torch's threads, and do nothing with them."""
    torch.ops.snello.read_all(data)


def multiply_in_registers(num_rounds: int) -> int:
    """Multiply int8 numbers that are in registers already; return how many products that were."""
    num_products: int = torch.ops.snello.multiply_in_registers(num_rounds)
    return num_products
