"""Contestants, and the order in which they are timed: round by round, so that all see one machine.

Knows nothing of what a contestant is: our engine in this process, or a peer in its own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.bandwidth import Bandwidth
from benchmarks.traffic import Traffic

REST_SECONDS = 0.05
"""Lets the waiting threads of whoever ran last go to sleep."""


class Contestant(Protocol):
    """Someone who holds threads of thought, and gives each of them one token a step."""

    name: str

    def open(self, num_threads: int, context_tokens: int, num_steps: int) -> dict[str, Any]:
        """Hold texts, ready to decode at least `num_steps` more tokens of each.

        Returns:
            Figures about the opening, such as the seconds of a prefill.
        """

    def step(self, count: int) -> list[float]:
        """Take `count` steps, each of which gives every thread one token; return their seconds."""

    def traffic(self) -> Traffic:
        """Return the bytes that the next step must read."""

    def settings(self) -> dict[str, Any]:
        """Return version, formats and all that was chosen."""

    def close(self) -> None:
        """Let go of the threads of thought."""


@dataclass(slots=True)
class Entry:
    """What one contestant did in one contest."""

    contestant: Contestant
    opening: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    traffic: Traffic | None = None


def run_contest(
    contestants: Sequence[Contestant],
    bandwidth: Bandwidth,
    *,
    num_threads: int,
    context_tokens: int,
    num_rounds: int,
    steps_per_round: int,
) -> list[Entry]:
    """Let all open, then take turns; the order of turns is reversed in every second round."""
    num_steps = (num_rounds + 1) * steps_per_round
    bandwidth.restart()
    entries: list[Entry] = []
    try:
        for contestant in contestants:
            opening = contestant.open(num_threads, context_tokens, num_steps)
            entries.append(Entry(contestant, opening))
            contestant.step(steps_per_round)
        for entry in entries:
            entry.traffic = entry.contestant.traffic()
        for round_number in range(num_rounds):
            bandwidth.measure()
            for entry in entries[:: 1 if round_number % 2 == 0 else -1]:
                time.sleep(REST_SECONDS)
                entry.seconds += entry.contestant.step(steps_per_round)
    finally:
        for contestant in contestants[: len(entries) + 1]:
            contestant.close()
    return entries
