"""Which texts are kept as states, found again by their token ids. Knows nothing of pages.

A text is named by a chain of hashes, one for each block of tokens, each of which covers all tokens
before it; a hit is compared token by token.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(slots=True, eq=False)
class Checkpoint:
    """A text and the sequence that holds its state; nobody appends to it.

    `sequence` becomes None when it had to give its memory to others.
    """

    token_ids: np.ndarray
    sequence: int | None
    num_wanted: int = 0
    """How many threads are going to start from it."""


class Match(NamedTuple):
    """A checkpoint, and how many tokens of it are those of the text that was looked up."""

    checkpoint: Checkpoint
    num_tokens: int


class PrefixIndex:
    """Checkpoints by their texts, least recently used first, and texts that were seen lately.

    Args:
        block_tokens: Tokens that one hash of the chain covers.
        can_cut: Whether a state can be used from any earlier point of its text. Without it, only
            a text that holds the whole of a checkpoint's text matches.
        max_seen: How many texts `find_common` remembers.
    """

    def __init__(self, *, block_tokens: int, can_cut: bool, max_seen: int = 256) -> None:
        self._block_tokens, self._can_cut, self._max_seen = block_tokens, can_cut, max_seen
        self._ordered: OrderedDict[Checkpoint, list[int]] = OrderedDict()
        self._by_key: dict[int, list[Checkpoint]] = {}
        self._seen: OrderedDict[int, tuple[np.ndarray, list[int]]] = OrderedDict()
        self._seen_by_key: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._ordered)

    def __iter__(self) -> Iterator[Checkpoint]:
        """Yield checkpoints, least recently used first."""
        return iter(list(self._ordered))

    def add(self, checkpoint: Checkpoint) -> None:
        """Take in a checkpoint, as the one used last."""
        keys = self._chain(checkpoint.token_ids)
        keys = keys if self._can_cut else keys[-1:]
        self._ordered[checkpoint] = keys
        for key in keys:
            self._by_key.setdefault(key, []).append(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Forget a checkpoint."""
        for key in self._ordered.pop(checkpoint):
            self._by_key[key].remove(checkpoint)
            if not self._by_key[key]:
                del self._by_key[key]

    def find(self, token_ids: Sequence[int], most_tokens: int) -> Match | None:
        """Return the longest beginning of a text, of at most `most_tokens`, that is held."""
        text = np.asarray(token_ids[:most_tokens], dtype=np.int64)
        for key in reversed(self._chain(text)):
            matches = [self._compare(checkpoint, text) for checkpoint in self._by_key.get(key, ())]
            best = max(matches, key=lambda match: match.num_tokens, default=None)
            if best is not None and best.num_tokens > 0:
                self._ordered.move_to_end(best.checkpoint)
                return best
        return None

    def note(self, token_ids: Sequence[int]) -> None:
        """Remember a text that was seen, without any state."""
        text = np.asarray(token_ids, dtype=np.int64)
        keys = self._chain(text)[1:]
        if not keys:
            return
        self._seen.pop(keys[-1], None)
        self._seen[keys[-1]] = text, keys
        self._seen_by_key |= dict.fromkeys(keys, text)
        if len(self._seen) > self._max_seen:
            _, (oldest, old_keys) = self._seen.popitem(last=False)
            for key in old_keys:
                if self._seen_by_key.get(key) is oldest:
                    del self._seen_by_key[key]

    def find_common(self, token_ids: Sequence[int]) -> int:
        """Return how many first tokens of a text were seen in another one before."""
        text = np.asarray(token_ids, dtype=np.int64)
        for key in reversed(self._chain(text)[1:]):
            if key in self._seen_by_key:
                return _count_common(self._seen_by_key[key], text)
        return 0

    def _compare(self, checkpoint: Checkpoint, text: np.ndarray) -> Match:
        num_common = _count_common(checkpoint.token_ids, text)
        is_usable = self._can_cut or num_common == len(checkpoint.token_ids)
        return Match(checkpoint, num_common if is_usable else 0)

    def _chain(self, text: np.ndarray) -> list[int]:
        """Hash the empty text, the first block, the first two, and so on."""
        keys = [0]
        size = self._block_tokens
        for end in range(size, len(text) + 1, size):
            keys.append(hash((keys[-1], text[end - size : end].tobytes())))
        return keys


def _count_common(first: np.ndarray, second: np.ndarray) -> int:
    size = min(len(first), len(second))
    differs = np.flatnonzero(first[:size] != second[:size])
    return int(differs[0]) if len(differs) else size
