"""Rows of numbers in one byte each, under a scale of their own: how survivors may be stored.

The one place where that rounding is written for torch; `rule.h` and `triton.py` repeat it for
kernels. Knows nothing of pages, or of who is stored so.
"""

from snello.ops.narrow.reference import FORMATS, narrow, round_trip, widen

__all__ = ["FORMATS", "narrow", "round_trip", "widen"]
