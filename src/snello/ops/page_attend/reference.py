"""Attention of single queries over pages in plain torch. Knows nothing of windows or layers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.attend import attend_part
from snello.ops.pages import Lists, Narrow, News, Slots, load_head
from snello.ops.retain import in_sight


def attend_pages(  # noqa: PLR0913  (operators are told all they need)
    q: Float[Tensor, "T H D"],
    news: News,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """Attend from one query of each sequence over all that its heads hold and that is in sight.

    Row `rows[b]` of `q` and `out` is the query of `sequences[b]`; other rows are left alone. A head
    that sees nothing gives zeros. `num_seen[b]` grows by the tokens seen, summed over the key-value
    heads. Without `narrow`, all pages are alike.
    """
    K, group = shape.num_heads, q.shape[1] // shape.num_heads
    sizes = shape.key_size, shape.numbers_per_slot - shape.key_size
    for b, sequence in enumerate(news.sequences.tolist()):
        row = news.rows[b]
        for head, count in enumerate(lists.num_held[sequence, :K].tolist()):
            tokens = load_head(slots, lists.pages[sequence, head, :count], narrow, sizes)
            seen = in_sight(news.positions[b], tokens.positions, shape.horizon)
            keys, values = tokens.keys[seen].to(q.dtype), tokens.values[seen].to(q.dtype)
            values = keys[..., : shape.value_size] if shape.value_in_key else values
            mine = slice(head * group, (head + 1) * group)
            visible = torch.ones_like(tokens.positions[seen], dtype=torch.bool)
            part = attend_part(
                q[None, None, row, mine],
                keys[None, None],
                values[None, None],
                visible[None, None, None],
                scale=scale,
            )
            out[row, mine] = part.out[0, 0]
            num_seen[b] += len(visible)
