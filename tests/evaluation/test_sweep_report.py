"""The page of a sweep: whole, self-contained, escaped, and true to its figures."""

import re
from xml.etree import ElementTree

import pytest

from snello.evaluation.cells import gather_cells
from snello.evaluation.contrasts import Estimate
from snello.evaluation.intervals import Interval
from snello.evaluation.portrait import portray
from snello.evaluation.report.axes import Frame, Scale, choose_log_ticks, choose_ticks
from snello.evaluation.report.numbers import shorten, show_estimate, show_ratio
from snello.evaluation.report.sweep import (
    describe_equal_costs,
    draw_frontier_file,
    render_sweep,
)
from snello.evaluation.results import as_csv, conclude, describe_cells
from tests.evaluation.made_up import make_trace
from tests.evaluation.made_up_chains import make_records
from tests.evaluation.test_report import Reader

CONTENDERS = {
    "base@dense": (0.55, 400.0, 8000.0),
    "slim@dms": (0.55, 100.0, 2000.0),
    "base@window:tokens=50": (0.1, 51.0, 1000.0),
}
ORIGIN = {"command": "snello evaluate slim --out x", "commit": "abc123", "seed": "0"}


def make_results(contenders=CONTENDERS, tasks=("ledger", "sums"), **changes):
    records = {}
    for task in tasks:
        records |= make_records(contenders, num_questions=30, threads=4, task=task)
    methods = [(name, name.rpartition("@")[2].partition(":")[0]) for name in contenders]
    names = [f"q{i}" for i in range(30)]
    cells = gather_cells(records, methods, dict.fromkeys(tasks, names), (1, 2, 4), (32, 64))
    sessions = [
        {"event": "start", "session": 0, **ORIGIN},
        *({"event": "open", "contender": name, "nominal_factor": None} for name in contenders),
        {
            "event": "close",
            "session": 0,
            "contender": next(iter(contenders)),
            "wall_s": 2.0,
            "generated_tokens": 500,
            "peak_pool_bytes": 4096,
            "preemptions": 0,
            "cpu_joules": 12.5,
            "gpu_joules": None,
        },
    ]
    parts = {"settings": {"threads": [1, 2, 4], "seed": 0}, "metric": "vote"} | changes
    return conclude(cells, sessions=sessions, **parts)


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def page(results):
    return render_sweep(results, {"slim@dms": portray([make_trace()])})


def test_the_page_is_well_formed_and_needs_nothing(page):
    reader = Reader(page)
    assert not {name for name, _ in reader.attributes} & {"src", "srcset", "onload", "href"}
    assert "script" not in reader.tags
    assert not re.findall(r"https?://|@import|url\(", page)
    assert not re.search(r"\$[a-z_]+", page), "a placeholder is left"
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_every_task_has_both_frontiers_with_every_cell(page):
    assert page.count("accuracy over KV reads of a question") == 2
    assert page.count("accuracy over peak live tokens of a question") == 2
    for shape in ("32 tokens x 1", "64 tokens x 4"):
        assert page.count(f"<title>slim@dms, {shape} threads:") == 2 * 2
    assert page.count("<circle") == 2 * 2 * 3 * 2 * 3
    assert page.count("Further left is cheaper, higher is better") == 4


def test_the_page_shows_the_figures(page, results):
    difference = next(
        d
        for d in results.contrasts["ledger"].differences
        if (d.contender, d.length_tokens, d.threads) == ("slim@dms", 64, 1)
    )
    assert show_estimate(difference.score, sign="+") in page
    assert show_ratio(difference.generated_ratio) in page
    columns, rows = describe_equal_costs(results, "ledger", "kv_reads")
    assert columns[:2] == ["against base@dense", "average"]
    for row in rows:
        assert all(cell in page for cell in row)
    assert "recent and" in page
    assert page.count('class="spark"') == len(make_trace().heads)


def test_the_page_says_how_it_was_made(page):
    for value in ORIGIN.values():
        assert f"<code>{value}</code>" in page
    assert "<code>1 2 4</code>" in page
    assert "Questions: 30 of ledger, 30 of sums; for each, up to 4 threads of thought." in page


def test_the_frontiers_are_a_file_of_their_own(results):
    root = ElementTree.fromstring(draw_frontier_file(results, "ledger"))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags[0] == "svg"
    assert tags.count("circle") == 2 * 3 * 2 * 3
    shown = " ".join(root.itertext())
    assert "30 questions of ledger: accuracy over cost" in shown
    assert all(name in shown for name in CONTENDERS)
    assert "prefers-color-scheme: dark" in shown


def test_names_are_escaped():
    hostile = '<b onload="x">&@dense'
    results = make_results({hostile: (0.5, 10.0, 100.0), "a@dms": (0.5, 5.0, 50.0)}, ("<i>",))
    page = render_sweep(results, {hostile: portray([make_trace()])})
    assert "<b onload" not in page
    assert "<i>" not in page
    Reader(page)


def test_one_contender_has_nothing_to_be_compared_with():
    page = render_sweep(make_results({"a@dms": (0.5, 5.0, 50.0)}), {})
    assert page.count("only one contender, so nothing to compare it with") == 2 * 2
    assert "No contender decides for itself" in page


def test_the_baseline_is_the_first_dense_contender_or_else_the_first(results):
    assert results.baseline == "base@dense"
    others = {"a@dms": (0.5, 5.0, 50.0), "b@window:tokens=3": (0.5, 5.0, 50.0)}
    assert make_results(others).baseline == "a@dms"


def test_the_table_has_one_row_for_each_cell(results):
    lines = as_csv(describe_cells(results)).splitlines()
    assert len(lines) == 1 + len(results.cells)
    assert lines[0].startswith("task,contender,method,length_tokens,threads,questions,vote,")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.90, 1.0, [0.9, 0.92, 0.94, 0.96, 0.98, 1.0]),
        (0.43, 0.47, [0.43, 0.44, 0.45, 0.46, 0.47]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert choose_ticks(low, high) == pytest.approx(expected)


def test_log_ticks_are_round_and_few():
    assert choose_log_ticks(90, 2600) == pytest.approx([100, 200, 500, 1000, 2000])
    assert choose_log_ticks(90, 260_000) == pytest.approx([100, 1000, 10_000, 100_000])
    assert len(choose_log_ticks(1, 1e12)) <= 6


def test_places_on_paper():
    """The picture is 420 wide with 48 left and 12 right of the axes: 408 is 10, 228 is 1 of 0.1."""
    frame = Frame(Scale(0.1, 10, is_log=True), Scale(0.0, 1.0))
    assert frame.x(10) == 408
    assert frame.x(1) == pytest.approx(228)
    assert frame.x(1000) == 408
    assert (frame.y(0.0), frame.y(1.0), frame.y(0.5)) == (190, 14, 102)


def test_amounts_and_shares_are_short():
    assert [shorten(n) for n in (950, 1500, 20_000, 1_234_567, 2e9)] == [
        "950",
        "1.5k",
        "20k",
        "1.23M",
        "2G",
    ]
    assert show_estimate(Estimate(0.5, Interval(0.25, 0.75))) == "50.0 [25.0, 75.0]"
    assert show_estimate(Estimate(0.5, None), sign="+") == "+50.0"
    assert show_estimate(None) == "-"
