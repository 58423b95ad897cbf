"""A step of single tokens written over another one of the same size, in place.

Who recorded the first (a CUDA graph) can then play it for the second. Knows nothing of graphs.
"""

from typing import Protocol, runtime_checkable

from snello.cache.layout import Layout
from snello.cache.work import Work


@runtime_checkable
class WorkedStep(Protocol):
    """What steps of dense and of sparse memory have in common."""

    layout: Layout
    works: list[Work]


def is_single(step: WorkedStep) -> bool:
    """Tell whether every sequence of a step appends exactly one token."""
    return all(work.group.is_decode for work in step.works)


def refill(step: WorkedStep, other: WorkedStep) -> None:
    """Let `step` say what `other` says, and count what it reads from zero.

    Both are of single tokens and as many sequences; rows are then numbered alike already.
    """
    mine, theirs = step.layout, other.layout
    for name in ("sequences", "starts", "positions", "lengths", "owners"):
        getattr(mine, name).copy_(getattr(theirs, name))
    (work,), (source,) = step.works, other.works
    for name in ("sequences", "starts", "query_positions", "key_positions"):
        getattr(work.group, name).copy_(getattr(source.group, name))
    work.about.copy_(source.about)
    work.num_seen.zero_()
    for told, news in zip(work.news, source.news, strict=True):
        told.copy_(news)


def report(step: WorkedStep, other: WorkedStep) -> None:
    """Let `other` know what was seen while `step` was played for it."""
    (work,), (target,) = step.works, other.works
    target.num_seen.copy_(work.num_seen)
