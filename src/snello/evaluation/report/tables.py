"""The report's tables as HTML: results side by side, and how they were made. All text escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from snello.evaluation.measures import Difference, Summary

COLUMNS = (
    ("memory", ""),
    ("accuracy %", "share of right answers, with Wilson's 95 % interval"),
    ("against dense", "paired difference of accuracy in points, with a 95 % bootstrap interval"),
    ("factor", "stored over live tokens at the end of the text, mean over problems"),
    ("peak live tokens", "mean over layers, heads and problems"),
    ("peak KiB", "pages held by one problem at its peak, mean over problems"),
    ("KV reads", "live tokens attended, summed over tokens, mean over layers, heads and problems"),
    ("reply tokens", "generated, mean over problems"),
    ("tokens/s", "generated tokens of all problems over the wall time, prompts included"),
)


def name_memory(summary: Summary) -> str:
    """Return how a memory is called, with the width of its window."""
    if summary.window_tokens is None or summary.memory == "dense":
        return summary.memory
    if summary.memory == "window":
        return f"window of {summary.window_tokens}"
    return f"{summary.memory}, window {summary.window_tokens}"


def describe_results(
    summaries: Sequence[Summary], differences: Sequence[Difference]
) -> list[list[str]]:
    """Return one row of cells for each memory, under `COLUMNS`; the terminal shows the same."""
    against = {difference.memory: difference for difference in differences}
    return [_cells(summary, against.get(summary.memory)) for summary in summaries]


def build_results(summaries: Sequence[Summary], differences: Sequence[Difference]) -> str:
    """Return the comparison as a table; on a narrow screen each memory becomes a card."""
    names = "".join(
        f'<th scope="col" title="{escape(hint)}">{escape(name)}</th>' for name, hint in COLUMNS
    )
    rows = "".join(
        f"<tr>{_row(cells, summary)}</tr>"
        for cells, summary in zip(describe_results(summaries, differences), summaries, strict=True)
    )
    legend = "".join(
        f"<li><b>{escape(name)}</b>: {escape(hint)}</li>" for name, hint in COLUMNS if hint
    )
    return (
        f'<table class="results"><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>'
        f"<details><summary>what the columns mean</summary><ul>{legend}</ul></details>"
    )


def build_origin(origin: Mapping[str, str]) -> str:
    """Return how the page was made as a list of names and values."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
        for name, value in origin.items()
    )
    return f"<dl>{rows}</dl>"


def _cells(summary: Summary, difference: Difference | None) -> list[str]:
    return [
        name_memory(summary),
        _show_share(summary.accuracy, summary.accuracy_low, summary.accuracy_high, sign=""),
        _describe_gap(difference),
        f"{summary.factor:.2f}",
        f"{summary.peak_live_tokens:.1f}",
        f"{summary.peak_bytes / 1024:,.1f}",
        f"{summary.kv_reads:,.0f}",
        f"{summary.generated_tokens:.1f}",
        f"{summary.tokens_per_s:.0f}",
    ]


def _describe_gap(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return _show_share(
        difference.accuracy, difference.accuracy_low, difference.accuracy_high, sign="+"
    )


def _show_share(share: float, low: float, high: float, *, sign: str) -> str:
    """A share in percent with its interval."""
    middle, left, right = (f"{100 * value:{sign}.1f}" for value in (share, low, high))
    return f"{middle} [{left}, {right}]"


def _row(cells: Sequence[str], summary: Summary) -> str:
    head, *others = cells
    shown = [f'<th scope="row">{escape(head)}</th>']
    for (name, _), cell in zip(COLUMNS[1:], others, strict=True):
        bar = _draw_interval(summary) if name == "accuracy %" else ""
        shown.append(f'<td data-name="{escape(name)}"><span>{escape(cell)}</span>{bar}</td>')
    return "".join(shown)


def _draw_interval(summary: Summary) -> str:
    """A bar from 0 to the accuracy, with the interval drawn over its end."""
    low, middle, high = (
        round(100 * share, 2)
        for share in (summary.accuracy_low, summary.accuracy, summary.accuracy_high)
    )
    return (
        '<svg class="interval" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{middle}" height="8"/>'
        f'<rect class="reach" x="{low}" y="3" width="{max(0.5, round(high - low, 2))}" height="2"/>'
        "</svg>"
    )
