"""Which requests go forward in a step, and by how many tokens each; who waits when pages run out.

Knows nothing of tensors, models or sampling: it counts tokens and asks the memory for room.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from snello.cache.paged import PagedMemory, PagedStep
from snello.cache.pages import OutOfPages
from snello.config.engine import PrefixCacheConfig
from snello.engine.checkpoints import Checkpoints
from snello.engine.forecast import Forecast
from snello.engine.request import Costs, Request, Thread
from snello.engine.shelf import Shelf

STEPS_BETWEEN_LOOKS = 4
"""How long a newcomer for whom there is no room waits, if nobody ends, until it asks again."""


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

    @property
    def askers(self) -> list[Request]:
        """Those that sample the token behind this share: parallel samples do it together."""
        return [self.request, *self.request.siblings]


@dataclass(frozen=True, slots=True)
class Batch:
    """The shares of one step, and the memory's promise to store them."""

    shares: list[Share]
    step: PagedStep


@dataclass(frozen=True, slots=True)
class Tally:
    """What has happened so far to requests that share one memory."""

    num_preemptions: int
    """How often a request that had begun had to give its memory to others."""
    num_spoiled: int
    """How often a prompt kept more than there was room for, and was begun again."""
    num_moved: int
    """How many threads, kept ones included, had their tokens moved to host memory instead."""
    num_prefix_hits: int
    """How many threads started from the state of an equal beginning."""
    num_prefix_hit_tokens: int
    """Tokens that these did not have to compute."""
    kept_fraction: float
    """Estimated share of the tokens behind the window that is kept, a mean over layers."""


class Scheduler:
    """Requests that wait and requests that run, oldest first.

    Invariant: a request is in `waiting`, in `running` or a sibling of one that is, never in two of
    them; `running` threads hold memory, and so may threads in `idle` (kept for a next turn) and in
    `waiting` (a next turn); at most `max_sequences` hold any. When pages run out, states of texts
    give way first, then threads that nobody works on, then the youngest request: its memory is
    moved to the host or released, and it goes on later.
    """

    def __init__(
        self,
        memory: PagedMemory,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        prefix_cache: PrefixCacheConfig | None = None,
        swap_bytes: int = 0,
        reserve_fraction: float = 0.0,
    ) -> None:
        self._memory = memory
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = min(max_sequences, max_batch_tokens)
        self._checkpoints = Checkpoints(memory, prefix_cache)
        self._shelf = Shelf(memory, swap_bytes)
        self._forecast = Forecast(
            memory, reserve_fraction=reserve_fraction, num_layers=len(memory.shapes)
        )
        self._is_admitting = True
        self._num_steps_to_wait = 0
        self._num_preemptions = 0
        self._num_moved = 0
        self._num_spoiled = 0
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.idle: dict[int, Thread] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    @property
    def tally(self) -> Tally:
        """What has happened so far."""
        running = [request.thread.memory_sequence for request in self.running]
        kept = self._forecast.estimate_kept([s for s in running if s is not None])
        return Tally(
            num_preemptions=self._num_preemptions,
            num_spoiled=self._num_spoiled,
            num_moved=self._num_moved,
            num_prefix_hits=self._checkpoints.num_hits,
            num_prefix_hit_tokens=self._checkpoints.num_hit_tokens,
            kept_fraction=float(kept.mean()),
        )

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn."""
        if len(request.thread.token_ids) == request.num_prompt_tokens:
            self._checkpoints.plan_cut(request.thread)
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

    def settle(self, batch: Batch, seconds: float) -> None:
        """Take states of texts where a step has ended, and learn how fast it was."""
        num_tokens = sum(share.num_tokens for share in batch.shares)
        self._num_steps_to_wait = max(0, self._num_steps_to_wait - 1)
        if num_tokens > len(batch.shares):
            self._shelf.note_speed(num_tokens, seconds)
        for request, _ in batch.shares:
            if request.thread.memory_sequence in batch.step.promise.spoiled:
                self._begin_again(request)
            elif request.num_generated == 0:
                is_prompt_end = request.thread.num_pending == 0
                self._checkpoints.take_on_the_way(request.thread, is_prompt_end=is_prompt_end)

    def branch(self, leader: Request, siblings: list[Request]) -> None:
        """Dissolve a family whose members all have their first token.

        Those in `siblings`, who need more, go on from where their leader stands.
        """
        for request in leader.siblings:
            request.leader = None
        leader.siblings = []
        if not siblings:
            return
        with suppress(OutOfPages):  # or they compute the prompt for themselves
            self._checkpoints.hold(leader.thread, [request.thread for request in siblings])
        self.waiting.extendleft(reversed(siblings))

    def finish(self, request: Request, *, is_complete: bool) -> None:
        """Let go of a request, wherever it stands; its memory stays only if its thread is kept.

        A state of its text stays as well, if it is complete and states are kept.
        """
        if request.siblings:
            self._promote_heir(request)
        elif request.leader is not None:
            request.leader.siblings.remove(request)
        elif request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._is_admitting, self._num_steps_to_wait = True, 0
        if is_complete:
            self._forecast.note_end(request)
        if request.sequence is not None:
            self._checkpoints.let_go(request.thread)
            self.idle[request.sequence] = request.thread
        elif not (is_complete and self._checkpoints.adopt(request.thread)):
            self.release(request.thread)

    def release(self, thread: Thread) -> None:
        """Give back all that a thread holds; its tokens stay known, and can be computed again."""
        self._shelf.drop(thread)
        self._checkpoints.let_go(thread)
        self._empty(thread)

    def free_handle(self) -> None:
        """See to it that one more sequence can be opened."""
        if self._count_holders() >= self._max_sequences:
            self._vacate(self._find_unused()[0])
        while self._memory.num_unused_sequences == 0:
            if not self._give_up_unused():
                self._checkpoints.drop_oldest(wanted=True)

    def drop_prefixes(self) -> None:
        """Release all states of texts that no thread is going to start from."""
        while self.drop_oldest_prefix():
            pass

    def drop_oldest_prefix(self) -> bool:
        """Release one such state; return whether there was one."""
        return self._checkpoints.drop_oldest()

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
            num_tokens = _cut(request.thread, min(request.thread.num_pending, budget_tokens))
            shares.append(Share(request, num_tokens))
            budget_tokens -= num_tokens
        return shares

    def _admit(self, budget_tokens: int, prefilling: list[Request]) -> None:
        """Move waiting requests to `running` and `prefilling` while tokens and places are left."""
        budget_tokens -= sum(request.thread.num_pending for request in prefilling)
        while self.waiting and budget_tokens > 0 and self._may_admit(self.waiting[0]):
            request = self.waiting[0]
            if request.thread.memory_sequence is None and not self._open(request.thread):
                return
            self.waiting.popleft()
            self.running.append(request)
            prefilling.append(request)
            budget_tokens -= request.thread.num_pending

    def _may_admit(self, request: Request) -> bool:
        """Tell whether a request may begin; whoever is alone always may."""
        if not self.running:
            return True
        if not self._is_admitting or len(self.running) >= self._max_sequences:
            return False
        if self._num_steps_to_wait:
            return False
        if self._forecast.fits(self.running, request, self._checkpoints.wanted_sequences):
            return True
        self._num_steps_to_wait = STEPS_BETWEEN_LOOKS
        return False

    def _open(self, thread: Thread) -> bool:
        """Give a thread its tokens back, or a state to start from, or an empty sequence.

        Returns:
            Whether there was room; if nobody else runs, there always is.
        """
        self.free_handle()
        while True:
            try:
                if self._shelf.holds(thread):
                    self._shelf.bring_back(thread)
                elif not self._checkpoints.start(thread):
                    thread.memory_sequence = self._memory.add()
            except OutOfPages:
                if self._give_up_unused():
                    continue
                if self.running:
                    return False
                self._shelf.drop(thread)
                self._checkpoints.drop_oldest(wanted=True)
            else:
                return True

    def _give_up_unused(self) -> bool:
        """Release the memory that is missed least and that no running request holds."""
        if self._checkpoints.drop_oldest():
            return True
        unused = self._find_unused()
        if unused:
            self._vacate(unused[0])
        return bool(unused)

    def _begin(self, shares: list[Share]) -> Batch | None:
        """Ask the memory for room, for ever smaller shares of the youngest prompts."""
        kept = self._expect_kept(shares)
        while shares:
            try:
                step = self._memory.begin(*_name_sequences(shares), kept=kept)
            except OutOfPages:
                if self._checkpoints.drop_oldest():
                    continue
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

    def _expect_kept(self, shares: list[Share]) -> np.ndarray | None:
        """Say for how much of the prompts there must be room; None: for all of them."""
        is_decoding = all(share.num_tokens == 1 for share in shares)
        if is_decoding or any(share.request.thread.is_cautious for share in shares):
            return None
        return self._forecast.promise_kept(_name_sequences(shares)[0])

    def _make_room(self) -> None:
        """Release the memory that is missed least: what nobody works on, then the youngest."""
        if self._give_up_unused():
            return
        if len(self.running) > 1:
            self._yield_place(max(self.running, key=lambda request: request.number))
        elif not self._checkpoints.drop_oldest(wanted=True):
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
        self._num_preemptions += request.thread.num_stored > 0
        self._vacate(request.thread)
        self.running.remove(request)
        self.waiting.appendleft(request)
        self._is_admitting = False

    def _begin_again(self, request: Request) -> None:
        """Throw away what a prompt has spoiled; it keeps its place, with nothing left to luck."""
        self._num_spoiled += 1
        self._empty(request.thread)
        request.thread.is_cautious = True
        self.running.remove(request)
        self.waiting.appendleft(request)

    def _vacate(self, thread: Thread) -> None:
        """Take a thread's memory; its tokens are moved where that is cheaper than computing."""
        if self._shelf.is_worth_it(thread):
            self._shelf.put(thread)
            self._num_moved += 1
        self._empty(thread)

    def _empty(self, thread: Thread) -> None:
        if thread.memory_sequence is not None:
            thread.costs_before = self.measure(thread)
            self._memory.release(thread.memory_sequence)
            thread.memory_sequence = None
            thread.num_stored = 0

    def _promote_heir(self, leader: Request) -> None:
        """Let the first sibling take the place of a leader that ends before its first token."""
        heir, *others = leader.siblings
        leader.siblings, heir.leader, heir.siblings = [], None, others
        for request in others:
            request.leader = heir
        leader.thread, heir.thread = heir.thread, leader.thread
        queue = self.running if leader in self.running else self.waiting
        queue[queue.index(leader)] = heir


def _cut(thread: Thread, num_tokens: int) -> int:
    """Shorten a share of a prompt to where the prompt is to be cut, if that lies within."""
    to_cut = (thread.cut_tokens or 0) - thread.num_stored
    return to_cut if 0 < to_cut < num_tokens else num_tokens


def _name_sequences(shares: list[Share]) -> tuple[list[int], list[int]]:
    """Return the memory's handles of the shares' threads, and their tokens."""
    sequences: list[int] = []
    for share in shares:
        assert share.request.thread.memory_sequence is not None, "a share without memory"
        sequences.append(share.request.thread.memory_sequence)
    return sequences, [share.num_tokens for share in shares]
