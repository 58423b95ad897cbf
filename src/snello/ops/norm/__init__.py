"""Root-mean-square norm of rows, with the sum before it. Knows nothing of layers.

Contract, the same for every backend: `rms_norm(x, weight, eps)` as in reference.py.
"""

from collections.abc import Callable

from torch import Tensor

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return the function of a backend; called once, when an engine is built."""
    if backend == "cpu":
        from snello.ops.norm.cpu import rms_norm
    else:
        from snello.ops.norm.reference import rms_norm
    return rms_norm
