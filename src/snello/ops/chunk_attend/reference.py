"""Attention of chunks over pages and themselves in plain torch. Knows nothing of layers."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.attend import attend_part
from snello.ops.narrow import round_trip
from snello.ops.pages import Fresh, Lists, Narrow, News, Slots, Tokens, load_head
from snello.ops.retain import is_recent, retain


def attend_chunks(  # noqa: PLR0913  (operators are told all they need)
    q: Float[Tensor, "T H D"],
    news: News,
    counts: Int[Tensor, " B"],
    fresh: Fresh | None,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    window_tokens: int,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """Attend from `counts[b]` queries of each sequence, by the rule of `ops.retain`.

    The queries stand in rows `news.rows[b]` and following, at `news.positions[b]` and following;
    other rows of `out` are left alone. The rows of `fresh` belong to the queries' own tokens; where
    it is None, these are in the pages already. A query that sees nothing gives zeros. `num_seen[b]`
    grows by the tokens seen, summed over queries and key-value heads. With `narrow`, what a query
    sees behind its window it sees rounded, also where it is not stored so yet.
    """
    K, group = shape.num_heads, q.shape[1] // shape.num_heads
    columns = [part.tolist() for part in (*news, counts)]
    for b, (row, start, sequence, count) in enumerate(zip(*columns, strict=True)):
        rows, new = slice(row, row + count), torch.arange(start, start + count, device=q.device)
        for head, num_pages in enumerate(lists.num_held[sequence, :K].tolist()):
            pages = lists.pages[sequence, head, :num_pages]
            tokens = _load(slots, pages, narrow, shape, q.dtype)
            if fresh is not None:
                keys, values, marks = (part[rows, head] for part in fresh)
                own = Tokens(keys, values, new.int(), marks, torch.zeros_like(marks))
                tokens = tokens.join(own)
            positions, evict = tokens.positions, tokens.evict[None]
            visible = retain(new, positions, evict, window_tokens, shape.horizon)
            num_seen[b] += visible.sum()
            if narrow is not None:
                recent = is_recent(new[:, None] - positions, window_tokens)
                tokens, visible = _round_old(tokens, visible, recent, narrow.dtype)
            keys, values = tokens.keys, tokens.values
            values = keys[:, : shape.value_size] if shape.value_in_key else values
            mine = slice(head * group, (head + 1) * group)
            given = q[None, rows, mine], keys[None, None], values[None, None], visible[None]
            out[rows, mine] = attend_part(*given, scale=scale).out[0]


def _load(
    slots: Slots,
    pages: Int[Tensor, " M"],
    narrow: Narrow | None,
    shape: CacheShape,
    dtype: torch.dtype,
) -> Tokens:
    """Read what is this layer's, which may be narrower than the widest, in the queries' dtype."""
    sizes = shape.key_size, shape.numbers_per_slot - shape.key_size
    tokens = load_head(slots, pages, narrow, sizes)
    return tokens._replace(keys=tokens.keys.to(dtype), values=tokens.values.to(dtype))


def _round_old(
    tokens: Tokens, visible: Bool[Tensor, "1 T X"], recent: Bool[Tensor, "T X"], dtype: torch.dtype
) -> tuple[Tokens, Bool[Tensor, "1 T Y"]]:
    """Add what exact tokens will be once they leave the window, for who sees them behind it."""
    exact = ~tokens.is_narrow
    later = Tokens(*(part[exact] for part in tokens))
    keys, values = round_trip(later.keys, dtype), round_trip(later.values, dtype)
    later = later._replace(keys=keys.to(later.keys.dtype), values=values.to(later.keys.dtype))
    behind = visible & ~recent
    return tokens.join(later), torch.cat([visible & (recent | ~exact), behind[..., exact]], dim=-1)
