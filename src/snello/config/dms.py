"""How a model decides what to forget. Knows nothing of training or of storage."""

from dataclasses import dataclass
from typing import Literal

Variant = Literal["adapter", "borrowed"]
Granularity = Literal["head", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """Where a layer reads its eviction logit, and what a positive one means.

    Source: DMS, arXiv:2506.05345, and the authors' released recipe for the adapter variant.
    """

    variant: Variant = "adapter"
    """`adapter`: a small linear on the residual stream; `borrowed`: the last dimension of the first
    query head of each group."""

    granularity: Granularity = "head"
    """One decision for each key-value head, or one for the whole layer."""

    window_tokens: int = 256
    """A key stays visible while `query_position - key_position <= window_tokens`, marked or not."""

    shift: Literal[0, 1] = 1
    """1: token t's fate is announced by token t+1; 0: a token decides for itself."""

    scale: float = 100.0
    """The logit is `scale * reading - offset`."""

    offset: float = 5.0

    def __post_init__(self) -> None:
        if self.variant not in ("adapter", "borrowed"):
            raise ValueError(
                f"DecisionConfig.variant is {self.variant!r}; it must be 'adapter' or 'borrowed'."
            )
        if self.granularity not in ("head", "layer"):
            raise ValueError(
                f"DecisionConfig.granularity is {self.granularity!r}; it must be 'head' or 'layer'."
            )
        if self.window_tokens < 1:
            raise ValueError(
                f"DecisionConfig.window_tokens is {self.window_tokens}; it must be at least 1. "
                "Typical values are 16 to 512; to switch eviction off, use dense memory."
            )
        if self.shift not in (0, 1):
            raise ValueError(f"DecisionConfig.shift is {self.shift}; it must be 0 or 1.")
