"""Places of a grid: groups add up to their cell, and the page shows each of them."""

import csv
import io

import numpy as np
import pytest

from snello.evaluation.cells import gather_cells
from snello.evaluation.grid import Place, find_places
from snello.evaluation.report.heat import build_heat
from snello.evaluation.results import as_csv, conclude, describe_groups
from snello.evaluation.task import Question
from tests.evaluation.made_up_chains import make_record

CONTENDERS = [("base@dense", "dense"), ("slim<b>@dms", "dms")]
PLACES = [Place(512, 0), Place(64, 100), Place(512, 0), Place(64, 0)]
SCORES = {"base@dense": (1.0, 1.0, 0.0, 1.0), "slim<b>@dms": (0.0, 1.0, 0.0, 0.25)}


@pytest.fixture(scope="module")
def results():
    names = [f"q{i}" for i in range(len(PLACES))]
    records = [
        make_record(contender, "needle", name, scores=(score,))
        for contender, scores in SCORES.items()
        for name, score in zip(names, scores, strict=True)
    ]
    records += [make_record(contender, "ledger", "q0") for contender in SCORES]
    questions = {"needle": names, "ledger": ["q0"]}
    cells = gather_cells({r.key: r for r in records}, CONTENDERS, questions, (1,), (64,))
    places = {"needle": PLACES, "ledger": None}
    origin = [{"event": "open", "contender": name, "nominal_factor": None} for name in SCORES]
    return conclude(cells, settings={}, sessions=origin, metric="mean", places=places)


def test_groups_have_the_scores_of_their_questions(results):
    rows = list(csv.DictReader(io.StringIO(as_csv(describe_groups(results)))))
    assert {row["task"] for row in rows} == {"needle"}
    found = {
        (row["contender"], int(row["question_tokens"]), int(row["depth_percent"])): row
        for row in rows
    }
    assert len(found) == len(rows) == 6
    assert (found["base@dense", 512, 0]["questions"], found["base@dense", 512, 0]["mean"]) == (
        "2",
        "0.5",
    )
    assert float(found["slim<b>@dms", 64, 0]["mean"]) == 0.25
    for name, scores in SCORES.items():
        means = [float(r["mean"]) * int(r["questions"]) for r in rows if r["contender"] == name]
        assert np.isclose(sum(means), sum(scores))


def test_the_page_has_a_table_for_each_contender_with_an_entry_for_each_place(results):
    heat = build_heat(results, "needle")
    assert heat.count("<table") == 2
    assert "<b>@" not in heat
    assert "slim&lt;b&gt;@dms" in heat
    first, second = heat.split("</table>")[:2]
    assert '<th scope="col">64</th><th scope="col">512</th>' in first
    assert '<th scope="row">0 %</th><td style="--score:100%" title="1 question">100</td>' in first
    assert '<td style="--score:50%" title="2 questions">50</td>' in first
    assert '<th scope="row">100 %</th>' in second
    assert second.count("<td>-</td>") == 1, "64 at 100 is there, 512 at 100 was not asked"
    assert build_heat(results, "ledger") == ""


def test_a_task_has_places_if_all_its_questions_do():
    questions = [
        Question(name="a", length_tokens=5, depth_percent=0),
        Question(name="b", length_tokens=7),
    ]
    assert find_places(questions) == [Place(5, 0), Place(7, None)]
    assert find_places([*questions, Question(name="c")]) is None
    assert find_places([]) is None
