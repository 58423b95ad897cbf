"""Accuracy over cost as inline SVG: every cell a point, every contender's frontier a line.

Knows nothing of how cells came about.
"""

from collections.abc import Sequence
from html import escape

from snello.evaluation.cells import Axis, Cell
from snello.evaluation.frontier import Frontier, find_frontier
from snello.evaluation.report.axes import (
    LEFT,
    RIGHT,
    WIDTH,
    Frame,
    Scale,
    choose_log_ticks,
    choose_ticks,
)
from snello.evaluation.report.numbers import shorten, show_estimate
from snello.evaluation.results import Results

HEIGHT, BOTTOM = 300, 46
TITLE_HEIGHT, NAME_HEIGHT = 26, 18
NUM_COLOURS = 8
TITLES: dict[Axis, tuple[str, str]] = {
    "kv_reads": (
        "KV reads of a question",
        "How much memory had to be read to answer a question: tokens attended, summed over all "
        "steps of all threads, mean over layers and heads. Reading is what takes time.",
    ),
    "peak_live_tokens": (
        "peak live tokens of a question",
        "How much memory has to be there: tokens alive at the peak, summed over all threads, mean "
        "over layers and heads. It limits how many can be answered at once.",
    ),
}


def draw_frontiers(results: Results, task: str) -> str:
    """Return one picture for each kind of cost, with one legend for all."""
    cells = results.of_task(task)
    pictures = "".join(_draw_figure(results, cells, axis) for axis in TITLES)
    names = "".join(
        f'<li><span class="swatch c{colour_of(results, name)}"></span>{escape(name)}</li>'
        for name in dict.fromkeys(cell.contender for cell in cells)
    )
    return f'<div class="curves">{pictures}</div><ul class="names">{names}</ul>'


def colour_of(results: Results, contender: str) -> int:
    """Return the number of a contender's colour: the same on the whole page."""
    names = list(dict.fromkeys(cell.contender for cell in results.cells))
    return names.index(contender) % NUM_COLOURS


def draw_file(results: Results, task: str, style: str) -> str:
    """Return both pictures and their legend as one SVG file that stands alone."""
    cells = results.of_task(task)
    names = list(dict.fromkeys(cell.contender for cell in cells))
    pictures = "".join(
        f'<g transform="translate({place * WIDTH} {TITLE_HEIGHT})">'
        f"{_draw(results, cells, axis)}</g>"
        for place, axis in enumerate(TITLES)
    )
    legend = "".join(
        f'<g class="c{colour_of(results, name)}" transform="translate({LEFT}'
        f' {TITLE_HEIGHT + HEIGHT + NAME_HEIGHT * place})"><rect class="bar-name" y="4" width="18"'
        f' height="5"/><text x="26" y="11">{escape(name)}</text></g>'
        for place, name in enumerate(names)
    )
    width, height = WIDTH * len(TITLES), TITLE_HEIGHT + HEIGHT + NAME_HEIGHT * len(names) + 8
    title = f"{len(cells[0].vote):,} questions of {task}: accuracy over cost, with 95 % intervals"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="curves"'
        f' role="img"><title>{escape(title)}</title><style><![CDATA[{style}]]></style>'
        f'<rect class="paper" width="{width}" height="{height}"/>'
        f'<text x="{LEFT}" y="18">{escape(title)}; figures are threads</text>'
        f"{pictures}{legend}</svg>\n"
    )


def _draw_figure(results: Results, cells: Sequence[Cell], axis: Axis) -> str:
    title, explained = TITLES[axis]
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="accuracy over {title}">{_draw(results, cells, axis)}'
        f"</svg><figcaption><b>Accuracy over {title}.</b> {explained} Further left is cheaper, "
        "higher is better. Each point is a length and a number of threads (the figure beside it), "
        "with its 95 % interval; lines join the best of each contender, pale points are beaten by "
        "cheaper ones.</figcaption></figure>"
    )


def _draw(results: Results, cells: Sequence[Cell], axis: Axis) -> str:
    """All that stands in one picture."""
    frame = _frame(results, cells, axis)
    lines, points = [], []
    for name in dict.fromkeys(cell.contender for cell in cells):
        own = [cell for cell in cells if cell.contender == name]
        colour = f"c{colour_of(results, name)}"
        frontier = find_frontier(
            [float(cell.cost(axis).mean()) for cell in own],
            [float(cell.score(results.metric).mean()) for cell in own],
        )
        lines.append(_draw_line(frontier, frame, colour))
        points += [_draw_point(results, cell, axis, frame, colour, frontier) for cell in own]
    up, across = frame.up, frame.across
    names = (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{TITLES[axis][0]} (logarithmic)</text>"
    )
    return (
        frame.grid([(tick, f"{tick:.0%}") for tick in choose_ticks(up.low, up.high)])
        + frame.feet([(t, shorten(t), "middle") for t in choose_log_ticks(across.low, across.high)])
        + names
        + "".join(lines)
        + "".join(points)
    )


def _frame(results: Results, cells: Sequence[Cell], axis: Axis) -> Frame:
    """Axes with some room around all points."""
    costs = [float(cell.cost(axis).mean()) for cell in cells]
    scores = [float(cell.score(results.metric).mean()) for cell in cells]
    room = max(0.02, 0.08 * (max(scores) - min(scores)))
    low, high = max(0.0, min(scores) - room), min(1.0, max(scores) + room)
    across = Scale(min(costs) / 1.15, max(costs) * 1.25, is_log=True)
    return Frame(across, Scale(low, high), height=HEIGHT, bottom=BOTTOM)


def _draw_line(frontier: Frontier, frame: Frame, colour: str) -> str:
    """The frontier, and dotted how far it was measured without a gain."""
    level = [(frontier.costs[-1], frontier.scores[-1]), (frontier.most_cost, frontier.scores[-1])]
    own = zip(frontier.costs, frontier.scores, strict=True)
    return frame.line(own, f"series {colour}") + frame.line(level, f"series level {colour}")


def _draw_point(
    results: Results, cell: Cell, axis: Axis, frame: Frame, colour: str, frontier: Frontier
) -> str:
    """A dot with a note for who points at it; on the frontier, with interval and threads too."""
    estimate = results.score(cell)
    cost = float(cell.cost(axis).mean())
    x, y = frame.x(cost), frame.y(estimate.value)
    note = (
        f"{cell.contender}, {cell.label} threads: {show_estimate(estimate)} % "
        f"at {cost:,.0f} {axis.replace('_', ' ')}"
    )
    dot = f'<title>{escape(note)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    if (cost, estimate.value) not in zip(frontier.costs, frontier.scores, strict=True):
        return f'<g class="point beaten {colour}">{dot}</g>'
    low, high = estimate.interval or (estimate.value, estimate.value)
    return (
        f'<g class="point {colour}">'
        f'<path class="reach" d="M{x:.1f} {frame.y(high):.1f}V{frame.y(low):.1f}"/>{dot}'
        f'<text x="{x + 6:.1f}" y="{y + (13 if y + 18 < HEIGHT - BOTTOM else -5):.1f}">'
        f"{cell.threads}</text></g>"
    )
