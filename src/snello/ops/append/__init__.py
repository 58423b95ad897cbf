"""One decoded token for all heads of a layer: stored, and the one it pushes out retired.

Knows nothing of layers, of queries, or of who hands out pages.

Contract, the same for every backend: `append_token` as in reference.py. Spare pages are handed out
before the step and what is left of them is taken back after it, so that no backend has to ask the
host for a page.
"""

from collections.abc import Callable

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., None]:
    """Return the function of a backend; called once, when a memory is built."""
    if backend == "cpu":
        from snello.ops.append.cpu import append_token
    elif backend == "triton":
        from snello.ops.append.triton import append_token
    else:
        from snello.ops.append.reference import append_token
    return append_token
