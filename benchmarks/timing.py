"""Seconds of work: of one piece, or of several in turns. Knows nothing of what is timed."""

import time
from collections.abc import Callable, Mapping


def time_once(work: Callable[[], object]) -> float:
    """Run something once; return its seconds by the host's clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(
    cases: Mapping[str, Callable[[], object]], num_rounds: int
) -> dict[str, list[float]]:
    """Return each case's seconds; they take turns, so that all meet the same machine.

    One round goes before, untimed.
    """
    for work in cases.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(num_rounds):
        for name, work in cases.items():
            seconds[name].append(time_once(work))
    return seconds
