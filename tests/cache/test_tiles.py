"""How rows are cut into tiles, and heads of uneven length kept from waiting for each other."""

import numpy as np
import pytest

from snello.cache.tiles import cut_rows


def cut(num_pages, *, extra_pages=0, most_pages=1000):
    given = {"extra_pages": extra_pages, "most_pages": most_pages}
    return [(rows.tolist(), most) for rows, most in cut_rows(np.array(num_pages), **given)]


def test_one_long_head_makes_no_other_wait():
    """Mistake 8: 100 pages beside three times 2 are 106 pages of work, not 400."""
    assert cut([2, 100, 2, 2]) == [([1], 100), ([0, 2, 3], 2)]


def test_tiles_are_no_larger_than_allowed_but_for_a_row_that_is_larger_alone():
    assert cut([4] * 5, most_pages=8) == [([0, 1], 4), ([2, 3], 4), ([4], 4)]
    assert cut([9, 9], most_pages=8) == [([0], 9), ([1], 9)]


def test_new_tokens_count_as_pages_too():
    assert cut([0] * 4, extra_pages=4, most_pages=8) == [([0, 1], 0), ([2, 3], 0)]
    assert cut([0, 1], extra_pages=50) == [([0, 1], 1)]


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_tile_and_padded_at_most_to_double(seed):
    num_pages = np.random.default_rng(seed).integers(0, 60, size=40)
    seen = []
    for rows, most in cut(num_pages, most_pages=200):
        seen += rows
        assert most == num_pages[rows].max() <= 2 * num_pages[rows].min() + 1
        assert len(rows) * most <= 200
    assert sorted(seen) == list(range(40))
