"""Chance decides, at a given rate: the baseline that any rule must beat.

Knows nothing of the text: a mark depends on the seed, the layer, the position and the head alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BITS = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Random:
    """Marks each token of each head with probability `rate`, the same in every sequence."""

    rate: float
    seed: int = 0
    needs_logits: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(
                f"Random.rate is {self.rate}; it must lie in 0.0 to 1.0. It is the share of tokens "
                "to evict: 0.9 keeps one in ten."
            )

    def mark(
        self,
        layer: int,
        logits: Float[Tensor, "T K"] | None,  # noqa: ARG002
        positions: Int[Tensor, " T"],
        num_heads: int,
    ) -> Bool[Tensor, "T K"]:
        """Mark by a hash of seed, layer, head and position, so that chunks cannot change it."""
        heads = torch.arange(num_heads, device=positions.device)
        mixed = _scramble(positions.long()[:, None] + _scramble(heads + _salt(layer, self.seed)))
        return mixed < self.rate * (BITS + 1)


def _salt(layer: int, seed: int) -> int:
    return (layer * 0x9E3779B1 + seed * 0x85EBCA77 + 1) & BITS


def _scramble(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Hash 31-bit numbers: multiply and fold, three times.

    Source: the finaliser of MurmurHash3, cut to 31 bits so that int64 products do not overflow.
    """
    mixed = numbers & BITS
    for factor in (0x85EBCA6B & BITS, 0xC2B2AE35 & BITS, 0x27D4EB2F):
        mixed = ((mixed ^ (mixed >> 15)) * factor) & BITS
    return mixed ^ (mixed >> 16)
