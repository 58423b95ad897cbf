"""Sampling: filters worked out by hand, draws that depend on the request alone."""

import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from snello.config.sampling import SamplingConfig
from snello.engine import sampler
from snello.engine.dice import draw_uniforms, split_seed
from snello.engine.edits import Edits
from snello.engine.sampler import Ask, choose, find_allowed, sample


def ask(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, seed=0, num_drawn=0):
    return Ask(temperature, top_k, top_p, min_p, seed, num_drawn)


def allowed_ids(weights, **wish):
    return find_allowed(torch.tensor([weights]), [ask(**wish)])[0].nonzero().flatten().tolist()


WEIGHTS = [0.1, 0.5, 0.25, 0.15]


def test_top_k_keeps_the_likeliest():
    assert allowed_ids(WEIGHTS, top_k=2) == [1, 2]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    assert allowed_ids(WEIGHTS, top_p=0.5) == [1]
    assert allowed_ids(WEIGHTS, top_p=0.51) == [1, 2]


def test_top_p_is_measured_on_what_top_k_left():
    """After top-k 2 the weights are 2/3 and 1/3, so 0.6 is reached by the first alone."""
    assert allowed_ids(WEIGHTS, top_p=0.6) == [1, 2]
    assert allowed_ids(WEIGHTS, top_k=2, top_p=0.6) == [1]


def test_min_p_is_relative_to_the_likeliest():
    assert allowed_ids(WEIGHTS, min_p=0.3) == [1, 2, 3]
    assert allowed_ids(WEIGHTS, min_p=0.4) == [1, 2]


def test_the_likeliest_token_is_always_allowed():
    assert allowed_ids(WEIGHTS, top_k=1, top_p=1e-9, min_p=1.0) == [1]


def test_equal_weights_are_ranked_by_token_id():
    assert allowed_ids([0.25] * 4, top_k=2) == [0, 1]


def test_a_draw_inverts_the_cumulated_weights():
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 1 - 2.0**-52], dtype=torch.float64)
    assert choose(weights, uniforms).tolist() == [1, 1, 3, 3]


def test_uniforms_depend_on_seed_and_index_alone_and_fill_the_unit_interval():
    pairs = [(seed, index) for seed in range(64) for index in range(64)]
    uniforms = torch.from_numpy(draw_uniforms(pairs))
    assert draw_uniforms(pairs[7:9]).tolist() == uniforms[7:9].tolist()
    assert len(uniforms.unique()) == 4096
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    counts = torch.histc(uniforms, bins=8, min=0, max=1)
    assert (counts - 512).abs().max() < 100
    table = uniforms.view(64, 64)
    assert (
        torch.corrcoef(torch.stack([table[:-1].flatten(), table[1:].flatten()]))[0, 1].abs() < 0.06
    )


def test_draws_follow_the_distribution():
    logits = torch.tensor(WEIGHTS).log().expand(4000, -1)
    drawn = sample(logits, [ask(num_drawn=i) for i in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor(WEIGHTS), atol=0.03)


def test_temperature_zero_is_greedy_and_a_small_one_nearly_so():
    logits = torch.randn(3, 50)
    cold = sample(logits, [ask(temperature=0.0), ask(temperature=1e-4), ask(temperature=0.0)])
    assert torch.equal(cold, logits.argmax(-1))


def test_a_row_draws_the_same_token_in_any_company():
    logits = torch.randn(6, 200)
    asks = [
        ask(temperature=0.0),
        ask(temperature=1.3, seed=5, num_drawn=7),
        ask(top_k=9, seed=2),
        ask(top_p=0.7, seed=3, num_drawn=1),
        ask(min_p=0.05, seed=4),
        ask(temperature=0.7, top_k=30, top_p=0.9, min_p=0.01, seed=2**62, num_drawn=100),
    ]
    together = sample(logits, asks).tolist()
    alone = [sample(logits[i : i + 1], asks[i : i + 1]).item() for i in range(6)]
    assert together == alone


WIDE = 3000


def spread(sharpness):
    """Rows of weights from nearly even to nearly certain, on more tokens than are sorted first."""
    torch.manual_seed(8)
    return (torch.randn(4, WIDE) * sharpness).softmax(-1)


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 6.0])
@pytest.mark.parametrize(
    ("wish", "warper"),
    [
        ({"top_k": 7}, TopKLogitsWarper(7)),
        ({"top_k": 700}, TopKLogitsWarper(700)),
        ({"top_p": 0.9}, TopPLogitsWarper(0.9)),
        ({"top_p": 0.3}, TopPLogitsWarper(0.3)),
        ({"min_p": 0.05}, MinPLogitsWarper(0.05)),
    ],
    ids=["top-k", "wide top-k", "top-p", "small top-p", "min-p"],
)
def test_filters_are_those_of_transformers(sharpness, wish, warper):
    weights = spread(sharpness)
    theirs = warper(torch.zeros(4, 1, dtype=torch.long), weights.log()) > -torch.inf
    assert torch.equal(find_allowed(weights, [ask(**wish)] * 4), theirs)


def test_all_filters_together_are_those_of_transformers_in_its_order():
    weights, ids = spread(2.0), torch.zeros(4, 1, dtype=torch.long)
    theirs = TopPLogitsWarper(0.7)(ids, TopKLogitsWarper(40)(ids, weights.log()))
    theirs = MinPLogitsWarper(0.2)(ids, theirs) > -torch.inf
    allowed = find_allowed(weights, [ask(top_k=40, top_p=0.7, min_p=0.2)] * 4)
    assert torch.equal(allowed, theirs)
    assert 1 < allowed.sum() < 160


def test_a_wide_neighbour_changes_no_filter():
    """The neighbour's nucleus is wider than what is sorted first."""
    weights = torch.cat([spread(6.0), spread(0.1)])
    asks = [ask(top_p=0.9), ask(top_k=5), ask(min_p=0.1), ask(top_k=50, top_p=0.5)] * 2
    together = find_allowed(weights, asks)
    alone = [find_allowed(weights[i : i + 1], asks[i : i + 1]) for i in range(8)]
    assert torch.equal(together, torch.cat(alone))
    assert together[4].sum() > 2000


def test_a_batch_of_greedy_rows_is_one_argmax(monkeypatch):
    monkeypatch.setattr(sampler, "_choose_specially", None)
    logits = torch.randn(4, 50)
    assert torch.equal(sample(logits, [ask(temperature=0.0)] * 4), logits.argmax(-1))


def test_logits_stay_as_they_are():
    logits = torch.randn(2, 50)
    before = logits.clone()
    edits = Edits(SamplingConfig(logit_bias={3: 9.0}), [], [])
    sample(logits, [ask()._replace(edits=edits), ask(temperature=0.0)._replace(edits=edits)])
    assert torch.equal(logits, before)


def test_edits_come_before_the_argmax_and_before_the_filters():
    """Token 9 is the likeliest by its bias alone; the ban of 9 then makes 4 the likeliest."""
    logits = torch.zeros(1, 20)
    logits[0, 4] = 1.0
    liked = Edits(SamplingConfig(logit_bias={9: 5.0}), [], [])
    banned = Edits(SamplingConfig(logit_bias={9: 5.0}, min_new_tokens=3), [], [9])
    for wish in ({"temperature": 0.0}, {"top_k": 1}):
        assert sample(logits, [ask(**wish)._replace(edits=liked)]).tolist() == [9]
        assert sample(logits, [ask(**wish)._replace(edits=banned)]).tolist() == [4]


def test_sample_0_has_the_seed_itself_and_others_have_nothing_in_common():
    seeds = {split_seed(seed, index) for seed in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert split_seed(12, 0) == 12
    assert split_seed(2**63 - 1, 7) == split_seed(2**63 - 1, 7)
