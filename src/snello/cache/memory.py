"""What a decoder may ask of the memory it is handed: the one interface of all memories.

The decoder never asks which mode it is in; the memory is the mode. Dims: T rows of the flat batch,
H query heads, K key-value heads, D key size, E value size.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Step(Protocol):
    """One forward pass over a flat batch: T new tokens of several sequences, one by one."""

    @property
    def positions(self) -> Int[Tensor, " T"]:
        """Position of each row in its own sequence, from 0."""

    @property
    def lengths(self) -> Int[Tensor, " T"]:
        """For each row, how many tokens its sequence holds after this step (for dynamic RoPE)."""

    @property
    def wants_decisions(self) -> bool:
        """Whether `attend` needs eviction logits; if not, the decoder does not compute them."""

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        v: Float[Tensor, "T K E"] | None,
        logits: Float[Tensor, "T K"] | None,
        *,
        scale: float,
    ) -> Float[Tensor, "T H E"]:
        """Store the new tokens of one layer, then attend over what each row may see.

        Keys and queries come after RoPE. `v` is None where the value is part of the key (MLA).
        `logits[t, h]` is the raw eviction logit that row t emitted; the memory applies the shift.
        Query head h belongs to key-value head `h // (H // K)`.
        """


@runtime_checkable
class Memory(Protocol):
    """Where the tokens of many sequences live between steps."""

    def add(self) -> int:
        """Open an empty sequence and return its handle."""

    def begin(self, sequences: Sequence[int], counts: Sequence[int]) -> Step:
        """Prepare a step that appends `counts[i]` tokens to `sequences[i]`.

        Raises:
            OutOfPages: the pool cannot serve it; nothing has changed.
        """

    def commit(self, step: Step) -> None:
        """Declare the step done: the sequences are longer by what it appended."""

    def release(self, sequence: int) -> None:
        """Forget a sequence and give all its pages back."""

    def length(self, sequence: int) -> int:
        """How many tokens the sequence has been given so far, forgotten ones included."""
