"""Pages of random tokens for tests of operators that read and write them."""

from typing import NamedTuple

import torch
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.pages import Lists, News, Slots

EMPTY = 2**30


class Scene(NamedTuple):
    """Queries, and pages that hold `lengths[sequence][head]` tokens at positions below `now`."""

    q: Tensor
    news: News
    slots: Slots
    lists: Lists
    shape: CacheShape


def build_scene(
    lengths: list[list[int]],
    shape: CacheShape,
    *,
    group: int,
    page_tokens: int = 4,
    dtype: torch.dtype = torch.float32,
    store_dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Scene:
    """Deal pages out in random order; slots without a token hold numbers that are none."""
    S, K, B = page_tokens, shape.num_heads, len(lengths)
    num_pages = [[-(-length // S) for length in heads] for heads in lengths]
    total = sum(map(sum, num_pages))
    now = max(1, max(map(max, lengths)))
    value_width = 0 if shape.value_in_key else shape.value_size + 2
    keys = torch.full((total + 2, S, shape.key_size + 3), torch.nan)
    values = torch.full((total + 2, S, value_width), torch.nan)
    positions = torch.full((total + 2, S), EMPTY, dtype=torch.int32)
    width = max(map(max, num_pages)) + 3
    pages = torch.full((B + 1, K + 1, width), total, dtype=torch.int64)
    num_held = torch.zeros(B + 1, K + 1, dtype=torch.int64)
    order = iter(torch.randperm(total).tolist())
    for b, heads in enumerate(lengths):
        for head, length in enumerate(heads):
            mine = [next(order) for _ in range(num_pages[b][head])]
            pages[b + 1, head, : len(mine)] = torch.tensor(mine, dtype=torch.int64)
            num_held[b + 1, head] = len(mine)
            alive = torch.randperm(now)[:length].int()
            for i, page in enumerate(mine):
                part = alive[i * S : i * S + S]
                positions[page, : len(part)] = part
                keys[page, : len(part)] = torch.randn(len(part), keys.shape[-1])
                values[page, : len(part)] = torch.randn(len(part), value_width)
    store = store_dtype or dtype
    slots = Slots(
        keys.to(store), values.to(store), positions, torch.zeros_like(positions, dtype=torch.bool)
    )
    news = News(
        torch.arange(B).flip(0) + 1,
        torch.full((B,), now - 1) + torch.arange(B),
        torch.arange(B) + 1,
    )
    q = torch.randn(B + 2, K * group, shape.key_size).to(dtype)
    return Scene(
        q.to(device),
        News(*(part.to(device) for part in news)),
        Slots(*(part.to(device) for part in slots)),
        Lists(pages.to(device), num_held.to(device)),
        shape,
    )
