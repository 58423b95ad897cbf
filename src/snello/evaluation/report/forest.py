"""Differences from the baseline as rows of whiskers around a line, in a table that fits a phone.

Knows nothing of how differences were found.
"""

from collections.abc import Sequence
from html import escape
from statistics import median_high

from snello.evaluation.contrasts import Difference, Estimate
from snello.evaluation.report.axes import Scale
from snello.evaluation.report.frontiers import colour_of
from snello.evaluation.report.numbers import show_estimate, show_ratio
from snello.evaluation.results import Results

NARROWEST_POINTS = 0.03
NARROWEST_RATIO = 0.06


def build_forest(results: Results, task: str) -> str:
    """Return one row for each contender: accuracy and generated length against the baseline's.

    At the longest length and with a single thread, or the fewest there are.
    """
    found = results.contrasts[task].differences
    if not found:
        return "<p>There is only one contender, so nothing to compare it with.</p>"
    longest, fewest = max(d.length_tokens for d in found), min(d.threads for d in found)
    chosen = [d for d in found if (d.length_tokens, d.threads) == (longest, fewest)]
    points = _find_scale([d.score for d in chosen], 0.0, NARROWEST_POINTS)
    ratios = _find_scale([d.generated_ratio for d in chosen], 1.0, NARROWEST_RATIO)
    rows = "".join(_row(results, task, d, points, ratios) for d in chosen)
    edges = f"{100 * points.low:+.0f} to {100 * points.high:+.0f} points"
    threads = "one thread" if fewest == 1 else f"{fewest} threads"
    return (
        '<table class="results forest"><thead><tr><th scope="col">contender</th>'
        '<th scope="col">accuracy, points</th><th scope="col">generated length, ratio</th>'
        '<th scope="col">measured factor</th><th scope="col">nominal</th>'
        f'<th scope="col">peak live tokens</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="caption">Each contender against {escape(results.baseline)} on the same '
        f"questions, with {threads} of at most {longest:,} tokens. The bar is the 95 % interval "
        f"(paired bootstrap over questions), the upright line is no difference; the picture of "
        f"accuracy spans {edges}, that of length {ratios.low:.2f} to {ratios.high:.2f}, and "
        "what lies outside stands at its edge. An interval that lies left of the line means a real "
        "loss.</p>"
    )


def _row(results: Results, task: str, difference: Difference, points: Scale, ratios: Scale) -> str:
    cell = next(
        cell
        for cell in results.of_task(task)
        if (cell.contender, cell.length_tokens, cell.threads)
        == (difference.contender, difference.length_tokens, difference.threads)
    )
    nominal = results.nominal_factors.get(difference.contender)
    colour = f"c{colour_of(results, difference.contender)}"
    values = (
        (
            "accuracy, points",
            show_estimate(difference.score, sign="+"),
            _draw_whisker(difference.score, points, 0.0, colour),
        ),
        (
            "generated length, ratio",
            show_ratio(difference.generated_ratio),
            _draw_whisker(difference.generated_ratio, ratios, 1.0, colour),
        ),
        ("measured factor", f"{cell.factor.mean():.2f}", ""),
        ("nominal", "-" if nominal is None else f"{nominal:g}", ""),
        ("peak live tokens", f"{cell.peak_live_tokens.mean():,.1f}", ""),
    )
    shown = "".join(
        f'<td data-name="{name}"><span>{text}</span>{picture}</td>'
        for name, text, picture in values
    )
    return f'<tr><th scope="row">{escape(difference.contender)}</th>{shown}</tr>'


def _find_scale(estimates: Sequence[Estimate], middle: float, narrowest: float) -> Scale:
    """A scale around the line of no difference that holds most intervals.

    It is the median that decides, so that one contender who fails does not squeeze the others.
    """
    reaches = [max(abs(end - middle) for end in (e.interval or (e.value,))) for e in estimates]
    reach = max(narrowest, 1.1 * median_high(reaches))
    return Scale(middle - reach, middle + reach)


def _draw_whisker(estimate: Estimate, scale: Scale, middle: float, colour: str) -> str:
    low, high = estimate.interval or (estimate.value, estimate.value)
    left, right, dot = (100 * scale.place(value) for value in (low, high, estimate.value))
    none = 100 * scale.place(middle)
    return (
        f'<svg class="whisker {colour}" viewBox="0 0 100 10" preserveAspectRatio="none"'
        ' aria-hidden="true">'
        f'<rect class="zero" x="{none - 0.25:.2f}" width="0.5" height="10"/>'
        f'<rect class="reach" x="{left:.2f}" y="3.5" width="{max(0.5, right - left):.2f}"'
        f' height="3"/><rect class="dot" x="{dot - 0.6:.2f}" y="1" width="1.2" height="8"/></svg>'
    )
