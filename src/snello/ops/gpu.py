"""How kernels are launched: on how many programs, and in which numbers they multiply.

Knows nothing of what they compute. Where there is no GPU, Triton's interpreter runs them for tests
(TRITON_INTERPRET=1 before this package is imported).
"""

from functools import cache

import torch
import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
"""Exponentials are powers of 2 on a GPU; scores are scaled accordingly."""

PROGRAMS_PER_PROCESSOR = 2
INTERPRETED_PROGRAMS = 3

_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@cache
def count_programs(device: torch.device) -> int:
    """How many programs share the work of one call: about what the device runs at once."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return int(PROGRAMS_PER_PROCESSOR * processors)


def choose_product(dtype: torch.dtype) -> tl.dtype:
    """In which numbers queries of a dtype are multiplied; sums are float32 in any case.

    The interpreter of Triton 3.7 multiplies the bits of bfloat16 as if they were integers, so there
    it is float32.
    """
    if triton.knobs.runtime.interpret and dtype == torch.bfloat16:
        return tl.float32
    return _TYPES[dtype]
