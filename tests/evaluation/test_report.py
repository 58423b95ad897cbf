"""The page: whole, self-contained, escaped, and true to its figures without any script."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from snello.evaluation.report import CurvePoint, render
from snello.evaluation.report.curve import draw_curves
from snello.evaluation.report.tables import COLUMNS, describe_results, name_memory
from snello.evaluation.report.text import build_tokens, describe_step, state_of
from tests.evaluation.made_up import WINDOW, make_report, make_trace

VOID = {"meta", "input", "link", "br", "img"}
HOSTILE = '</script><script>alert(1)</script><b onload="x">&'


class Reader(HTMLParser):
    """Collects tags and attributes, and fails where tags do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def trace_of(page):
    return json.loads(re.search(r'id="trace">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def page():
    return render(make_report())


def test_the_page_is_well_formed_with_every_head_and_token(page):
    reader = Reader(page)
    trace = make_trace()
    assert reader.tags.count("button") == len(trace.heads) + 1
    assert page.count('<span class="forgotten">') + page.count('<span class="window">') > 300
    assert not re.search(r"\$[a-z_]+", page.partition("<script")[0]), "a placeholder is left"


def test_the_page_loads_nothing_from_outside(page):
    reader = Reader(page)
    assert not {name for name, _ in reader.attributes} & {"src", "srcset", "onload", "onclick"}
    assert not re.findall(r"https?://|@import|url\(|//[a-z]+\.", page)


def test_the_page_follows_light_and_dark_and_fits_a_phone(page):
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width' in page
    assert "@media (max-width" in page


def test_every_text_is_escaped():
    trace = make_trace(tokens=(HOSTILE, " a", " <b>"))
    page = render(
        make_report(
            trace=trace,
            title=HOSTILE,
            answer=HOSTILE,
            origin={HOSTILE: HOSTILE},
            problems_named="<i>",
        )
    )
    reader = Reader(page)
    assert reader.tags.count("script") == 2
    assert "<b onload" not in page
    assert "alert(1)</script>" not in page
    assert trace_of(page)["tokens"][0] == HOSTILE


def test_the_script_gets_the_whole_trace(page):
    trace, told = make_trace(), trace_of(page)
    assert told["tokens"] == list(trace.tokens)
    assert told["window_tokens"] == WINDOW
    assert [tuple(head["gone_at"]) for head in told["heads"]] == [h.gone_at for h in trace.heads]


def test_states_on_a_page_of_paper():
    """Window 1 after four of five tokens: 0 survives, 1 is gone, 2 and 3 recent, 4 to come."""
    trace = make_trace(tokens=tuple("abcde"))
    head = trace.heads[0].__class__(layer=0, head=0, gone_at=(None, 4, None, None, None))
    small = trace.__class__(
        tokens=trace.tokens, num_prompt_tokens=2, window_tokens=1, heads=(head,)
    )
    states = [state_of(small, head, position, 4) for position in range(5)]
    assert states == ["survivor", "forgotten", "window", "window", "unread"]
    assert describe_step(small, head, 4) == (
        "Layer 0, head 0, after 4 tokens: 3 alive (2 in the window, 1 survivors), 1 forgotten; "
        "factor 1.3."
    )


def test_without_script_the_text_shows_the_last_step_of_the_first_head():
    trace = make_trace()
    shown = re.findall(r'<span class="(\w+)">', build_tokens(trace))
    expected = [
        state_of(trace, trace.heads[0], position, len(trace.tokens))
        for position in range(len(trace.tokens))
    ]
    assert shown == expected


def test_the_text_reads_as_it_was_written():
    tokens = (" the", " cat", ",", "\n", " ", "sat")
    words = re.sub(r"<p.*?</p>|<[^>]+>", "", build_tokens(make_trace(tokens=tokens)))
    assert words == " the cat,\u23ce\n sat"


def test_rows_have_a_cell_for_each_column():
    report = make_report()
    rows = describe_results(report.summaries, report.differences)
    assert [len(row) for row in rows] == [len(COLUMNS)] * 3
    assert rows[0][:4] == ["dense", "97.5 [94.3, 98.9]", "-", "1.00"]
    assert rows[1][0] == "sparse, window 16"
    assert rows[1][2].startswith("-1.5 [")
    assert rows[2][0] == name_memory(report.summaries[2]) == "window of 71"


def test_curves_end_where_the_figures_end():
    points = [
        CurvePoint(step=0, target_factor=1.0, kept_fraction=1.0, kl=0.001),
        CurvePoint(step=100, target_factor=8.0, kept_fraction=0.5, kl=0.1),
    ]
    drawn = draw_curves(points)
    measured, divergence = re.findall(r'class="measured" points="([^"]+)"', drawn)
    assert measured.split()[-1] == "408.0,102.0"  # half way up
    assert divergence.split() == ["48.0,190.0", "408.0,14.0"]  # from the lowest to the highest


@pytest.mark.parametrize("kl", [0.0, 1.0, 1e-9])
def test_curves_of_any_divergence_are_finite(kl):
    drawn = draw_curves([CurvePoint(step=1, target_factor=1.0, kept_fraction=1.0, kl=kl)])
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_a_run_that_logged_nothing_says_so():
    assert draw_curves([]) == "<p>This run logged no steps.</p>"


def test_script_and_python_name_the_same_states():
    script = (files("snello.evaluation.report") / "script.js").read_text()
    for state in ("unread", "forgotten", "window", "survivor"):
        assert f'"{state}"' in script
