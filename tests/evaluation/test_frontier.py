"""Frontiers drawn on paper: what is on them, between their points, and between two of them."""

import pytest

from snello.evaluation.frontier import average_gap, find_frontier, shared_range


def test_beaten_points_are_not_on_the_frontier():
    """The worse of two at 2, the one at 3 that gives less, the one at 8 that gains nothing."""
    frontier = find_frontier([3, 1, 2, 2, 4, 8], [0.4, 0.1, 0.3, 0.5, 0.9, 0.9])
    assert frontier.costs == (1, 2, 4)
    assert frontier.scores == (0.1, 0.5, 0.9)
    assert frontier.most_cost == 8


def test_between_points_it_is_straight_over_the_logarithm():
    """Half way between 1 and 4, on a log axis, is 2."""
    frontier = find_frontier([1, 4], [0.2, 0.6])
    assert frontier.read(2) == pytest.approx(0.4)
    assert frontier.read(1) == 0.2
    assert frontier.read(4) == 0.6


def test_below_it_nothing_is_known_and_beyond_it_stays_level():
    frontier = find_frontier([2, 4], [0.2, 0.6])
    assert frontier.read(1.99) is None
    assert frontier.read(1000) == 0.6


def test_the_average_gap_on_a_page_of_paper():
    """From 2 to 8 on a log axis.

    One rises from 0.2 at 1 to 0.8 at 8 by 0.2 a doubling, the other from 0 at 2 to 0.4 at 4 and
    stays: gaps 0.4, 0.2, 0.4 at 2, 4, 8, so the mean of both halves is 0.3.
    """
    one = find_frontier([1, 8], [0.2, 0.8])
    other = find_frontier([2, 4, 16], [0.0, 0.4, 0.4])
    assert shared_range(one, other) == (2, 8)
    assert average_gap(one, other) == pytest.approx(0.3)
    assert average_gap(other, one) == pytest.approx(-0.3)


def test_one_shared_cost_is_a_gap_too():
    assert average_gap(find_frontier([1, 2], [0, 1]), find_frontier([2], [0.25])) == 0.75


def test_frontiers_apart_have_no_gap():
    assert average_gap(find_frontier([1, 2], [0, 1]), find_frontier([3], [0.5])) is None


def test_a_cheaper_frontier_is_read_level_as_far_as_it_was_measured():
    """The last point that gains nothing still tells how far costs were tried."""
    one = find_frontier([1, 4], [0.9, 0.9])
    assert average_gap(one, find_frontier([2, 4], [0.5, 0.5])) == pytest.approx(0.4)


def test_costs_must_fit_on_a_log_axis():
    with pytest.raises(ValueError, match="a cost is 0; costs must be above 0"):
        find_frontier([0, 1], [0, 1])
    with pytest.raises(ValueError, match="at least one point"):
        find_frontier([], [])
