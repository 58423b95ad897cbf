"""Threads whose live tokens wait in host memory, and whether that is worth it.

Knows nothing of requests or of who has to give way.
"""

from time import perf_counter

from snello.cache.paged import PagedMemory
from snello.cache.state import SequenceState, copy_out, measure_state, put_in
from snello.engine.request import Thread

FIRST_GUESS_BYTES_PER_S = 2e9
"""How fast tokens are moved, until it has been measured: below what any of today's buses does."""


class Shelf:
    """Copies of sequences that gave their pages away, of at most `budget_bytes` in all.

    Moving costs its bytes twice, out and in again; computing again costs tokens. Both speeds are
    measured as the engine runs.
    """

    def __init__(self, memory: PagedMemory, budget_bytes: int) -> None:
        self._memory, self._budget_bytes = memory, budget_bytes
        self._states: dict[Thread, SequenceState] = {}
        self.bytes_per_s = FIRST_GUESS_BYTES_PER_S
        self.tokens_per_s: float | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all copies."""
        return sum(state.num_bytes for state in self._states.values())

    def holds(self, thread: Thread) -> bool:
        """Whether a thread's tokens are here."""
        return thread in self._states

    def note_speed(self, num_tokens: int, seconds: float) -> None:
        """Learn how fast prompts are computed."""
        speed = num_tokens / max(seconds, 1e-9)
        self.tokens_per_s = _blend(self.tokens_per_s, speed)

    def is_worth_it(self, thread: Thread) -> bool:
        """Whether a thread's tokens fit here, and come back sooner than they would be computed."""
        if thread.memory_sequence is None or self._budget_bytes == 0 or not self._memory.can_move:
            return False
        num_bytes = measure_state(self._memory, thread.memory_sequence)
        if self.num_bytes + num_bytes > self._budget_bytes:
            return False
        if self.tokens_per_s is None:
            return True
        return 2 * num_bytes / self.bytes_per_s < thread.num_stored / self.tokens_per_s

    def put(self, thread: Thread) -> None:
        """Copy a thread's tokens; its pages are the caller's to give back."""
        assert thread.memory_sequence is not None
        started = perf_counter()
        state = copy_out(self._memory, thread.memory_sequence)
        self._states[thread] = state
        self.bytes_per_s = _blend(
            self.bytes_per_s, state.num_bytes / max(perf_counter() - started, 1e-9)
        )

    def bring_back(self, thread: Thread) -> None:
        """Put a thread's tokens into pages again.

        Raises:
            OutOfPages: no room; nothing has changed.
        """
        state = self._states[thread]
        thread.memory_sequence = put_in(self._memory, state)
        thread.num_stored = state.num_tokens
        del self._states[thread]

    def drop(self, thread: Thread) -> None:
        """Forget a thread's tokens, if they are here."""
        self._states.pop(thread, None)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else 0.8 * old + 0.2 * new
