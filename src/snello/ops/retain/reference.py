"""The rule of delayed eviction, in the fewest lines that state it exactly.

Knows nothing of how positions are stored: any integer tensors that broadcast will do.
"""

from jaxtyping import Bool, Int
from torch import Tensor

from snello.config.model import Horizon


def is_recent(distance: Int[Tensor, "..."], window_tokens: int) -> Bool[Tensor, "..."]:
    """Tell whether a key `distance` positions back is inside the window, where marks do not count.

    Source: DMS, arXiv:2506.05345 (delayed eviction); the edge `<=` as in its training mask, so that
    window_tokens + 1 positions are recent, the query itself included.
    """
    return distance <= window_tokens


def in_sight(
    query_positions: Int[Tensor, "..."], key_positions: Int[Tensor, "..."], horizon: Horizon
) -> Bool[Tensor, "..."]:
    """Tell which keys the base model itself lets a query see: none ahead, none behind the horizon.

    Elementwise over whatever the two shapes broadcast to.
    """
    not_ahead = key_positions <= query_positions
    if horizon.span_tokens is None:
        return not_ahead
    if horizon.kind == "sliding":
        return not_ahead & (query_positions - key_positions < horizon.span_tokens)
    return not_ahead & (
        query_positions // horizon.span_tokens == key_positions // horizon.span_tokens
    )


def retain(
    query_positions: Int[Tensor, "*batch Q"],
    key_positions: Int[Tensor, "*batch T"] | Int[Tensor, "*batch K T"],
    evict: Bool[Tensor, "*batch K T"],
    window_tokens: int,
    horizon: Horizon = Horizon(),  # noqa: B008  (frozen)
) -> Bool[Tensor, "*batch K Q T"]:
    """Tell which keys each query sees, per key-value head.

    A query sees a key that is in sight of the base model, and that is either at most
    `window_tokens` behind it or not marked in `evict`. `evict[h, t]` is the decision *about* token
    t, whichever token's activations it was read from: that shift happens where the decision is
    extracted. Key positions are shared by all heads, or given for each of them.
    """
    if key_positions.ndim < evict.ndim:
        key_positions = key_positions.unsqueeze(-2)
    queries = query_positions[..., None, :, None]  # (*batch, 1, Q, 1)
    keys = key_positions[..., None, :]  # (*batch, K or 1, 1, T)
    recent = is_recent(queries - keys, window_tokens)
    return in_sight(queries, keys, horizon) & (recent | ~evict[..., None, :])
