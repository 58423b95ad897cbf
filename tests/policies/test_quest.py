"""Which pages a query reads, worked out on paper."""

import torch

from snello.policies import Quest


def choose(budget, q, bounds, num_pages, page_tokens=4):
    q = torch.tensor(q)[None, None]
    bounds = torch.tensor(bounds)[None, None]
    return Quest(budget).choose(q, bounds, torch.tensor([num_pages]), page_tokens)[0, 0].tolist()


def test_a_page_promises_the_most_that_any_key_in_its_bounds_could_give():
    """Query (1, -2). Page 0: 1 * 3 + -2 * -1 = 5; page 1: 2 + 0 = 2; page 2: -1 + 8 = 7."""
    bounds = [
        [[0.0, -1.0], [3.0, 2.0]],
        [[-5.0, 0.0], [2.0, 9.0]],
        [[-2.0, -4.0], [-1.0, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],  # the newest: not looked at
    ]
    q = [[1.0, -2.0]]
    assert choose(8, q, bounds, 4) == [False, False, True, True]
    assert choose(12, q, bounds, 4) == [True, False, True, True]
    assert choose(100, q, bounds, 4) == [True] * 4
    assert choose(3, q, bounds, 4) == [False, False, False, True]


def test_heads_of_a_group_share_the_page_that_any_of_them_wants_most():
    bounds = [[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]]
    q = [[2.0, 0.0], [0.0, 1.0]]
    assert choose(8, q, bounds, 3) == [False, True, True]


def test_shorter_sequences_have_no_pages_behind_their_newest():
    bounds = torch.rand(1, 1, 3, 2, 2).expand(2, 1, 3, 2, 2)
    chosen = Quest(12).choose(torch.ones(2, 1, 1, 2), bounds, torch.tensor([3, 1]), 4)
    assert chosen[:, 0].tolist() == [[True, True, True], [True, False, False]]
