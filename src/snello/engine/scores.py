"""How likely the model itself found the tokens that were chosen, and which others it liked better.

Knows nothing of how they were chosen: temperature, penalties and filters change no score here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from snello.config.sampling import MOST_TOP_LOGPROBS


class TokenLogprobs(NamedTuple):
    """Natural logarithms of probabilities at one place of a reply."""

    token_id: int
    """The token that was chosen."""

    logprob: float

    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with their logarithms, likeliest first."""


def score_tokens(
    logits: Float[Tensor, "B V"], token_ids: Int[Tensor, " B"], num_top: Sequence[int]
) -> list[TokenLogprobs]:
    """Return the scores of each row's chosen token and of its `num_top[i]` likeliest.

    Source: as vLLM's `raw_logprobs`, its default, and OpenAI's `logprobs`.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, token_ids[:, None])[:, 0].tolist()
    # Always the same number, so that equal scores are ordered alike in any company.
    best = logprobs.topk(min(MOST_TOP_LOGPROBS, logprobs.shape[-1]), dim=-1)
    places = zip(
        token_ids.tolist(),
        chosen,
        best.indices.tolist(),
        best.values.tolist(),
        num_top,
        strict=True,
    )
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(ids[:num], values[:num], strict=True)))
        for token_id, logprob, ids, values, num in places
    ]
