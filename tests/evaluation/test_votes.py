"""Votes counted by hand, and pass@k against every subset."""

from itertools import combinations

import pytest

from snello.evaluation.votes import find_majority, pass_at_k, score_majority


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["4"], 0),
        (["4", "5", "5"], 1),
        (["4", "5"], 0),
        (["5", "4", "4", "5"], 0),
        ([None, "5", None], 1),
        ([None, None], None),
        (["", "5", ""], 0),
        ([], None),
    ],
)
def test_most_votes_win_and_ties_go_to_the_earliest(answers, chosen):
    assert find_majority(answers) == chosen


def test_the_majority_has_the_score_of_its_answer():
    assert score_majority(["7", "9", "9"], [1.0, 0.25, 0.25]) == 0.25
    assert score_majority([None, None], [0.0, 0.0]) == 0.0


def test_pass_at_k_is_the_share_of_subsets_with_a_right_chain():
    for num_chains in (1, 2, 5):
        for num_right in range(num_chains + 1):
            chains = [index < num_right for index in range(num_chains)]
            for k in range(1, num_chains + 1):
                subsets = list(combinations(chains, k))
                share = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at_k(num_chains, num_right, k) == pytest.approx(share)


def test_pass_at_k_on_a_page_of_paper():
    """Ten chains, three right, two tried: 1 - (7/10)(6/9) = 8/15."""
    assert pass_at_k(10, 3, 2) == pytest.approx(8 / 15)


def test_pass_at_all_is_whether_any_is_right():
    assert pass_at_k(8, 0, 8) == 0.0
    assert pass_at_k(8, 1, 8) == 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_more_chains_than_there_are_cannot_be_asked_for(k):
    with pytest.raises(ValueError, match=f"pass@{k} was asked of 3 chains; k must be 1 to 3"):
        pass_at_k(3, 1, k)
