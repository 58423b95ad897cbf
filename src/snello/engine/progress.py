"""A bar that tells how far long work has come. Knows nothing of what is done; imports no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(task: str, total: int, *, is_shown: bool = True) -> Iterator[Any]:
    """A bar on stderr for the time of the block; yields `advance(done, note="")`.

    Where nobody watches, in a file or a pipe, nothing is written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    note = TextColumn("{task.fields[note]}")
    console = Console(stderr=True)
    is_off = not is_shown or not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), note, console=console, transient=True, disable=is_off
    ) as progress:
        bar = progress.add_task(task, total=total, note="")
        yield lambda done, note="": progress.update(bar, completed=done, note=note)
