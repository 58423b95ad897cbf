"""Where states of texts are taken, who starts from them, and which give way first.

Knows nothing of requests that wait or run. A state cannot be rolled back behind its window, so in
sparse memory a beginning can be shared only where a state was taken: at the end of a prompt, at the
end of a reply, every so often in a long prompt, and where a prompt departs from one seen before.
"""

from collections.abc import Sequence

import numpy as np

from snello.cache.dense import DenseMemory
from snello.cache.paged import PagedMemory
from snello.cache.pages import OutOfPages
from snello.cache.prefix import Checkpoint, PrefixIndex
from snello.config.engine import PrefixCacheConfig
from snello.engine.request import Thread


class Checkpoints:
    """States of texts, held in the memory as sequences that nobody appends to.

    Without a config none is kept for strangers; those that parallel samples wait for still are.
    """

    def __init__(self, memory: PagedMemory, config: PrefixCacheConfig | None) -> None:
        self._memory, self._config = memory, config
        block_tokens = memory.store.page_tokens
        self._index = PrefixIndex(block_tokens=block_tokens, can_cut=memory.can_cut)
        self.num_hits = 0
        self.num_hit_tokens = 0

    @property
    def wanted_sequences(self) -> list[int]:
        """The sequences that some thread is going to start from."""
        return [
            checkpoint.sequence
            for checkpoint in self._index
            if checkpoint.num_wanted and checkpoint.sequence is not None
        ]

    def start(self, thread: Thread) -> bool:
        """Let a thread without memory start from the longest state that fits it, if there is one.

        Raises:
            OutOfPages: no room for what it cannot share; nothing has changed.
        """
        origin = thread.origin
        if origin is not None and origin.sequence is not None:
            self._start_from_origin(thread, origin, origin.sequence)
            return True
        return self._config is not None and self._start_from_match(thread)

    def let_go(self, thread: Thread) -> None:
        """Note that a thread does not need its origin any more."""
        origin, thread.origin = thread.origin, None
        if origin is None or origin.sequence is None:
            return
        origin.num_wanted -= 1
        if origin.num_wanted == 0 and self._config is None:
            self._drop(origin)

    def hold(self, thread: Thread, others: Sequence[Thread]) -> None:
        """Take a state where one thread stands, for others to start from.

        Raises:
            OutOfPages: no room; nothing has changed.
        """
        match = self._index.find(thread.token_ids, thread.num_stored)
        if match and match.num_tokens == len(match.checkpoint.token_ids) == thread.num_stored:
            checkpoint = match.checkpoint
        else:
            checkpoint = self._take(thread)
        checkpoint.num_wanted += len(others)
        for other in others:
            other.origin = checkpoint

    def plan_cut(self, thread: Thread) -> None:
        """Decide where the prompt of a new thread is cut, so that a third one can share it."""
        if self._config is None or self._memory.can_cut:
            return
        num_common = min(self._index.find_common(thread.token_ids), len(thread.token_ids) - 1)
        is_worth_it = num_common >= max(self._config.min_tokens, thread.num_stored + 1)
        thread.cut_tokens = num_common if is_worth_it else None
        self._index.note(thread.token_ids)

    def take_on_the_way(self, thread: Thread, *, is_prompt_end: bool) -> None:
        """Take a state of what a thread has stored, if this is the place and there is room."""
        if self._config is None or thread.num_stored < self._config.min_tokens:
            return
        is_cut = thread.cut_tokens == thread.num_stored
        if not (is_cut or is_prompt_end or self._is_far(thread)):
            return
        match = self._index.find(thread.token_ids, thread.num_stored)
        if match is not None and match.num_tokens == thread.num_stored:
            return
        try:
            self._take(thread)
        except OutOfPages:
            return
        self._trim()

    def adopt(self, thread: Thread) -> bool:
        """Keep the state of a thread that is done, instead of its release, if that is wanted."""
        sequence = thread.memory_sequence
        if self._config is None or sequence is None or thread.num_stored < self._config.min_tokens:
            return False
        match = self._index.find(thread.token_ids, thread.num_stored)
        if match is not None and match.num_tokens == thread.num_stored:
            return False
        self._index.add(Checkpoint(_name(thread), sequence))
        thread.memory_sequence, thread.num_stored = None, 0
        self._trim()
        return True

    def drop_oldest(self, *, wanted: bool = False) -> bool:
        """Release the state that was used least recently; wanted ones only if told so."""
        for checkpoint in self._index:
            if wanted or not checkpoint.num_wanted:
                self._drop(checkpoint)
                return True
        return False

    def _start_from_origin(self, thread: Thread, origin: Checkpoint, sequence: int) -> None:
        if origin.num_wanted == 1 and self._config is None:
            self._index.remove(origin)
            origin.sequence = None
        else:
            sequence = self._memory.fork(sequence)
        thread.memory_sequence, thread.num_stored = sequence, len(origin.token_ids)
        self.let_go(thread)

    def _start_from_match(self, thread: Thread) -> bool:
        match = self._index.find(thread.token_ids, len(thread.token_ids) - 1)
        if match is None or match.checkpoint.sequence is None:
            return False
        if isinstance(self._memory, DenseMemory):
            sequence = self._memory.fork(match.checkpoint.sequence, match.num_tokens)
        else:
            sequence = self._memory.fork(match.checkpoint.sequence)
        thread.memory_sequence, thread.num_stored = sequence, match.num_tokens
        self.num_hits += 1
        self.num_hit_tokens += match.num_tokens
        return True

    def _is_far(self, thread: Thread) -> bool:
        """Whether a long way has been gone since the last state of this text."""
        assert self._config is not None
        match = self._index.find(thread.token_ids, thread.num_stored)
        last = 0 if match is None else match.num_tokens
        return thread.num_stored - last >= self._config.every_tokens

    def _take(self, thread: Thread) -> Checkpoint:
        assert thread.memory_sequence is not None, "a state was to be taken of nothing"
        if self._memory.num_unused_sequences == 0 and not self.drop_oldest():
            raise OutOfPages("no handle is left for a state; nothing has changed.")
        checkpoint = Checkpoint(_name(thread), self._memory.fork(thread.memory_sequence))
        self._index.add(checkpoint)
        return checkpoint

    def _trim(self) -> None:
        """Give up the oldest states until those left keep within their bounds."""
        assert self._config is not None
        most_pages = self._config.pool_share * self._memory.store.pool.num_pages
        while len(self._index) > self._config.max_checkpoints or self._count_pages() > most_pages:
            if not self.drop_oldest():
                return

    def _count_pages(self) -> int:
        sequences = [c.sequence for c in self._index if c.sequence is not None]
        return self._memory.count_pages(sequences)[0] if sequences else 0

    def _drop(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.sequence is not None
        self._index.remove(checkpoint)
        self._memory.release(checkpoint.sequence)
        checkpoint.sequence = None


def _name(thread: Thread) -> np.ndarray:
    return np.array(thread.token_ids[: thread.num_stored], dtype=np.int64)
