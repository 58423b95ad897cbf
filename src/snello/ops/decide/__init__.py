"""What the rows of a stream say about forgetting: eviction logits. Knows nothing of layers.

Contract, the same for every backend: `decide(x, norm, weight, eps, scale, offset)` as in
reference.py. A row's logits do not depend on who shares the call, bit for bit.
"""

from collections.abc import Callable

from torch import Tensor

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., Tensor]:
    """Return the function of a backend; called once, when a model is packed."""
    if backend == "cpu":
        from snello.ops.decide.cpu import decide
    else:
        from snello.ops.decide.reference import decide
    return decide
