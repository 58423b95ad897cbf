"""Which sequences are open, and how long each is. Knows nothing of pages."""

from collections.abc import Sequence


class Roster:
    """Handles 0 .. max_sequences - 1, each open or not, with the tokens it has been given."""

    def __init__(self, max_sequences: int) -> None:
        if max_sequences < 1:
            raise ValueError(f"max_sequences is {max_sequences}; it must be at least 1.")
        self._unused = list(range(max_sequences))[::-1]
        self._lengths: dict[int, int] = {}
        self._max_sequences = max_sequences

    @property
    def num_unused(self) -> int:
        """How many more sequences can be opened."""
        return len(self._unused)

    @property
    def open_sequences(self) -> list[int]:
        """The handles that are given out."""
        return sorted(self._lengths)

    def require_unused(self) -> None:
        """Raise `ValueError` if `open` would fail."""
        if not self._unused:
            raise ValueError(
                f"{self._max_sequences} sequences are open and no more are allowed; release one, "
                "or build the memory with a larger max_sequences."
            )

    def open(self) -> int:
        """Give out the handle of an empty sequence."""
        self.require_unused()
        handle = self._unused.pop()
        self._lengths[handle] = 0
        return handle

    def close(self, sequence: int) -> None:
        """Take a handle back."""
        self.length(sequence)
        del self._lengths[sequence]
        self._unused.append(sequence)

    def length(self, sequence: int) -> int:
        """How many tokens a sequence has been given, forgotten ones included."""
        if sequence not in self._lengths:
            raise ValueError(
                f"sequence {sequence} is not open; open ones are {sorted(self._lengths)}. "
                "Handles come from add() and end with release()."
            )
        return self._lengths[sequence]

    def lengthen(self, sequences: Sequence[int], counts: Sequence[int]) -> None:
        """Note that tokens were appended."""
        for sequence, count in zip(sequences, counts, strict=True):
            self._lengths[sequence] += count
