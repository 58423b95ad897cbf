"""Ctrl-C between steps, not inside one, so that whatever runs can be put in order first.

Knows nothing of what runs.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back in the block; the yielded function raises one that came, if one did.

    A second Ctrl-C is not held back. Away from the main thread, where Ctrl-C never arrives, and
    where somebody else handles it, nothing is changed.

    Raises:
        KeyboardInterrupt: also at the end of the block, so that none is lost.
    """
    usual = signal.getsignal(signal.SIGINT)
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or usual is not signal.default_int_handler:
        yield lambda: None
        return
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, usual)

    def raise_if_came() -> None:
        nonlocal came
        if came:
            came = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_came
    finally:
        signal.signal(signal.SIGINT, usual)
    raise_if_came()
