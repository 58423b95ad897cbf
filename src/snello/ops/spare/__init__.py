"""Pages for single tokens: handed to heads before a step, taken back after it.

Knows nothing of keys, or of what is stored. Contract, the same for every backend: `hand_out`
and `take_back` as in reference.py. They change the stack of free pages in place; the caller keeps
the number of those that are left on it.
"""

from collections.abc import Callable
from typing import NamedTuple

from snello.ops.native import Backend


class Spares(NamedTuple):
    """Both functions of a backend."""

    hand_out: Callable[..., int]
    take_back: Callable[..., int]


def resolve(backend: Backend) -> Spares:
    """Return the functions of a backend; called once, when a memory is built."""
    if backend == "cpu":
        from snello.ops.spare.cpu import hand_out, take_back
    else:
        from snello.ops.spare.reference import hand_out, take_back
    return Spares(hand_out, take_back)
