"""Attention in which forgetting is soft: the contract, and the choice of who computes it.

Knows nothing of layers, logits or noise: what it gets is the logarithm of keeping each token.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import Horizon

BACKENDS = {
    "reference": "snello.ops.soft_attend.reference:soft_attend",
    "blockwise": "snello.ops.soft_attend.blockwise:soft_attend",
    "flex": "snello.ops.soft_attend.flex:FlexAttend",
}


def positions_within(segments: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Count the tokens of each document from 0; documents are contiguous runs of one number."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    is_start = torch.ones_like(segments, dtype=torch.bool)
    is_start[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - (index * is_start).cummax(dim=1).values


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Layout:
    """Who may see whom among B packed rows of T tokens, before any forgetting.

    Invariant: `positions` counts each document of `segments` from 0, so that within a document
    the distance of two tokens is the distance of their places in the row.
    """

    segments: Int[Tensor, "B T"]
    """The document of each token; a document is a contiguous run of one number."""

    window_tokens: int
    """How far back a token is visible at full strength, whatever was decided about it."""

    horizon: Horizon
    positions: Int[Tensor, "B T"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", positions_within(self.segments))


@runtime_checkable
class SoftAttend(Protocol):
    """Attention over packed rows with a soft mask, differentiable in all four tensors."""

    def __call__(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T E"],
        log_keep: Float[Tensor, "B K T"] | None,
        layout: Layout,
        *,
        scale: float,
    ) -> Float[Tensor, "B H T E"]:
        """Attend; `log_keep[b, h, j]` is added to the score of key j once it left the window.

        It speaks *about* token j (the shift is done), is at most 0, and is shared by the H // K
        query heads of its group. Without it this is plain causal attention.
        """


def resolve(backend: str) -> SoftAttend:
    """Choose the implementation, once, when the trainer is built.

    Args:
        backend: `reference` (full matrix), `blockwise` (any device, memory of one query block),
            `flex` (FlexAttention; compiled where there is CUDA), or `auto`: flex where there is
            CUDA, else blockwise.

    Raises:
        ValueError: the name is not one of these.
    """
    name = backend
    if backend == "auto":
        name = "flex" if torch.cuda.is_available() else "blockwise"
    if name not in BACKENDS:
        raise ValueError(
            f"soft attention backend is {backend!r}; it must be one of "
            f"{', '.join(['auto', *BACKENDS])}. 'auto' suits every machine."
        )
    module, attribute = BACKENDS[name].split(":")
    found = getattr(import_module(module), attribute)
    if name == "flex":
        found = found(is_compiled=torch.cuda.is_available())
    return cast(SoftAttend, found)
