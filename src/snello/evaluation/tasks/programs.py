"""Where the program is in a reply, and whether two programs' outputs are the same.

Knows nothing of tasks or of running anything.
"""

import re
from decimal import Decimal, InvalidOperation

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def find_program(said: str) -> str | None:
    """Return the last fenced block that is Python or names no language; None: there is none.

    An unfinished block does not count.
    """
    blocks = [
        code
        for kind, code in _FENCE.findall(said)
        if kind.lower() in ("", "py", "python", "python3")
    ]
    return blocks[-1].rstrip() if blocks else None


def is_same_output(wanted: str, written: str) -> bool:
    """Tell whether two outputs agree, line by line: as text, or as decimal numbers.

    Space at the ends of lines, and of the whole, does not count.
    """
    wanted_lines, lines = _split(wanted), _split(written)
    return len(wanted_lines) == len(lines) and all(
        a == b or _is_same_row(a, b) for a, b in zip(wanted_lines, lines, strict=True)
    )


def _split(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _is_same_row(wanted: str, written: str) -> bool:
    try:
        return [Decimal(a) for a in wanted.split()] == [Decimal(b) for b in written.split()]
    except InvalidOperation:
        return False
