"""Append and retire in plain torch; unless survivors are narrow, the host looks at no number.

Knows nothing of layers, pools or queries.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.narrow import narrow as round_rows
from snello.ops.pages import Lists, Narrow, News, Slots, Tails, view_codes
from snello.ops.retain import in_sight


def append_token(  # noqa: PLR0913  (operators are told all they need)
    k: Float[Tensor, "T K D"],
    v: Float[Tensor, "T K E"],
    marks: Bool[Tensor, "T K"],
    news: News,
    about: Int[Tensor, " B"],
    slots: Slots,
    lists: Lists,
    tails: Tails,
    shape: CacheShape,
    ring_tokens: int,
    narrow: Narrow | None = None,
) -> None:
    """Store one new token of each sequence in its rings, and retire the tokens that they push out.

    A head's pages are, in this order, `ceil(ring_tokens / S)` of its ring, where position p lies at
    slot p % ring_tokens, and those of its survivors. Row `rows[b]` brings the token and a mark
    about the token at `about[b]`: the new one itself, one in the ring, or (negative) nobody. The
    token that leaves a ring is copied behind the survivors if it is not marked and still in sight
    of the new one; a head whose last page is full takes its spare page for it. With `narrow`, the
    copy is rounded.
    """
    S, V = slots.keys.shape[1], slots.positions.shape[1]
    heads = torch.arange(shape.num_heads, device=k.device)
    mine = news.sequences[:, None], heads
    evict, positions = slots.evict, slots.positions

    def find(positions: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"]]:
        slot = positions[:, None] % ring_tokens
        page = lists.pages[*mine, slot // S]
        return page, (slot % S).expand_as(page)

    marks, is_own = marks[news.rows], (about == news.positions)[:, None]
    is_told = (about >= 0)[:, None] & ~is_own
    told = find(about.clamp_min(0))
    evict[told] = marks.where(is_told, evict[told])
    old, slot = news.positions - ring_tokens, find(news.positions)
    is_seen = (old >= 0) & in_sight(news.positions, old, shape.horizon)
    kept = is_seen[:, None] & ~evict[slot]
    count, spare = tails.num_survivors[mine], tails.spare[mine]
    column = (-(-ring_tokens // S) + count // V).clamp_max(lists.pages.shape[-1] - 1)
    opens = kept & (count % V == 0)
    page = spare.where(opens, lists.pages[*mine, column])
    lists.pages[*mine, column] = page
    lists.num_held[mine] += opens
    tails.spare[mine] = spare.where(~opens, -1)
    tails.num_survivors[mine] += kept
    # What is dropped is copied onto itself.
    target = page.where(kept, slot[0]), (count % V).where(kept, slot[1])
    if narrow is None:  # of narrow survivors, no mark is in use
        evict[target] = evict[slot] & ~kept
    positions[target] = positions[slot]
    for i, (store, fresh) in enumerate(((slots.keys, k), (slots.values, v))):
        if narrow is None:
            store[target] = store[slot]
        else:
            rows, goal = store[slot][kept][:, : fresh.shape[-1]], (target[0][kept], target[1][kept])
            codes, narrow.scales[*goal, i] = round_rows(rows, narrow.dtype)
            view_codes(store, V)[*goal, : codes.shape[-1]] = codes
        store[*slot, : fresh.shape[-1]] = fresh[news.rows].to(store.dtype)
    positions[slot] = news.positions[:, None].expand_as(slot[0]).int()
    evict[slot] = marks & is_own
