"""The rule of delayed eviction for GPU kernels: reference.py again, on what stands in registers.

Knows nothing of pages.
"""

from typing import no_type_check

import triton
import triton.language as tl

from snello.config.model import Horizon

FULL = tl.constexpr(0)
SLIDING = tl.constexpr(1)

KINDS = {"full": 0, "sliding": 1, "chunked": 2}
"""How kernels call the kinds of a horizon."""


def unpack_horizon(horizon: Horizon) -> tuple[int, int]:
    """What kernels are told: the kind's number, and a span (1 where there is none)."""
    return KINDS[horizon.kind], horizon.span_tokens or 1


@triton.jit
@no_type_check
def in_sight(query, key, span, KIND: tl.constexpr):
    """As `reference.in_sight`, elementwise."""
    seen = key <= query
    if KIND == SLIDING:
        seen = seen & (query - key < span)
    elif KIND != FULL:
        seen = seen & (query // span == key // span)
    return seen


@triton.jit
@no_type_check
def is_recent(query, key, window):
    """As `reference.is_recent`, elementwise."""
    return query - key <= window


@triton.jit
@no_type_check
def retain(query, key, evict, window, span, KIND: tl.constexpr):
    """As `reference.retain`, elementwise over what broadcasts; `evict` as booleans."""
    return in_sight(query, key, span, KIND) & (is_recent(query, key, window) | ~evict)
