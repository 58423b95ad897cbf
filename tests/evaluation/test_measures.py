"""Means by hand, and differences that are paired."""

import pytest

from snello.evaluation.intervals import wilson
from snello.evaluation.measures import (
    Reply,
    as_figures,
    compare_paired,
    summarize,
)


def reply(*, is_right=True, stored=100, live=20.0, generated=10):
    return Reply(
        is_right=is_right,
        text="4",
        token_ids=tuple(range(generated)),
        num_stored_tokens=stored,
        peak_live_tokens=live,
        peak_bytes=2048,
        kv_reads=1000.0,
    )


def test_factor_is_stored_over_live_at_the_end():
    assert reply(stored=100, live=20.0).factor == 5.0


def test_a_summary_is_a_mean_over_problems():
    """Factors 5 and 10 make 7.5, though 200 tokens over 30 would make 6.7."""
    replies = [reply(live=20.0, generated=10), reply(live=10.0, generated=30, is_right=False)]
    summary = summarize("sparse", replies, wall_s=4.0, peak_pool_bytes=4096, window_tokens=16)
    assert summary.factor == 7.5
    assert summary.peak_live_tokens == 15.0
    assert summary.accuracy == 0.5
    assert (summary.accuracy_low, summary.accuracy_high) == wilson(1, 2)
    assert summary.generated_tokens == 20.0
    assert summary.tokens_per_s == 10.0


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="give at least one problem"):
        summarize("dense", [], wall_s=1.0, peak_pool_bytes=4096, window_tokens=None)


def test_equal_runs_differ_by_nothing():
    right = [True, False, True]
    difference = compare_paired("sparse", right, "dense", right)
    assert (difference.accuracy, difference.accuracy_low, difference.accuracy_high) == (0, 0, 0)


def test_a_difference_is_paired():
    """Both runs are half right; on the same half there is no doubt, on the other half there is."""
    half = [True] * 50 + [False] * 50
    same = compare_paired("a", half, "b", half)
    other = compare_paired("a", half, "b", half[::-1])
    assert same.accuracy == other.accuracy == 0
    assert same.accuracy_high == 0
    assert other.accuracy_high == pytest.approx(0.2, abs=0.03)  # 1.96 * sqrt(1 / 100)
    assert other.accuracy_low == pytest.approx(-0.2, abs=0.03)


def test_a_bootstrap_can_be_repeated():
    right, baseline = [True, False] * 30, [True, True, False] * 20
    assert compare_paired("a", right, "b", baseline) == compare_paired("a", right, "b", baseline)


def test_runs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="needs the same problems in both"):
        compare_paired("sparse", [True], "dense", [True, False])


def test_figures_are_plain_and_named_with_units():
    summary = summarize("dense", [reply()], wall_s=2.0, peak_pool_bytes=4096, window_tokens=None)
    figures = as_figures([summary], [compare_paired("sparse", [True], "dense", [True])])
    assert figures["memories"][0]["wall_s"] == 2.0
    assert figures["memories"][0]["peak_pool_bytes"] == 4096
    assert figures["memories"][0]["peak_bytes"] == 2048
    assert figures["differences"][0]["baseline"] == "dense"
