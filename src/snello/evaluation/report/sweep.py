"""A sweep as one self-contained HTML page: frontiers, differences, every cell, every head.

Knows nothing of models or files: results in, a string out. It needs no network and no script.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from snello.evaluation.cells import EXPLAINED, Axis, Cell
from snello.evaluation.frontier import find_frontier
from snello.evaluation.portrait import Portrait
from snello.evaluation.report.forest import build_forest
from snello.evaluation.report.frontiers import TITLES, draw_file, draw_frontiers
from snello.evaluation.report.heat import build_heat
from snello.evaluation.report.numbers import show_estimate
from snello.evaluation.report.portraits import build_portraits
from snello.evaluation.report.tables import build_origin
from snello.evaluation.results import Results

COLUMNS = (
    "contender",
    "tokens",
    "threads",
    "accuracy %",
    "any right %",
    "factor",
    "peak live tokens",
    "KV reads",
    "reply tokens",
    "cut %",
)
JOULES = ("cpu_joules", "gpu_joules")


def render_sweep(results: Results, portraits: Mapping[str, Sequence[Portrait]]) -> str:
    """Return the whole page; every text in it is escaped."""
    cells = results.cells
    names = dict.fromkeys(cell.contender for cell in cells)
    asked = ", ".join(f"{len(cell.vote):,} of {cell.task}" for cell in _first_of_each_task(cells))
    return Template(_asset("sweep.html")).substitute(
        title=escape(f"Hyper-scaling: {len(names)} contenders on {', '.join(results.tasks)}"),
        style=_asset("style.css"),
        lead=escape(
            f"Questions: {asked}; for each, up to {max(c.threads for c in cells)} threads of "
            f"thought. Accuracy: {EXPLAINED[results.metric]}."
        ),
        tasks="".join(_build_task(results, task) for task in results.tasks),
        portraits=_build_all_portraits(portraits),
        settings=build_origin({k: _tell(v) for k, v in results.settings.items()}),
        sessions="".join(
            build_origin({k: str(v) for k, v in line.items() if k != "event"})
            for line in results.sessions
            if line["event"] == "start"
        ),
        costs=_build_costs(results),
    )


def _first_of_each_task(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.task: cell for cell in reversed(cells)}.values())[::-1]


def draw_frontier_file(results: Results, task: str) -> str:
    """Return the frontiers of one task as an SVG file that stands alone."""
    return draw_file(results, task, _asset("style.css"))


def describe_rows(results: Results, task: str) -> list[tuple[str, ...]]:
    """Return one row for each cell under `COLUMNS`; the terminal shows the same."""
    return [_describe(results, cell) for cell in results.of_task(task)]


def describe_equal_costs(
    results: Results, task: str, axis: Axis
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return columns and rows: for each frontier the average gap, then that at certain costs.

    These are the costs of the baseline's cells that are on its frontier.
    """
    found = results.contrasts[task]
    own = [cell for cell in results.of_task(task) if cell.contender == results.baseline]
    costs = [float(cell.cost(axis).mean()) for cell in own]
    kept = find_frontier(costs, [float(cell.score(results.metric).mean()) for cell in own]).costs
    scores = {(gap.line, gap.cost): gap.score for gap in found.equal_costs if gap.axis == axis}
    labels = {cost: cell.label for cell, cost in zip(own, costs, strict=True)}
    columns = [f"against {results.baseline}", "average", *(labels[cost] for cost in kept)]
    rows = [
        (
            gap.line,
            show_estimate(gap.score, sign="+"),
            *(show_estimate(scores.get((gap.line, cost)), sign="+") for cost in kept),
        )
        for gap in found.gaps
        if gap.axis == axis
    ]
    return columns, rows


def _describe(results: Results, cell: Cell) -> tuple[str, ...]:
    return (
        cell.contender,
        f"{cell.length_tokens}",
        f"{cell.threads}",
        show_estimate(results.score(cell)),
        f"{100 * cell.pass_all.mean():.1f}",
        f"{cell.factor.mean():.2f}",
        f"{cell.peak_live_tokens.mean():,.1f}",
        f"{cell.kv_reads.mean():,.0f}",
        f"{cell.generated_tokens.mean():.1f}",
        f"{100 * cell.is_cut.mean():.1f}",
    )


def _build_task(results: Results, task: str) -> str:
    shown = escape(task)
    return (
        f"<section><h2>{shown}: what accuracy costs</h2>{draw_frontiers(results, task)}</section>"
        f"<section><h2>{shown}: against {escape(results.baseline)}</h2>"
        f"{build_forest(results, task)}</section>"
        f"<section><h2>{shown}: at equal cost</h2>{_build_equal_costs(results, task)}</section>"
        f"{build_heat(results, task)}"
        f"<section><h2>{shown}: all figures</h2><details><summary>every contender, length and "
        f"number of threads</summary>{_build_cells(results, task)}</details></section>"
    )


def _build_cells(results: Results, task: str) -> str:
    return _build_table(COLUMNS, describe_rows(results, task)) + (
        '<p class="caption">Factor: tokens that dense memory would hold over live tokens, at the '
        "end of a chain. Peak live tokens and KV reads: of a question, all threads together; the "
        "prompt is read once for all threads, and held by each. Cut: threads that had not ended at "
        "this length.</p>"
    )


def _build_equal_costs(results: Results, task: str) -> str:
    if not results.contrasts[task].gaps:
        return "<p>There is only one contender, so nothing to compare it with.</p>"
    tables = [
        f"<h3>{title}</h3>{_build_table(*describe_equal_costs(results, task, axis))}"
        for axis, (title, _) in TITLES.items()
    ]
    return "".join(tables) + (
        '<p class="caption">Points of accuracy against the baseline. Where it pays for one thread, '
        "a slim contender pays for several: each column reads both frontiers at what one cell of "
        "the baseline costs, of those on its frontier. The average is over all costs at which both "
        "were measured, on a log scale. Between measured points a frontier is straight; beyond its "
        "last point it stays level; where there is nothing to compare stands a dash. Intervals are "
        "95 %, by bootstrap over questions, each draw with frontiers of its own.</p>"
    )


def _build_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td data-name="{escape(name)}"><span>{escape(cell)}</span></td>'
            for name, cell in zip(columns[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="results"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'


def _build_all_portraits(portraits: Mapping[str, Sequence[Portrait]]) -> str:
    if not portraits:
        return "<p>No contender decides for itself what to forget.</p>"
    return "".join(
        f"<h3>{escape(name)}</h3>{build_portraits(heads)}" for name, heads in portraits.items()
    )


def _build_costs(results: Results) -> str:
    """What each start of each contender took, from the sessions' own lines."""
    columns = (
        *("contender", "start", "wall s", "tokens", "tokens/s", "peak pool KiB", "gave way"),
        *("CPU J", "GPU J"),
    )
    rows = [
        (
            line["contender"],
            str(line["session"]),
            f"{line['wall_s']:.1f}",
            f"{line['generated_tokens']:,}",
            f"{line['generated_tokens'] / line['wall_s']:.0f}",
            f"{line['peak_pool_bytes'] / 1024:,.0f}",
            str(line["preemptions"]),
            *("-" if line[key] is None else f"{line[key]:,.0f}" for key in JOULES),
        )
        for line in results.sessions
        if line["event"] == "close"
    ]
    return _build_table(columns, rows)


def _tell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_tell(inner)}" for key, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _asset(name: str) -> str:
    return (files("snello.evaluation.report") / name).read_text("utf-8")
