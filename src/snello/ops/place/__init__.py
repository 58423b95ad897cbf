"""Queries or keys of new tokens, normed head by head and turned. Knows nothing of layers.

Contract, the same for every backend: `place(x, weight, cos, sin, eps, interleaved)` as in
reference.py. A head's result does not depend on who shares the call, bit for bit.
"""

from collections.abc import Callable

from torch import Tensor

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., Tensor]:
    """Return the function of a backend; called once, when a model is packed."""
    if backend == "cpu":
        from snello.ops.place.cpu import place
    else:
        from snello.ops.place.reference import place
    return place
