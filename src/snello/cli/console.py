"""What a verb says and leaves behind: lines and tables on the terminal, whole files on disk.

Knows nothing of what the figures mean.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def say(line: str = "") -> None:
    """Print one line as it is; brackets in it are text, not markup."""
    Console(highlight=False, soft_wrap=True).print(line, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns: the first column to the left, figures to the right.

    Where the terminal is too narrow for all columns, the table stands on its side; where that does
    not fit either, its lines run over.
    """
    console = Console(highlight=False)
    across = _table(title, columns, rows)
    turned = list(zip(columns, *rows, strict=True))
    upright = _table(title, turned[0], turned[1:])
    fitting = [table for table in (across, upright) if _measure(console, table) <= console.width]
    if fitting:
        console.print(fitting[0])
        return
    Console(highlight=False, width=_measure(console, across), soft_wrap=True).print(across)


def _measure(console: Console, table: Table) -> int:
    """Return how wide a table is where nothing is cut."""
    return table.__rich_measure__(console, console.options.update_width(10_000)).maximum


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    return table


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write one object, whole or not at all; keys carry their units."""
    write_text(path, json.dumps(figures, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; on failure nothing is left behind.

    Raises:
        OSError: the folder cannot be written, or the disk is full; an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_writable(path: Path | None) -> None:
    """Refuse a file that could not be written later, before hours of work.

    Raises:
        ValueError: it is a folder, or its folder cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file in it.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        raise ValueError(f"{path} cannot be written; choose a folder that you may write.")
