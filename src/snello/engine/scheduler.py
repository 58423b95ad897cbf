"""Which requests go forward in a step, and by how many tokens each; who waits when pages run out.

Knows nothing of tensors, models or sampling: it counts tokens and asks the memory for room.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from snello.cache.dense import DenseMemory
from snello.cache.memory import Step
from snello.cache.pages import OutOfPages
from snello.cache.sparse import SparseMemory
from snello.engine.request import Costs, Request, Thread


class NeverFits(Exception):  # noqa: N818  an event, not a fault
    """A request needs more pages than there are, alone; the scheduler has let go of it."""

    def __init__(self, request: Request, reason: str) -> None:
        super().__init__(reason)
        self.request = request


class Share(NamedTuple):
    """How many of its pending tokens a request may compute in this step."""

    request: Request
    num_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether nothing is left pending, so that the next token can be sampled."""
        return self.num_tokens == self.request.thread.num_pending


@dataclass(frozen=True, slots=True)
class Batch:
    """The shares of one step, and the memory's promise to store them."""

    shares: list[Share]
    step: Step


class Scheduler:
    """Requests that wait and requests that run, oldest first.

    Invariant: a request is in `waiting` or in `running`, never in both; `running` threads hold
    memory, and so may threads in `idle` (kept for a next turn) and in `waiting` (a next turn); at
    most `max_sequences` hold any. When pages run out, threads that nobody works on give way, then
    the youngest request: its memory is released, and computed again later.
    """

    def __init__(
        self, memory: DenseMemory | SparseMemory, *, max_batch_tokens: int, max_sequences: int
    ) -> None:
        self._memory = memory
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = min(max_sequences, max_batch_tokens)
        self._is_admitting = True
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.idle: dict[int, Thread] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self.waiting.append(request)

    def schedule(self) -> Batch | None:
        """Return what to compute next, or None if nobody waits or runs.

        Raises:
            NeverFits: a request that is alone finds no room; it has been dropped.
        """
        while self.is_busy:
            batch = self._begin(self._propose())
            if batch is not None:
                return batch
            self._make_room()
        return None

    def finish(self, request: Request) -> None:
        """Let go of a request, wherever it stands; its memory stays only if its thread is kept."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._is_admitting = True
        if request.sequence is None:
            self.release(request.thread)
        else:
            self.idle[request.sequence] = request.thread

    def release(self, thread: Thread) -> None:
        """Give back the memory of a thread; its tokens stay known, and can be computed again."""
        if thread.memory_sequence is not None:
            thread.costs_before = self.measure(thread)
            self._memory.release(thread.memory_sequence)
            thread.memory_sequence = None
            thread.num_stored = 0

    def measure(self, thread: Thread) -> Costs:
        """Return what a thread has cost so far, in all memories that it held."""
        before, sequence = thread.costs_before, thread.memory_sequence
        if sequence is None:
            return before
        return Costs(
            before.kv_reads + self._memory.kv_reads(sequence),
            max(before.peak_live_tokens, self._memory.peak_live_tokens(sequence)),
            max(before.peak_bytes, self._memory.peak_sequence_bytes(sequence)),
        )

    def _propose(self) -> list[Share]:
        """Share the token budget out: decoding first, then prompts, then newcomers."""
        shares: list[Share] = []
        prefilling: list[Request] = []
        for request in self.running:
            if request.is_decoding:
                shares.append(Share(request, 1))
            else:
                prefilling.append(request)
        budget_tokens = self._max_batch_tokens - len(shares)
        self._admit(budget_tokens, prefilling)
        for request in prefilling:
            if budget_tokens == 0:
                break
            num_tokens = min(request.thread.num_pending, budget_tokens)
            shares.append(Share(request, num_tokens))
            budget_tokens -= num_tokens
        return shares

    def _admit(self, budget_tokens: int, prefilling: list[Request]) -> None:
        """Move waiting requests to `running` and `prefilling` while tokens and places are left."""
        budget_tokens -= sum(request.thread.num_pending for request in prefilling)
        while self.waiting and budget_tokens > 0 and (self._is_admitting or not self.running):
            if len(self.running) >= self._max_sequences:
                return
            if self.waiting[0].thread.memory_sequence is None:
                if self._count_holders() >= self._max_sequences:
                    self.release(self._find_unused()[0])
                self.waiting[0].thread.memory_sequence = self._memory.add()
            request = self.waiting.popleft()
            self.running.append(request)
            prefilling.append(request)
            budget_tokens -= request.thread.num_pending

    def _begin(self, shares: list[Share]) -> Batch | None:
        """Ask the memory for room, for ever smaller shares of the youngest prompts."""
        while shares:
            try:
                step = self._memory.begin(*_name_sequences(shares))
            except OutOfPages:
                youngest = shares.pop()
                if youngest.request.is_decoding:
                    return None
                if youngest.num_tokens > 1:
                    shares.append(youngest._replace(num_tokens=youngest.num_tokens // 2))
                elif youngest.request.thread.num_stored == 0:
                    self._yield_place(youngest.request)
            else:
                return Batch(shares, step)
        return None

    def _make_room(self) -> None:
        """Release the memory that is missed least: kept threads, then the youngest request."""
        unused = self._find_unused()
        if unused:
            self.release(unused[0])
        elif len(self.running) > 1:
            self._yield_place(max(self.running, key=lambda request: request.number))
        else:
            request = (self.running or self.waiting)[0]
            reason = (
                f"a request with {len(request.thread.token_ids)} tokens does not fit in memory, "
                "even alone; enlarge the page pool (--kv-memory-mib), or shorten the prompt."
            )
            raise NeverFits(request, reason)

    def _find_unused(self) -> list[Thread]:
        """Return the threads that hold memory while nobody works on them, least missed first."""
        waiting = [request.thread for request in reversed(self.waiting)]
        threads = [*self.idle.values(), *waiting]
        return [thread for thread in threads if thread.memory_sequence is not None]

    def _count_holders(self) -> int:
        return len(self.running) + len(self._find_unused())

    def _yield_place(self, request: Request) -> None:
        """Send a request back to wait, first in line; nobody is admitted until one finishes."""
        self.release(request.thread)
        self.running.remove(request)
        self.waiting.appendleft(request)
        self._is_admitting = False


def _name_sequences(shares: list[Share]) -> tuple[list[int], list[int]]:
    """Return the memory's handles of the shares' threads, and their tokens."""
    sequences: list[int] = []
    for share in shares:
        assert share.request.thread.memory_sequence is not None, "a share without memory"
        sequences.append(share.request.thread.memory_sequence)
    return sequences, [share.num_tokens for share in shares]
