"""Differences that were put in come out, with intervals that are paired."""

import pytest

from snello.evaluation.cells import AXES, gather_cells
from snello.evaluation.contrasts import contrast, estimate_scores, name_lines
from snello.evaluation.frontier import average_gap, find_frontier
from snello.evaluation.intervals import bootstrap_means, middle_95, wilson
from tests.evaluation.made_up_chains import make_records

CONTENDERS = {
    "base@dense": (0.55, 400.0, 8000.0),
    "slim4@dms": (0.55, 100.0, 2000.0),
    "slim8@dms": (0.50, 50.0, 1000.0),
}
METHODS = [(name, name.split("@")[1]) for name in CONTENDERS]


@pytest.fixture(scope="module")
def cells():
    records = make_records(CONTENDERS, num_questions=200)
    names = [f"q{i}" for i in range(200)]
    return gather_cells(records, METHODS, {"ledger": names}, (1, 2, 4, 8), (32, 64))


@pytest.fixture(scope="module")
def contrasts(cells):
    return contrast(cells, "base@dense", "vote", AXES)


def test_lines_are_contenders_and_methods_with_several(cells):
    lines = name_lines(cells)
    assert list(lines) == ["base@dense", "slim4@dms", "slim8@dms", "all dms"]
    assert lines["all dms"] == lines["slim4@dms"] + lines["slim8@dms"]


def test_every_cell_but_the_baselines_has_a_difference(contrasts, cells):
    assert len(contrasts.differences) == 2 * 4 * 2
    dense = {(c.length_tokens, c.threads): c for c in cells if c.contender == "base@dense"}
    for difference in contrasts.differences:
        own = next(
            cell
            for cell in cells
            if (cell.contender, cell.length_tokens, cell.threads)
            == (difference.contender, difference.length_tokens, difference.threads)
        )
        other = dense[difference.length_tokens, difference.threads]
        expected = own.vote.mean() - other.vote.mean()
        assert difference.score.value == pytest.approx(expected)
        low, high = difference.score.interval
        assert low <= expected <= high
        assert 0.8 < difference.generated_ratio.value < 1.25


def test_at_equal_reads_more_threads_win(contrasts):
    """One dense thread of 64 tokens pays for several slim ones, which vote."""
    found = {(gap.line, gap.axis, gap.baseline_label): gap.score for gap in contrasts.equal_costs}
    gain = found["slim4@dms", "kv_reads", "64 tokens x 1"]
    assert gain.interval.low > 0.1
    joint = found["all dms", "kv_reads", "64 tokens x 1"]
    assert joint.value >= gain.value


def test_the_average_gap_is_that_of_the_frontiers(contrasts, cells):
    def frontier(name):
        own = [cell for cell in cells if cell.contender == name]
        return find_frontier(
            [cell.peak_live_tokens.mean() for cell in own], [cell.vote.mean() for cell in own]
        )

    gap = next(g for g in contrasts.gaps if (g.line, g.axis) == ("slim8@dms", "peak_live_tokens"))
    expected = average_gap(frontier("slim8@dms"), frontier("base@dense"))
    assert gap.score.value == pytest.approx(expected)
    assert gap.score.interval.low < expected < gap.score.interval.high


def test_what_cannot_be_had_at_a_cost_is_not_compared():
    """A contender that costs more than the baseline's dearest cell has no equal cost there."""
    contenders = {"cheap@dense": (0.5, 10.0, 100.0), "dear@dms": (0.9, 500.0, 9000.0)}
    records = make_records(contenders, num_questions=20, threads=2)
    names = [f"q{i}" for i in range(20)]
    methods = [(name, name.split("@")[1]) for name in contenders]
    cells = gather_cells(records, methods, {"ledger": names}, (1, 2), (32, 64))
    contrasts = contrast(cells, "cheap@dense", "vote", ["kv_reads"])
    assert contrasts.equal_costs == []
    assert [gap.score for gap in contrasts.gaps] == [None]


def test_shares_have_wilsons_interval_and_other_scores_the_bootstraps(cells):
    scores = estimate_scores(cells)
    single, several = cells[0], cells[1]
    vote = scores[single.key]["vote"]
    assert vote.value == single.vote.mean()
    assert vote.interval == wilson(int(single.vote.sum()), 200)
    mean = scores[several.key]["mean"]
    assert mean.value == several.mean.mean()
    assert mean.interval == middle_95(bootstrap_means(several.mean[:, None])[:, 0])
