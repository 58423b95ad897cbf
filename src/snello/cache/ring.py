"""The arithmetic of window rings: how many tokens a layer keeps whatever their marks, and where.

Knows nothing of tensors of keys, or of which page is whose. A head's pages are, in this order:
    [0, ring_pages)            position p lies at ring slot p % ring_tokens
    [ring_pages, num_held)     survivors, in order of position
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from snello.config.model import CacheShape, Horizon

UNBOUNDED = 2**40


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring of one layer."""

    layer: int

    num_heads: int

    horizon: Horizon

    page_tokens: int

    ring_tokens: int
    """The window and the query itself, or the layer's horizon where that is nearer."""

    @property
    def survivor_span(self) -> int:
        """How many positions behind the ring are in sight; 0 where the horizon ends with it."""
        return (self.horizon.span_tokens or UNBOUNDED) - self.ring_tokens

    @property
    def ring_pages(self) -> int:
        """Pages of a full ring."""
        return -(-self.ring_tokens // self.page_tokens)


class Rings:
    """The rings of all layers. Beyond a horizon that the window covers, nothing survives.

    `bounded` lists the layers whose survivors fall out of sight some day, with a ring that is like
    those of all of them.
    """

    def __init__(
        self,
        shapes: Sequence[CacheShape],
        window_tokens: int,
        page_tokens: int,
        device: torch.device,
    ) -> None:
        self._page_tokens = page_tokens
        self.layers: list[Ring] = []
        for layer, shape in enumerate(shapes):
            ring_tokens = min(window_tokens + 1, shape.horizon.span_tokens or UNBOUNDED)
            ring = Ring(layer, shape.num_heads, shape.horizon, page_tokens, ring_tokens)
            self.layers.append(ring)
        sizes = [[ring.ring_tokens, ring.survivor_span] for ring in self.layers]
        self.ring_tokens = np.array([ring.ring_tokens for ring in self.layers])
        self._survivor_spans = np.array([ring.survivor_span for ring in self.layers])
        sizes_tensor = torch.tensor(sizes, device=device)
        self.bounded = _group_bounded(self.layers, device)
        self._tokens: Int[Tensor, "L 1"] = sizes_tensor[:, :1]
        self._spans: Int[Tensor, "L 1"] = sizes_tensor[:, 1:]

    def tell_survivors(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """Tell how many tokens each layer's ring holds, and how many heads keep any behind it."""
        num_heads = [ring.num_heads if ring.survivor_span > 0 else 0 for ring in self.layers]
        return self._tokens[:, 0].contiguous(), torch.tensor(num_heads, device=self._tokens.device)

    def pages_filled(self, lengths: Int[Tensor, " B"]) -> Int[Tensor, "L B"]:
        """How many ring pages sequences of these lengths need."""
        return (lengths.minimum(self._tokens) + self._page_tokens - 1) // self._page_tokens

    def num_filled(self, lengths: Int[Tensor, " B"]) -> Int[Tensor, "L B"]:
        """How many tokens the rings of such sequences hold."""
        return lengths.minimum(self._tokens)

    def count_behind(self, lengths: np.ndarray) -> np.ndarray:
        """How many tokens of sequences of B lengths are in sight behind each ring: (L, B)."""
        behind = np.maximum(lengths - self.ring_tokens[:, None], 0)
        bounded: np.ndarray = np.minimum(behind, self._survivor_spans[:, None])
        return bounded

    def most_survivors(
        self, starts: Int[Tensor, " B"], counts: Int[Tensor, " B"]
    ) -> Int[Tensor, "L B"]:
        """Upper bound of the survivors gained when `counts` tokens follow `starts` tokens."""
        leaving = (starts + counts - self._tokens).clamp_min(0)
        leaving = leaving - (starts - self._tokens).clamp_min(0)
        return leaving.minimum(self._spans)


def _group_bounded(
    rings: Sequence[Ring], device: torch.device
) -> list[tuple[Ring, Int[Tensor, " X"]]]:
    """Group the rings that have a horizon and survivors by all but their layer."""
    groups: dict[tuple[int, Horizon], list[Ring]] = {}
    for ring in rings:
        if ring.horizon.span_tokens is not None and ring.survivor_span > 0:
            groups.setdefault((ring.num_heads, ring.horizon), []).append(ring)
    return [
        (group[0], torch.tensor([ring.layer for ring in group], device=device))
        for group in groups.values()
    ]
