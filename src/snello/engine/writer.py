"""The text of one reply, written token by token until it ends or reaches a stop string.

Knows nothing of engines or of memory.
"""

from collections.abc import Callable, Sequence

from snello.config.sampling import SamplingConfig
from snello.engine.stopping import StopFinder
from snello.engine.text import TextStream


class Writer:
    """From token ids to text that may be shown.

    Invariant: what `push` and `close` returned adds up to `text`, and no later token takes any of
    it back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], wish: SamplingConfig) -> None:
        self._stream = TextStream(decode)
        self._finder = StopFinder(wish.stop, shows_stops=wish.include_stop_str_in_output)
        self._min_new_tokens = wish.min_new_tokens
        self._num_tokens = 0
        self._shown: list[str] = []

    @property
    def found(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._finder.found

    @property
    def text(self) -> str:
        """All that has been shown."""
        return "".join(self._shown)

    def push(self, token_id: int) -> str:
        """Take a token and return the text that may be shown now."""
        self._num_tokens += 1
        return self._show(self._stream.push(token_id))

    def close(self) -> str:
        """Return the rest, when the reply has ended for another reason than its text."""
        text = "" if self.found is not None else self._show(self._stream.close())
        held = self._finder.close()
        self._shown.append(held)
        return text + held

    def _show(self, text: str) -> str:
        shown = self._finder.push(text, may_stop=self._num_tokens > self._min_new_tokens)
        self._shown.append(shown)
        return shown
