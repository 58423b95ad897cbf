"""Attention of one query a sequence, read straight from the pages that its heads hold.

Knows nothing of windows, marks or layers: whoever calls holds only what may be seen.

Contract, the same for every backend: `attend_pages` as in reference.py. What a sequence reads does
not depend on who shares the call; on CPU bit for bit.
"""

from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.native import Backend
from snello.ops.pages import Lists, Slots


class AttendPages(Protocol):
    """See `reference.attend_pages`."""

    def __call__(  # noqa: D102, PLR0913  (the contract is the class's)
        self,
        q: Float[Tensor, "T H D"],
        rows: Int[Tensor, " B"],
        query_positions: Int[Tensor, " B"],
        sequences: Int[Tensor, " B"],
        slots: Slots,
        lists: Lists,
        shape: CacheShape,
        *,
        scale: float,
        out: Float[Tensor, "T H E"],
        num_seen: Int[Tensor, " B"],
    ) -> None: ...


def resolve(backend: Backend) -> AttendPages:
    """Return the function of a backend; called once, when a memory is built."""
    if backend == "cpu":
        from snello.ops.page_attend.cpu import attend_pages
    else:
        from snello.ops.page_attend.reference import attend_pages
    return attend_pages
