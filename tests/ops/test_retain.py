"""The one rule of visibility, worked out on paper."""

import pytest
import torch

from snello.config.model import Horizon
from snello.ops.retain import in_sight, is_recent, retain


def test_rule_on_a_page_of_paper():
    """Window 2, query at 5: keys 3, 4, 5 are recent, 0 is kept, 1 and 2 are marked and gone."""
    evict = torch.tensor([[False, True, True, True, True, True]])
    seen = retain(torch.tensor([5]), torch.arange(6), evict, 2)
    assert seen[0, 0].tolist() == [True, False, False, True, True, True]


def test_the_edge_of_the_window_is_inside():
    """Mistake 1: with window 2, a key 2 behind is recent and one 3 behind is not."""
    assert is_recent(torch.arange(5), 2).tolist() == [True, True, True, False, False]
    evict = torch.ones(1, 6, dtype=torch.bool)
    assert retain(torch.tensor([5]), torch.arange(6), evict, 2).sum() == 2 + 1


def test_nothing_ahead_is_seen_even_if_it_is_recent_and_unmarked():
    seen = retain(torch.tensor([1]), torch.arange(4), torch.zeros(1, 4, dtype=torch.bool), 10)
    assert seen[0, 0].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (Horizon(), [0, 1, 2, 3, 4, 5]),
        (Horizon(kind="sliding", span_tokens=3), [3, 4, 5]),
        (Horizon(kind="sliding", span_tokens=1), [5]),
        (Horizon(kind="chunked", span_tokens=4), [4, 5]),
        (Horizon(kind="chunked", span_tokens=5), [5]),
    ],
)
def test_horizons_on_paper_for_a_query_at_5(horizon, expected):
    seen = in_sight(torch.tensor(5), torch.arange(8), horizon)
    assert seen.nonzero().flatten().tolist() == expected


def test_a_horizon_hides_what_the_window_and_the_marks_would_show():
    """Sliding 4, window 2, query at 7: 3 is unmarked but behind the horizon, 4 is kept."""
    evict = torch.tensor([[False] * 5 + [True] * 3])
    horizon = Horizon(kind="sliding", span_tokens=4)
    seen = retain(torch.tensor([7]), torch.arange(8), evict, 2, horizon)
    assert seen[0, 0].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_a_batch_agrees_with_one_by_one_and_heads_may_differ_in_positions():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(0, 30, (3, 4), generator=generator)
    shared = torch.randint(0, 30, (3, 9), generator=generator)
    evict = torch.rand(3, 2, 9, generator=generator) < 0.5
    own = shared[:, None].expand(-1, 2, -1)
    batched = retain(queries, shared, evict, 5)
    assert batched.shape == (3, 2, 4, 9)
    assert torch.equal(batched, retain(queries, own, evict, 5))
    for row in range(3):
        assert torch.equal(batched[row], retain(queries[row], shared[row], evict[row], 5))


def test_shape_strings_are_checked():
    with pytest.raises(Exception, match="evict"):
        retain(torch.arange(2), torch.arange(4), torch.zeros(2, 2, 4, 1, dtype=torch.bool), 1)
