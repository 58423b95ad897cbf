"""Rows of numbers in a byte or half a byte each, under a scale: how survivors may be stored.

The one place where that rounding is written for torch; `rule.h` and `triton.py` repeat it for
kernels. Knows nothing of pages, or of who is stored so.
"""

from snello.ops.narrow.reference import (
    BITS,
    FORMATS,
    INT4,
    SCALES,
    count_bytes,
    narrow,
    round_trip,
    widen,
)

__all__ = ["BITS", "FORMATS", "INT4", "SCALES", "count_bytes", "narrow", "round_trip", "widen"]
