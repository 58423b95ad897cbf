"""Attention of chunks of new tokens, over the pages of their heads and over the chunks themselves.

Knows nothing of layers, or of when a token is stored.

Contract, the same for every backend: `attend_chunks` as in reference.py.
"""

from collections.abc import Callable

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., None]:
    """Return the function of a backend; called once, when a memory is built."""
    if backend == "cpu":
        from snello.ops.chunk_attend.cpu import attend_chunks
    elif backend == "triton":
        from snello.ops.chunk_attend.triton import attend_chunks
    else:
        from snello.ops.chunk_attend.reference import attend_chunks
    return attend_chunks
