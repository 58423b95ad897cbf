"""One line for each head, as an HTML table: how much it keeps, of what, and when.

Knows nothing of how heads were watched.
"""

from collections.abc import Sequence
from html import escape

from snello.evaluation.portrait import Portrait

COLUMNS = ("head", "kept", "what", "prefers", "live tokens", "over time")


def describe_portraits(portraits: Sequence[Portrait]) -> list[tuple[str, ...]]:
    """Return one row of cells for each head, under `COLUMNS`; the terminal shows the same."""
    return [
        (
            f"{portrait.layer}/{portrait.head}",
            f"{portrait.kept_fraction:.1%}",
            portrait.pattern,
            portrait.preferences,
            f"{portrait.live_tokens[-1]:,.0f}",
            portrait.sparkline,
        )
        for portrait in portraits
    ]


def build_portraits(portraits: Sequence[Portrait]) -> str:
    """Return the table; on a narrow screen each head becomes a card."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "".join(
        _row(cells, portrait)
        for cells, portrait in zip(describe_portraits(portraits), portraits, strict=True)
    )
    return (
        f'<table class="results portraits"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(cells: Sequence[str], portrait: Portrait) -> str:
    head, *others, _ = cells
    shown = "".join(
        f'<td data-name="{name}"><span>{escape(cell)}</span></td>'
        for name, cell in zip(COLUMNS[1:-1], others, strict=True)
    )
    return (
        f'<tr><th scope="row">{head}</th>{shown}'
        f'<td data-name="{COLUMNS[-1]}">{_draw_sparkline(portrait)}</td></tr>'
    )


def _draw_sparkline(portrait: Portrait) -> str:
    """Live tokens from none at the foot to the most that were alive at the top."""
    lives = portrait.live_tokens
    most, last = max(lives), len(lives) - 1
    points = " ".join(f"{100 * i / last:.1f},{23 - 21 * n / most:.1f}" for i, n in enumerate(lives))
    return (
        '<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img"'
        f' aria-label="live tokens over the text, {lives[0]:.0f} to {lives[-1]:.0f}">'
        f'<polyline class="measured" points="{points}"/></svg>'
    )
