"""A task's grid as small tables, depth down and length across, coloured by accuracy.

Knows nothing of how questions were made. Colours only repeat what the figures say; they are mixed
from the page's own, thinly, so that figures stay readable in light and in dark.
"""

from collections.abc import Sequence
from html import escape

from snello.evaluation.grid import Group, Place
from snello.evaluation.results import Results


def build_heat(results: Results, task: str) -> str:
    """Return one table for each contender, at the longest replies and most threads; "" if none."""
    groups = [group for group in results.groups if group.cell.task == task]
    if not groups:
        return ""
    most = max((group.cell.length_tokens, group.cell.threads) for group in groups)
    shown = [g for g in groups if (g.cell.length_tokens, g.cell.threads) == most]
    tables = "".join(
        _build_table(results, name, [g for g in shown if g.cell.contender == name])
        for name in dict.fromkeys(group.cell.contender for group in shown)
    )
    return (
        f"<section><h2>{escape(task)}: by length and depth</h2>"
        f'<div class="grids">{tables}</div>'
        '<p class="caption">Accuracy in percent: across, tokens of the question; down, how much of '
        f"it stands before what is to be found. Replies of up to {most[0]} tokens, {most[1]} "
        "threads. Numbers of questions and intervals are in groups.csv.</p></section>"
    )


def _build_table(results: Results, name: str, groups: Sequence[Group]) -> str:
    found = {group.place: group for group in groups}
    lengths = sorted({place.question_tokens for place in found})
    depths = sorted({place.depth_percent for place in found}, key=lambda depth: depth or 0)
    heads = "".join(f'<th scope="col">{length:,}</th>' for length in lengths)
    rows = "".join(
        f'<tr><th scope="row">{"all" if depth is None else f"{depth} %"}</th>'
        + "".join(_build_place(results, found.get(Place(length, depth))) for length in lengths)
        + "</tr>"
        for depth in depths
    )
    return (
        f'<table class="heat"><caption>{escape(name)}</caption>'
        f'<thead><tr><th scope="col">depth</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _build_place(results: Results, group: Group | None) -> str:
    if group is None:
        return "<td>-</td>"
    score = group.estimates[results.metric].value
    count = len(group.cell.vote)
    return (
        f'<td style="--score:{100 * score:.0f}%" title="{count} question{"s" * (count > 1)}">'
        f"{100 * score:.0f}</td>"
    )
