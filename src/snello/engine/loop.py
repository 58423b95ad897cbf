"""A thread that steps a text engine for coroutines that wait for its pieces.

Knows nothing of models or prompts. Engine, memory and tokenizer belong to the thread; whoever
wants something of them sends it a command.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from queue import SimpleQueue

from snello.config.sampling import SamplingConfig
from snello.engine.outputs import Piece
from snello.engine.prompts import Encoded
from snello.engine.text import TextCodec
from snello.engine.text_engine import TextEngine

Encode = Callable[[TextCodec], Encoded]


class EngineStopped(RuntimeError):  # noqa: N818  an event, not a fault of who waits
    """The engine was closed, or failed, before a request was done."""


class _Listener:
    """Who waits for a request's pieces, and on which event loop.

    Invariant: the thread alone changes `request` and `num_left`.
    """

    def __init__(self, num_replies: int) -> None:
        self.event_loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.request: int | None = None
        self.num_left = num_replies


class EngineLoop:
    """A thread that works as long as there is work, and sleeps otherwise.

    Invariant: only the thread touches `texts` and `_requests`. `_waiting` and `_end_reason` are
    changed under `_gate`: whoever is in `_waiting` when the end comes is told why, and nobody
    comes in afterwards.
    """

    def __init__(self, texts: TextEngine) -> None:
        self.texts = texts
        self._requests: dict[int, _Listener] = {}
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._gate = threading.Lock()
        self._waiting: set[_Listener] = set()
        self._end_reason: EngineStopped | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="snello-engine", daemon=True)
        self._thread.start()

    async def stream(self, encode: Encode, wish: SamplingConfig) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of one request; see `AsyncLLM.stream`."""
        listener = _Listener(wish.n)
        with self._gate:
            if self._end_reason is not None:
                raise EngineStopped(str(self._end_reason))
            self._waiting.add(listener)
        self._commands.put(lambda: self._begin(listener, encode, wish))
        try:
            num_left = wish.n
            while num_left:
                item = await listener.inbox.get()
                if isinstance(item, EngineStopped):
                    raise EngineStopped(str(item)) from item.__cause__
                if isinstance(item, Exception):
                    raise item
                num_left -= item.output is not None
                yield item
        finally:
            with self._gate:
                self._waiting.discard(listener)
            self._commands.put(lambda: self._leave(listener))

    def ask_to_close(self) -> None:
        """Let the thread end after its step; whoever still waits gets `EngineStopped`."""
        self._commands.put(self._note_closing)

    def close(self) -> None:
        """Ask, and wait until it has ended. A second time does nothing."""
        self.ask_to_close()
        self._thread.join()

    def _run(self) -> None:
        reason = EngineStopped("the engine was closed; open a new one.")
        try:
            while not self._is_closing:
                self._obey()
                if self.texts.is_busy:
                    self._deliver(self.texts.step())
        except Exception as fault:  # noqa: BLE001  whoever waits must hear of it, whatever it is
            reason = EngineStopped(
                f"the engine failed ({type(fault).__name__}: {fault}); open a new one."
            )
            reason.__cause__ = fault
        self._end(reason)

    def _obey(self) -> None:
        """Carry out what was sent; sleep until something is, if there is nothing else to do."""
        if not self.texts.is_busy:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()

    def _begin(self, listener: _Listener, encode: Encode, wish: SamplingConfig) -> None:
        try:
            prompt = encode(self.texts.codec)
            listener.request = self.texts.add(prompt.token_ids, wish, is_streamed=True)
        except Exception as mistake:  # noqa: BLE001  one request's fault is nobody else's
            _give([(listener, mistake)])
        else:
            self._requests[listener.request] = listener

    def _leave(self, listener: _Listener) -> None:
        """End what is unfinished of a listener's request."""
        if listener.request in self._requests:
            del self._requests[listener.request]
            self.texts.abort(listener.request)

    def _note_closing(self) -> None:
        self._is_closing = True

    def _deliver(self, pieces: list[Piece]) -> None:
        heard: list[tuple[_Listener, Piece | Exception]] = []
        for piece in pieces:
            listener = self._requests[piece.request]
            heard.append((listener, piece))
            listener.num_left -= piece.output is not None
            if listener.num_left == 0:
                del self._requests[piece.request]
        for listener in _give(heard):
            self._leave(listener)

    def _end(self, reason: EngineStopped) -> None:
        """Let nobody in any more, tell everyone who waits, and give the memory back."""
        with self._gate:
            self._end_reason = reason
            waiting = list(self._waiting)
        _give([(listener, reason) for listener in waiting])
        for request in list(self._requests):
            self.texts.abort(request)


def _give(items: list[tuple[_Listener, Piece | Exception]]) -> list[_Listener]:
    """Hand items over, one call for each event loop; return the listeners whose loop is closed."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Listener, Piece | Exception]]]
    by_loop = defaultdict(list)
    for listener, item in items:
        by_loop[listener.event_loop].append((listener, item))
    lost: list[_Listener] = []
    for event_loop, mine in by_loop.items():
        try:
            event_loop.call_soon_threadsafe(_put_all, mine)
        except RuntimeError:  # the event loop is closed: nobody will ever ask
            lost += [listener for listener, _ in mine]
    return lost


def _put_all(items: list[tuple[_Listener, Piece | Exception]]) -> None:
    for listener, item in items:
        listener.inbox.put_nowait(item)
