"""Sampling: filters worked out by hand, draws that depend on the request alone."""

import pytest
import torch

from snello.config.engine import SamplingConfig
from snello.engine.dice import draw_uniforms
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
    seeds = torch.arange(64).repeat_interleave(64)
    indices = torch.arange(64).repeat(64)
    uniforms = draw_uniforms(seeds, indices)
    assert torch.equal(draw_uniforms(seeds[7:9], indices[7:9]), uniforms[7:9])
    assert len(uniforms.unique()) == 4096
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    counts = torch.histc(uniforms, bins=8, min=0, max=1)
    assert (counts - 512).abs().max() < 100
    pairs = uniforms.view(64, 64)
    assert (
        torch.corrcoef(torch.stack([pairs[:-1].flatten(), pairs[1:].flatten()]))[0, 1].abs() < 0.06
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be between 0 and 1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**setting)
