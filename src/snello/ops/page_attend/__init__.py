"""Attention of one query a sequence, read straight from the pages that its heads hold.

Knows nothing of windows, marks or layers: whoever calls holds only what may be seen.

Contract, the same for every backend: `attend_pages` as in reference.py. What a sequence reads does
not depend on who shares the call, bit for bit.
"""

from collections.abc import Callable

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., None]:
    """Return the function of a backend; called once, when a memory is built."""
    if backend == "cpu":
        from snello.ops.page_attend.cpu import attend_pages
    elif backend == "triton":
        from snello.ops.page_attend.triton import attend_pages
    else:
        from snello.ops.page_attend.reference import attend_pages
    return attend_pages
