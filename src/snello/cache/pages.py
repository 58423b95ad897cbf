"""Who owns which page. Knows nothing of layers, heads or tokens: pages are numbers from a pool."""

import torch
from jaxtyping import Int, Int32
from torch import Tensor


class OutOfPages(Exception):  # noqa: N818  (an event the scheduler handles by waiting or preempting)
    """The pool cannot serve a request; nothing has been taken."""


class PagePool:
    """A fixed number of pages, each free or held by one or more.

    Invariant, see `check`: the first `num_free` entries of the stack are exactly the pages that
    nobody holds.
    """

    def __init__(self, num_pages: int, device: torch.device) -> None:
        if num_pages < 1:
            raise ValueError(f"the pool was given {num_pages} pages; it needs at least 1.")
        self.num_pages = num_pages
        self.num_free = num_pages
        self._stack = torch.arange(num_pages, device=device).flip(0)  # page 0 is handed out first
        self.num_holders = torch.zeros(num_pages, dtype=torch.int32, device=device)

    @property
    def num_held(self) -> int:
        """How many pages are taken; one that is shared counts once."""
        return self.num_pages - self.num_free

    def require(self, count: int) -> None:
        """Raise `OutOfPages` if `take(count)` would fail."""
        if count > self.num_free:
            raise OutOfPages(
                f"{count} pages wanted, {self.num_free} of {self.num_pages} free; release a "
                "sequence, append fewer tokens at once, or build the memory with a larger budget."
            )

    def take(self, count: int) -> Int[Tensor, " count"]:
        """Hand out `count` pages, each to one holder.

        Raises:
            OutOfPages: fewer are free; the pool is as it was.
        """
        self.require(count)
        top = self.num_free
        self.num_free = top - count
        pages = self._stack[self.num_free : top].flip(0)
        self.num_holders[pages] = 1
        return pages

    def share(self, pages: Int[Tensor, " count"]) -> None:
        """Count one more holder of each page; all of them are held already."""
        assert bool((self.num_holders[pages] > 0).all()), "a page was shared that is not held"
        self.num_holders.index_add_(0, pages, torch.ones_like(pages, dtype=torch.int32))

    def give_back(self, pages: Int[Tensor, " count"]) -> Int[Tensor, " freed"]:
        """Count one holder less for each mention of a page, and return those that are now free.

        One mention too many is a bug in the caller.
        """
        self.num_holders.index_add_(0, pages, torch.full_like(pages, -1, dtype=torch.int32))
        left = self.num_holders[pages]
        assert bool((left >= 0).all()), "a page was given back that is not held"
        freed: Int[Tensor, " freed"] = torch.unique(pages[left == 0])
        bottom = self.num_free
        self.num_free = bottom + freed.shape[0]
        self._stack[bottom : self.num_free] = freed.flip(0)
        return freed

    @property
    def state(self) -> tuple[Int[Tensor, " F"], int, Int32[Tensor, " P"]]:
        """The stack, how many of it are free, and how many hold each page, for operators."""
        return self._stack, self.num_free, self.num_holders

    def extend(self, first_page: int, count: int) -> None:
        """Add `count` free pages, numbered from `first_page`; numbers skipped are nobody's."""
        device = self._stack.device
        fresh = torch.arange(first_page, first_page + count, device=device).flip(0)
        self._stack = torch.cat([fresh, self._stack])
        skipped = self.num_holders.new_ones(first_page - len(self.num_holders))
        fresh_holders = self.num_holders.new_zeros(count)
        self.num_holders = torch.cat([self.num_holders, skipped, fresh_holders])
        self.num_pages += count
        self.num_free += count

    def check(self) -> None:
        """Raise if the invariant is broken; call it when idle, not in a step."""
        free = self._stack[: self.num_free]
        held = self.num_holders > 0
        known = held.clone()
        known[free] = True
        if bool(held[free].any()) or not bool(known.all()):
            raise RuntimeError(
                f"page accounting is broken: {int(held.sum())} held and {self.num_free} "
                f"free, of {self.num_pages} pages."
            )
