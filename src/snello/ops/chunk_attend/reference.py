"""Attention of chunks over pages and themselves in plain torch. Knows nothing of layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.attend import attend_part
from snello.ops.pages import Fresh, Lists, News, Slots
from snello.ops.retain import retain


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
) -> None:
    """Attend from `counts[b]` queries of each sequence, by the rule of `ops.retain`.

    The queries stand in rows `news.rows[b]` and following, at `news.positions[b]` and following;
    other rows of `out` are left alone. The rows of `fresh` belong to the queries' own tokens; where
    it is None, these are in the pages already. A query that sees nothing gives zeros. `num_seen[b]`
    grows by the tokens seen, summed over queries and key-value heads.
    """
    K, group = shape.num_heads, q.shape[1] // shape.num_heads
    columns = [part.tolist() for part in (*news, counts)]
    for b, (row, start, sequence, count) in enumerate(zip(*columns, strict=True)):
        rows, new = slice(row, row + count), torch.arange(start, start + count, device=q.device)
        for head, num_pages in enumerate(lists.num_held[sequence, :K].tolist()):
            pages = lists.pages[sequence, head, :num_pages]
            keys, values, positions, evict = (part[pages].flatten(0, 1) for part in slots)
            keys, values = keys[..., : shape.key_size].to(q.dtype), values.to(q.dtype)
            values = (keys if shape.value_in_key else values)[..., : shape.value_size]
            if fresh is not None:
                own = fresh.keys if shape.value_in_key else fresh.values
                keys = torch.cat([keys, fresh.keys[rows, head]])
                values = torch.cat([values, own[rows, head, : shape.value_size]])
                positions = torch.cat([positions, new.int()])
                evict = torch.cat([evict, fresh.evict[rows, head]])
            visible = retain(new, positions, evict[None], window_tokens, shape.horizon)
            mine = slice(head * group, (head + 1) * group)
            given = q[None, rows, mine], keys[None, None], values[None, None], visible[None]
            out[rows, mine] = attend_part(*given, scale=scale).out[0]
            num_seen[b] += visible.sum()
