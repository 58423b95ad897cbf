"""From logits to token ids: temperature, top-k, top-p, min-p, and a draw.

Knows nothing of requests, memory or models. The draw is a hash of the seed and of how many tokens
were drawn before, never a shared stream: a request's tokens do not depend on who shares its batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

_SMALLEST_TEMPERATURE = 1e-5
_UNIFORM_BITS = 52


class Ask(NamedTuple):
    """How one row is to be sampled; `num_drawn` counts the tokens that its request has so far."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    seed: int
    num_drawn: int

    @property
    def is_filtered(self) -> bool:
        """Whether any token is ruled out before the draw."""
        return self.top_k is not None or self.top_p < 1.0 or self.min_p > 0.0


def sample(logits: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Int[Tensor, " B"]:
    """Choose one token for each row; rows with temperature 0 take the largest logit."""
    greedy = logits.argmax(dim=-1)
    if all(ask.temperature == 0.0 for ask in asks):
        return greedy
    device = logits.device
    temperatures = torch.tensor([ask.temperature for ask in asks], device=device)
    softened = logits.float() / temperatures.clamp(min=_SMALLEST_TEMPERATURE)[:, None]
    weights = softened.softmax(dim=-1)
    if any(ask.is_filtered for ask in asks):
        weights = weights * find_allowed(weights, asks)
    seeds = torch.tensor([(ask.seed, ask.num_drawn) for ask in asks], device=device)  # (B, 2)
    drawn = choose(weights, draw_uniforms(seeds[:, 0], seeds[:, 1]))
    return torch.where(temperatures == 0.0, greedy, drawn)


def find_allowed(weights: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Bool[Tensor, "B V"]:
    """Tell which tokens may be drawn: first top-k, then top-p of what is left, then min-p.

    The likeliest token is always allowed. Equal weights are ranked by token id.
    """
    device, size = weights.device, weights.shape[-1]
    top_k = torch.tensor([ask.top_k or size for ask in asks], device=device)
    top_p = torch.tensor([ask.top_p for ask in asks], device=device)
    min_p = torch.tensor([ask.min_p for ask in asks], device=device)
    ranked, order = weights.sort(dim=-1, descending=True, stable=True)
    among_first = torch.arange(size, device=device) < top_k[:, None]
    ranked = ranked * among_first
    before = ranked.cumsum(dim=-1) - ranked
    # At 1.0 the sum's rounding must not cost the last tokens their place.
    in_nucleus = (before < top_p[:, None] * ranked.sum(-1, keepdim=True)) | (top_p >= 1.0)[:, None]
    allowed = among_first & in_nucleus & (ranked >= min_p[:, None] * ranked[:, :1])
    allowed[:, 0] = True
    return torch.zeros_like(allowed).scatter(-1, order, allowed)


def choose(weights: Float[Tensor, "B V"], uniforms: Float64[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Invert the cumulated weights at the uniforms; a token of weight zero is never chosen."""
    cumulated = weights.double().cumsum(dim=-1)
    threshold = uniforms[:, None] * cumulated[:, -1:]
    return (cumulated <= threshold).sum(dim=-1)


def draw_uniforms(seeds: Int[Tensor, " B"], indices: Int[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """Return one number in [0, 1) for each pair; the same pair always gives the same number.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014), applied to seed, then index.
    """
    mixed = _scramble(_scramble(seeds) + indices)
    return _shift_right(mixed, 64 - _UNIFORM_BITS).double() * 2.0**-_UNIFORM_BITS


def _scramble(x: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    # The constants 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB as signed numbers.
    x = x - 0x61C8864680B583EB
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


def _shift_right(x: Int[Tensor, " B"], num_bits: int) -> Int[Tensor, " B"]:
    """Shift as if the numbers were unsigned."""
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)
