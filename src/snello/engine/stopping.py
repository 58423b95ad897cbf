"""Where a growing text reaches a stop string, and how much of it may be shown before that.

Knows nothing of tokens, tokenizers or engines: text comes in pieces of any size.
"""

from collections.abc import Sequence


class StopFinder:
    """Text that grows, and ends where the first stop string is complete.

    Of several stop strings the one that is complete first wins, and of those that end at the same
    character the longest; so where the text is cut does not depend on its pieces.

    Invariant: `_tail` is the longest end of the text so far that begins some stop string without
    being one; it has been shown only if stop strings are to be shown.
    """

    def __init__(self, stops: Sequence[str], *, shows_stops: bool = False) -> None:
        """Look for `stops`, none of them empty; with `shows_stops` they stay in the text."""
        self._stops = tuple(stops)
        self._shows_stops = shows_stops
        self._tail = ""
        self.found: str | None = None

    def push(self, piece: str, *, may_stop: bool = True) -> str:
        """Take the next piece and return the text that is now certain and new.

        Args:
            piece: What comes after all earlier pieces; nothing may come after `found` is set.
            may_stop: Whether a stop string that is completed by this piece ends the text.
        """
        text = self._tail + piece
        end = self._find_first_end(text) if may_stop else None
        if end is not None:
            assert self.found is not None, "an end without its stop string"
            if self._shows_stops:
                return text[len(self._tail) : end]
            return text[: end - len(self.found)]
        shown_before = len(self._tail) if self._shows_stops else 0
        self._tail = self._find_tail(text)
        return text[shown_before : len(text) - (0 if self._shows_stops else len(self._tail))]

    def close(self) -> str:
        """Return what was held back: the text ends here, without a stop string."""
        held = "" if self._shows_stops or self.found is not None else self._tail
        self._tail = ""
        return held

    def _find_first_end(self, text: str) -> int | None:
        """Return where the first complete stop string ends, and note it in `found`."""
        ends = [
            (start + len(stop), -len(stop), stop)
            for stop in self._stops
            # What ends within the tail had its chance when the tail came.
            if (start := text.find(stop, max(0, len(self._tail) - len(stop) + 1))) >= 0
        ]
        if not ends:
            return None
        end, _, self.found = min(ends)
        return end

    def _find_tail(self, text: str) -> str:
        longest = ""
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), len(longest), -1):
                if text.endswith(stop[:size]):
                    longest = stop[:size]
                    break
        return longest
