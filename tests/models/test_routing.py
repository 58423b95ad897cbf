"""Who is chosen, on pages of paper: scores, correction bias, groups, weights."""

import pytest
import torch

from snello.config.model import ExpertsConfig
from snello.models.experts import Router

ROW = torch.tensor([[1.0]])


def build_router(logits, bias=None, **settings):
    """A router whose logits for the input 1 are as given."""
    config = ExpertsConfig(
        num_experts=len(logits), size=1, correction_bias=bias is not None, **settings
    )
    router = Router(config, 1)
    router.weight.data[:, 0] = torch.tensor(logits)
    if bias is not None:
        router.e_score_correction_bias.copy_(torch.tensor(bias))
    return router


def route(router):
    chosen, weights = router(ROW)
    return dict(zip(chosen[0].tolist(), weights[0].tolist(), strict=True))


def test_softmax_weights_are_shares_of_all_experts_or_of_the_chosen():
    logits = [torch.log(torch.tensor(share)).item() for share in (0.1, 0.4, 0.3, 0.2)]
    assert route(build_router(logits, num_active=2)) == pytest.approx({1: 0.4, 2: 0.3})
    shares = route(build_router(logits, num_active=2, normalize=True))
    assert shares == pytest.approx({1: 4 / 7, 2: 3 / 7})
    scaled = route(build_router(logits, num_active=2, scaling=2.0))
    assert scaled == pytest.approx({1: 0.8, 2: 0.6})


def test_a_correction_bias_takes_part_in_the_choice_but_not_in_the_weights():
    router = build_router([0.0, 2.0, 1.0], [1.0, 0.0, -1.0], num_active=1, score="sigmoid")
    assert route(router) == pytest.approx({0: 0.5})


def test_groups_are_ranked_by_their_best_or_by_their_best_two():
    """Groups (5, 0) and (4, 3): the first has the best expert, the second the best two."""
    best = build_router([5.0, 0.0, 4.0, 3.0], num_active=2, num_groups=2)
    assert set(route(best)) == {0, 1}
    two = build_router(
        [5.0, 0.0, 4.0, 3.0],
        [0.0] * 4,
        num_active=2,
        num_groups=2,
        score="sigmoid",
        group_rank="top2",
    )
    assert set(route(two)) == {2, 3}


def test_saturated_scores_are_still_told_apart():
    """In float32 sigmoid(40) and sigmoid(50) are both one."""
    assert set(route(build_router([40.0, 50.0], num_active=1, score="sigmoid"))) == {1}
