"""Queries and random pages for tests of the kernels for a GPU, on the device there is."""

from typing import NamedTuple

import torch
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.pages import Lists, News, Slots
from tests.ops.paging import invent_pages


class Scene(NamedTuple):
    """One query of each sequence; the tables list a sequence and a head more than are asked for."""

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
    """Queries stand three quarters through the longest head; their rows are out of order."""
    B, store = len(lengths), store_dtype or dtype
    slots, lists = invent_pages(lengths, shape, S=page_tokens)
    slots = slots._replace(keys=slots.keys.to(store), values=slots.values.to(store))
    now = max(1, max(map(max, lengths)) * 3 // 4)
    news = News(torch.arange(B).flip(0) + 1, torch.full((B,), now - 1), torch.arange(B) + 1)
    q = torch.randn(B + 2, shape.num_heads * group, shape.key_size).to(dtype)
    return Scene(*place((q, news, slots, widen(lists)), device), shape)


def widen(lists: Lists) -> Lists:
    """Put a sequence in front, and a head behind all others, that hold no page."""
    pages, num_held = lists
    return Lists(
        torch.nn.functional.pad(pages, (0, 0, 0, 1, 1, 0)),
        torch.nn.functional.pad(num_held, (0, 1, 1, 0)),
    )


def place(parts, device):
    """Move tensors, and tuples of them, to a device."""
    if isinstance(parts, Tensor):
        return parts.to(device)
    moved = [place(part, device) for part in parts]
    return type(parts)(*moved) if hasattr(parts, "_fields") else moved
