"""Products of float rows with weights in int8 or int4. Knows nothing of layers or of files.

Contract, the same for every backend: `multiply(x, packed, bias=..., residual=..., norm=...)` and
`look_up(packed, rows)` as in reference.py, `packed` as packing.py makes it. Activations are rounded
to int8 on the way, one scale for each row and weight group; sums within a group are exact. A row's
result does not depend on which other rows share the call.
"""

from collections.abc import Callable

from torch import Tensor

from snello.ops.native import Backend


def resolve(backend: Backend) -> Callable[..., Tensor]:
    """Return the function of a backend; called once, when weights are packed."""
    if backend == "cpu":
        from snello.ops.matmul.cpu import multiply as compiled

        return compiled
    from snello.ops.matmul.reference import multiply

    return multiply


def resolve_look_up(backend: Backend) -> Callable[..., Tensor]:
    """Return the function of a backend that reads rows of a packed weight."""
    if backend == "cpu":
        from snello.ops.matmul.cpu import look_up as compiled

        return compiled
    from snello.ops.matmul.reference import look_up

    return look_up
