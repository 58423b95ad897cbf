"""Who owns which page. Knows nothing of layers, heads or tokens: pages are numbers from a pool."""

import torch
from jaxtyping import Int
from torch import Tensor


class OutOfPages(Exception):  # noqa: N818  (an event the scheduler handles by waiting or preempting)
    """The pool cannot serve a request; nothing has been taken."""


class PagePool:
    """A fixed number of pages, each either free or held once.

    Invariant, see `check`: the first `num_free` entries of the stack are exactly the pages that are
    not marked as held.
    """

    def __init__(self, num_pages: int, device: torch.device) -> None:
        if num_pages < 1:
            raise ValueError(f"the pool was given {num_pages} pages; it needs at least 1.")
        self.num_pages = num_pages
        self.num_free = num_pages
        self._stack = torch.arange(num_pages, device=device).flip(0)  # page 0 is handed out first
        self._held = torch.zeros(num_pages, dtype=torch.bool, device=device)

    @property
    def num_held(self) -> int:
        """How many pages are taken."""
        return self.num_pages - self.num_free

    def require(self, count: int) -> None:
        """Raise `OutOfPages` if `take(count)` would fail."""
        if count > self.num_free:
            raise OutOfPages(
                f"{count} pages wanted, {self.num_free} of {self.num_pages} free; release a "
                "sequence, append fewer tokens at once, or build the memory with a larger budget."
            )

    def take(self, count: int) -> Int[Tensor, " count"]:
        """Hand out `count` pages.

        Raises:
            OutOfPages: fewer are free; the pool is as it was.
        """
        self.require(count)
        top = self.num_free
        self.num_free = top - count
        pages = self._stack[self.num_free : top].flip(0)
        self._held[pages] = True
        return pages

    def give_back(self, pages: Int[Tensor, " count"]) -> None:
        """Return pages that `take` handed out; a page given back twice is a bug in the caller."""
        assert bool(self._held[pages].all()), "a page was given back that is not held"
        self._held[pages] = False
        bottom = self.num_free
        self.num_free = bottom + pages.shape[0]
        self._stack[bottom : self.num_free] = pages.flip(0)

    def extend(self, first_page: int, count: int) -> None:
        """Add `count` free pages, numbered from `first_page`; numbers skipped are nobody's."""
        device = self._stack.device
        fresh = torch.arange(first_page, first_page + count, device=device).flip(0)
        self._stack = torch.cat([fresh, self._stack])
        skipped = torch.ones(first_page - len(self._held), dtype=torch.bool, device=device)
        self._held = torch.cat([self._held, skipped, torch.zeros_like(fresh, dtype=torch.bool)])
        self.num_pages += count
        self.num_free += count

    def check(self) -> None:
        """Raise if the invariant is broken; call it when idle, not in a step."""
        free = self._stack[: self.num_free]
        marked = self._held.clone()
        marked[free] = True
        if bool(self._held[free].any()) or not bool(marked.all()):
            raise RuntimeError(
                f"page accounting is broken: {int(self._held.sum())} held and {self.num_free} "
                f"free, of {self.num_pages} pages."
            )
