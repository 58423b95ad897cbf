"""One self-contained HTML page that shows a comparison, and what was forgotten on one text.

Knows nothing of models or files: results in, a string out. The page needs no network, follows the
reader's light or dark setting, and says its main things without JavaScript too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from snello.evaluation.measures import Difference, Summary
from snello.evaluation.portrait import portray
from snello.evaluation.report.curve import CurvePoint, draw_curves
from snello.evaluation.report.portraits import build_portraits
from snello.evaluation.report.tables import build_origin, build_results, name_memory
from snello.evaluation.report.text import build_head_buttons, build_tokens, describe_step
from snello.evaluation.trace import Trace

__all__ = ["CurvePoint", "Report", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page shows."""

    title: str
    problems_named: str
    """What was asked, as in `200 ledger problems of level 1`."""

    summaries: Sequence[Summary]
    differences: Sequence[Difference]
    trace: Trace
    answer: str
    """The right answer of the traced problem."""

    is_solved: bool
    """Whether the traced reply is right."""

    curve: Sequence[CurvePoint]
    origin: Mapping[str, str]
    """How the page was made: command, seed, commit and the like."""


def render(report: Report) -> str:
    """Return the whole page; every text in it is escaped.

    Raises:
        ValueError: the trace does not hold together.
    """
    report.trace.check()
    trace = report.trace
    return Template(_asset("page.html")).substitute(
        title=escape(report.title),
        style=_asset("style.css"),
        script=_asset("script.js"),
        headline=escape(_headline(report)),
        problems_named=escape(report.problems_named),
        results=build_results(report.summaries, report.differences),
        buttons=build_head_buttons(trace),
        tokens=build_tokens(trace),
        status=escape(describe_step(trace, trace.heads[0], len(trace.tokens))),
        num_tokens=len(trace.tokens),
        num_prompt_tokens=trace.num_prompt_tokens,
        window_tokens=trace.window_tokens,
        answer=escape(report.answer),
        solved="the model solved" if report.is_solved else "the model got wrong",
        portraits=build_portraits(portray([trace])),
        curves=draw_curves(report.curve),
        origin=build_origin(report.origin),
        data=_as_script_data(trace),
    )


def _headline(report: Report) -> str:
    said = [
        f"{summary.accuracy:.1%} right with {name_memory(summary)} "
        f"({summary.peak_live_tokens:.0f} live tokens)"
        for summary in report.summaries
    ]
    return "; ".join(said) + "."


def _as_script_data(trace: Trace) -> str:
    """The trace as JSON that no text in it can end early: `<` never stands there as itself."""
    data = {
        "num_prompt_tokens": trace.num_prompt_tokens,
        "window_tokens": trace.window_tokens,
        "tokens": trace.tokens,
        "heads": [
            {"layer": head.layer, "head": head.head, "gone_at": head.gone_at}
            for head in trace.heads
        ],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("snello.evaluation.report") / name).read_text("utf-8")
