"""From logits to token ids: edits, temperature, top-k, top-p, min-p, and a draw.

Knows nothing of requests, memory or models. No row's token depends on the other rows: every
operation runs along a row, and the draw is a function of the row's seed and index.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from snello.engine.dice import draw_uniforms
from snello.engine.edits import Edits, edit_logits

_SMALLEST_TEMPERATURE = 1e-5
_FIRST_CANDIDATES = 256


class Ask(NamedTuple):
    """How one row is to be sampled; `num_drawn` counts the tokens that its request has so far."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    seed: int
    num_drawn: int
    edits: Edits | None = None
    """What to do to the logits first, if anything."""

    num_top_logprobs: int | None = None
    """How many likeliest tokens to report beside the chosen one; None reports nothing."""

    @property
    def is_plain(self) -> bool:
        """Whether the largest logit is all that it takes."""
        return self.temperature == 0.0 and self.edits is None

    @property
    def is_filtered(self) -> bool:
        """Whether any token is ruled out before the draw."""
        return self.top_k is not None or self.top_p < 1.0 or self.min_p > 0.0


def sample(logits: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Int[Tensor, " B"]:
    """Choose one token for each row; rows with temperature 0 take the largest logit.

    Of equal logits the first token id is taken. `logits` stay as they are.
    """
    special = [row for row, ask in enumerate(asks) if not ask.is_plain]
    if len(special) == len(asks):
        return _choose_specially(logits.float(), asks)
    chosen = logits.argmax(dim=-1)
    if special:
        rows = torch.tensor(special, device=logits.device)
        chosen[rows] = _choose_specially(
            _pick(logits, special).float(), [asks[row] for row in special]
        )
    return chosen


def _choose_specially(logits: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Int[Tensor, " B"]:
    edited = [(row, ask.edits) for row, ask in enumerate(asks) if ask.edits is not None]
    if edited:
        logits = logits.clone()
        edit_logits(logits, edited)
    drawing = [row for row, ask in enumerate(asks) if ask.temperature > 0.0]
    if len(drawing) == len(asks):
        return _draw(logits, asks)
    chosen = logits.argmax(dim=-1)
    if drawing:
        rows = torch.tensor(drawing, device=logits.device)
        chosen[rows] = _draw(_pick(logits, drawing), [asks[row] for row in drawing])
    return chosen


def _draw(logits: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Int[Tensor, " B"]:
    device = logits.device
    temperatures = torch.tensor([ask.temperature for ask in asks], device=device)
    weights = (logits / temperatures.clamp(min=_SMALLEST_TEMPERATURE)[:, None]).softmax(dim=-1)
    filtered = [row for row, ask in enumerate(asks) if ask.is_filtered]
    if filtered:
        rows = torch.tensor(filtered, device=device)
        some = _pick(weights, filtered)
        weights[rows] = some * find_allowed(some, [asks[row] for row in filtered])
    uniforms = draw_uniforms([(ask.seed, ask.num_drawn) for ask in asks])
    return choose(weights, torch.from_numpy(uniforms).to(device))


def find_allowed(weights: Float[Tensor, "B V"], asks: Sequence[Ask]) -> Bool[Tensor, "B V"]:
    """Tell which tokens may be drawn: first top-k, then top-p of what is left, then min-p.

    Each row of weights adds up to 1. The likeliest token is always allowed; equal weights are
    ranked by token id. Only the heaviest tokens are sorted: as many as it takes to find where
    every row ends.
    """
    size = weights.shape[-1]
    num_candidates = min(size, max(_FIRST_CANDIDATES, *((ask.top_k or 0) + 1 for ask in asks)))
    while True:
        heaviest = weights.topk(num_candidates, dim=-1).values  # (B, num_candidates)
        num_allowed = _count_allowed(heaviest, asks)
        if num_candidates == size or not bool((num_allowed == num_candidates).any()):
            break
        num_candidates = min(size, 8 * num_candidates)
    last = heaviest.gather(-1, num_allowed[:, None] - 1)
    heavier, equal = weights > last, weights == last
    num_equal = num_allowed[:, None] - heavier.sum(dim=-1, keepdim=True)
    return heavier | (equal & (equal.cumsum(dim=-1) <= num_equal))


def _count_allowed(ranked: Float[Tensor, "B N"], asks: Sequence[Ask]) -> Int[Tensor, " B"]:
    """Return how many of a row's heaviest tokens may be drawn, as far as `ranked` shows them.

    Sums run along the ranks, one by one, so that more candidates never change an earlier sum.
    """
    device, num_candidates = ranked.device, ranked.shape[-1]
    has_top_k = torch.tensor([ask.top_k is not None for ask in asks], device=device)
    top_k = torch.tensor([ask.top_k or num_candidates for ask in asks], device=device)
    top_p = torch.tensor([ask.top_p for ask in asks], device=device)[:, None]
    min_p = torch.tensor([ask.min_p for ask in asks], device=device)[:, None]
    among_first = torch.arange(num_candidates, device=device) < top_k[:, None]
    kept = ranked * among_first
    cumulated = kept.cumsum(dim=-1)
    totals = torch.where(has_top_k, cumulated[:, -1], 1.0)[:, None]
    # At 1.0 the sum's rounding must not cost the last tokens their place.
    in_nucleus = (cumulated - kept < top_p * totals) | (top_p >= 1.0)
    allowed = among_first & in_nucleus & (ranked >= min_p * ranked[:, :1])
    return allowed.sum(dim=-1).clamp(min=1)


def choose(weights: Float[Tensor, "B V"], uniforms: Float64[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Invert the cumulated weights at the uniforms; a token of weight zero is never chosen."""
    cumulated = weights.cumsum(dim=-1, dtype=torch.float64)
    threshold = uniforms[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0]


def _pick(values: Float[Tensor, "B V"], rows: Sequence[int]) -> Float[Tensor, "R V"]:
    """Return some rows; where they are all, the tensor itself, which is large enough to mind."""
    if len(rows) == len(values):
        return values
    return values[torch.tensor(rows, device=values.device)]
