"""How many pages requests will hold at their ends, from what others really held.

Knows nothing of queues: it is asked whether one more would fit. Dims: R requests, L layers.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from snello.cache.paged import PagedMemory
from snello.engine.request import Request

REMEMBERED_LENGTHS = 256
DECAY = 0.95
MARGIN, SLACK = 1.25, 0.05
"""How much more of a prompt than is expected must find room before it is computed."""


class Outlook(NamedTuple):
    """Pages that a request alone holds now and at its end, and the steps from now to then."""

    now_pages: float
    end_pages: float
    num_steps: float


def find_peak(base_pages: float, outlooks: Sequence[Outlook]) -> float:
    """Return the most pages ever held, if each request grows evenly and leaves at its end.

    The sum can be largest only now or when a request is about to leave.
    """
    now, end, steps = np.array(outlooks, dtype=float).reshape(-1, 3).T
    times = np.append(steps, 0.0)[:, None]  # (R + 1, 1)
    grown = now + (end - now) * times / np.maximum(steps, 1.0)
    return float(base_pages + (grown * (times <= steps)).sum(axis=1).max())


class Forecast:
    """Running estimates of what is kept of what leaves the window, and of how long replies get.

    Both start at the worst: everything is kept, and every reply is as long as it may be.
    """

    def __init__(self, memory: PagedMemory, *, reserve_fraction: float, num_layers: int) -> None:
        self._memory, self._reserve_fraction = memory, reserve_fraction
        # One page of each layer, all kept, is the doubt with which the estimate begins.
        self._doubt = float(memory.store.page_tokens)
        self._kept = np.zeros(num_layers)
        self._left = np.zeros(num_layers)
        self._lengths: deque[int] = deque(maxlen=REMEMBERED_LENGTHS)

    def note_end(self, request: Request) -> None:
        """Learn from a request that is done, while it still holds its memory."""
        self._lengths.append(request.num_generated)
        sequence = request.thread.memory_sequence
        if sequence is not None:
            kept, left = self._memory.count_kept([sequence])
            self._kept = DECAY * self._kept + kept
            self._left = DECAY * self._left + left

    def estimate_kept(self, running: Sequence[int]) -> np.ndarray:
        """Return, for each layer, the share of tokens behind the window that is kept."""
        kept, left = self._kept, self._left
        if running:
            kept_now, left_now = self._memory.count_kept(list(running))
            kept, left = kept + kept_now, left + left_now
        return np.minimum((kept + self._doubt) / (left + self._doubt), 1.0)

    def promise_kept(self, running: Sequence[int]) -> np.ndarray:
        """Return the share of a prompt for which room must be there, for each layer."""
        return np.minimum(MARGIN * self.estimate_kept(running) + SLACK, 1.0)

    def expect_steps(self, request: Request) -> int:
        """Return how many more tokens a request is expected to generate, at least 1."""
        room = request.length_limit_tokens - len(request.thread.token_ids)
        limit = request.sampling.max_new_tokens
        most = room if limit is None else min(room, limit - request.num_generated)
        longer = [length for length in self._lengths if length > request.num_generated]
        if longer:
            most = min(most, round(sum(longer) / len(longer)) - request.num_generated)
        return max(1, most)

    def fits(self, running: Sequence[Request], newcomer: Request, wanted: Sequence[int]) -> bool:
        """Tell whether the pool is expected to hold a newcomer and the others to their ends.

        Args:
            running: Those that compute.
            newcomer: The one that asks for a place.
            wanted: Sequences that are held for others to start from.
        """
        own = [r.thread.memory_sequence for r in running if r.thread.memory_sequence is not None]
        kept = self.estimate_kept(own)
        together, alone = self._memory.count_pages([*own, *wanted])
        outlooks = [
            self._look_ahead(request, kept, held)
            for request, held in zip(running, alone, strict=False)
        ]
        outlooks.append(self._look_ahead(newcomer, kept, 0))
        base_pages = together - sum(alone[: len(own)])
        capacity = (1.0 - self._reserve_fraction) * self._memory.store.pool.num_pages
        return find_peak(base_pages, outlooks) <= capacity

    def _look_ahead(self, request: Request, kept: np.ndarray, held_pages: int) -> Outlook:
        num_steps, num_tokens = self.expect_steps(request), len(request.thread.token_ids)
        now, end = self._memory.expect_pages([num_tokens, num_tokens + num_steps], kept)
        origin = request.thread.origin
        shared = 0.0
        if origin is not None and origin.sequence is not None:
            shared = self._memory.expect_shared_pages(len(origin.token_ids), kept)
        is_reading = request.thread.num_pending > 1 or request.thread.memory_sequence is None
        current = max(held_pages, now - shared) if is_reading else held_pages
        return Outlook(current, current + end - now, num_steps)
