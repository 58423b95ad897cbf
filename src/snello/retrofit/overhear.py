"""Reading a text with a model while what its layers compute on the way is written down.

Knows nothing of what it is wanted for: whoever asks gets queries, keys, values and streams.
Dims: T tokens, C stream, H query heads, K key-value heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.cache.dense import DenseMemory
from snello.cache.memory import Step
from snello.models.decoder import Decoder

PAGE_TOKENS = 16


@dataclass(slots=True)
class Overheard:
    """What one layer computed for the tokens of a text."""

    stream: Float[Tensor, "T C"]
    """What came in, before the layer's norm."""

    normed: Float[Tensor, "T C"]
    """What its attention was given."""

    queries: Float[Tensor, "T H D"]
    """After RoPE, as keys are."""

    keys: Float[Tensor, "T K D"]
    values: Float[Tensor, "T K E"]
    scale: float


@dataclass(slots=True)
class Ear:
    """A step that hands on everything, and remembers what attention was given."""

    step: Step
    heard: dict[int, tuple[Tensor, Tensor, Tensor, float]] = field(default_factory=dict)

    @property
    def positions(self) -> Int[Tensor, " T"]:
        """As the step's."""
        return self.step.positions

    @property
    def lengths(self) -> Int[Tensor, " T"]:
        """As the step's."""
        return self.step.lengths

    @property
    def wants_decisions(self) -> bool:
        """Nobody decides."""
        return False

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
        """Listen, then let the step attend."""
        self.heard[layer] = q, k, k if v is None else v, scale
        return self.step.attend(layer, q, k, v, logits, scale=scale)


@torch.no_grad()
def overhear(decoder: Decoder, token_ids: Sequence[int]) -> list[Overheard]:
    """Read a text from its beginning, whole, and tell what every layer computed."""
    shapes, device = decoder.cache_shapes, next(decoder.parameters()).device
    num_pages = sum(shape.num_heads for shape in shapes) * -(-len(token_ids) // PAGE_TOKENS)
    memory = DenseMemory(
        shapes, num_pages=num_pages, page_tokens=PAGE_TOKENS, max_sequences=1, device=device
    )
    step = memory.begin([memory.add()], [len(token_ids)])
    ear, came = Ear(step), _Inputs(decoder)
    try:
        decoder(torch.tensor(token_ids, device=device), ear)
    finally:
        came.stop()
    return [
        Overheard(came.streams[layer], came.normed[layer], *ear.heard[layer])
        for layer in range(len(shapes))
    ]


class _Inputs:
    """What layers and their attentions are called with, caught by hooks until `stop`."""

    def __init__(self, decoder: Decoder) -> None:
        self.streams: dict[int, Tensor] = {}
        self.normed: dict[int, Tensor] = {}
        self._hooks = []
        for index, layer in enumerate(decoder.model.layers):
            attention = layer.get_submodule("self_attn")
            for module, caught in ((layer, self.streams), (attention, self.normed)):
                hook = module.register_forward_pre_hook(_catch(caught, index))
                self._hooks.append(hook)

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _catch(caught: dict[int, Tensor], index: int) -> Any:
    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        caught[index] = args[0]

    return note
