"""The product of tokens with the experts they chose. Knows nothing of how they were chosen.

Contract, the same for every backend: `apply(x, chosen, weights, gate_up, down, activation,
weigh_input=...)` as in reference.py, where stacked weights are `(E, 2I, C)` and `(E, C, I)`.
"""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

BACKENDS = {"reference": "snello.ops.experts.reference:apply_experts"}


def resolve(backend: str) -> Callable[..., Tensor]:
    """Return the function of a backend; called once, when a decoder is built.

    Raises:
        ValueError: no backend of this name.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"experts backend is {backend!r}; it must be one of {', '.join(sorted(BACKENDS))}."
        )
    module, name = BACKENDS[backend].split(":")
    function: Callable[..., Tensor] = getattr(import_module(module), name)
    return function
