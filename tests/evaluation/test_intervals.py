"""Intervals worked out elsewhere, and resampling that is paired and can be repeated."""

import numpy as np
import pytest

from snello.evaluation.intervals import bootstrap_means, middle_95, wilson


def test_wilson_as_in_newcombe_1998():
    """Table I of Newcombe (Statistics in Medicine 17), score method without continuity."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_wilson_stays_within_zero_and_one_and_around_the_share(count):
    for num_right in {0, count // 2, count}:
        low, high = wilson(num_right, count)
        assert 0.0 <= low <= num_right / count <= high <= 1.0


def test_one_row_can_only_be_drawn_again():
    assert bootstrap_means(np.array([[3.0, -1.0]]), draws=5).tolist() == [[3.0, -1.0]] * 5


def test_the_spread_of_the_means_is_the_standard_error():
    """A hundred rows, half 0 and half 1: the error of their mean is 0.5 / 10."""
    values = np.array([[0.0], [1.0]] * 50)
    means = bootstrap_means(values, draws=4000)[:, 0]
    assert means.mean() == pytest.approx(0.5, abs=0.004)
    assert means.std() == pytest.approx(0.05, rel=0.05)
    assert middle_95(means) == pytest.approx((0.402, 0.598), abs=0.02)


def test_columns_are_drawn_together():
    """What one column loses against its complement the other gains, in every draw."""
    right = (np.arange(30) % 3 == 0).astype(float)
    both = bootstrap_means(np.stack([right, 1 - right], axis=1), draws=50)
    assert both.sum(axis=1) == pytest.approx(np.ones(50))
    alone = bootstrap_means(right[:, None], draws=50)
    assert np.array_equal(alone[:, 0], both[:, 0])


def test_many_rows_are_drawn_in_blocks_and_the_seed_decides(monkeypatch):
    values = np.arange(40.0)[:, None]
    monkeypatch.setattr("snello.evaluation.intervals._BLOCK_NUMBERS", 40 * 7)
    means = bootstrap_means(values, draws=20)
    assert means.shape == (20, 1)
    assert np.array_equal(means, bootstrap_means(values, draws=20))
    assert not np.array_equal(means, bootstrap_means(values, draws=20, seed=1))


def test_the_middle_leaves_one_draw_in_forty_on_either_side():
    assert middle_95(np.arange(80.0)[::-1]) == (2.0, 77.0)
