"""What one step knows about each of its groups, gathered once for all layers.

Knows nothing of layers, keys or pages.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from snello.cache.layout import Group, Layout
from snello.cache.meters import Meters
from snello.dms.decision import announced
from snello.ops.pages import News


@dataclass(frozen=True, slots=True)
class Work:
    """A group of sequences in one step."""

    group: Group
    news: News
    """The first new token of each; where one is all there is, that is what operators ask for."""

    about: Int[Tensor, " B"]
    """About which position the first row announces a mark; negative is nobody."""

    num_seen: Int[Tensor, " B"]
    """How many tokens its queries saw so far, summed over heads and layers; grows in place."""


def plan_work(layout: Layout, shift: int) -> list[Work]:
    """Gather what all layers will need."""
    return [
        Work(
            group,
            News(group.rows[:, 0].contiguous(), group.starts, group.sequences),
            announced(group.starts, shift),
            torch.zeros_like(group.starts),
        )
        for group in layout.groups
    ]


def count_reads(works: list[Work], meters: Meters) -> None:
    """Tell the meters what was seen in a step."""
    for work in works:
        meters.count_reads(work.group.sequences, work.num_seen)
