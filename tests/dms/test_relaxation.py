import math

import pytest
import torch

from snello.dms import relaxation
from snello.dms.relaxation import draw_logistic, log_keep, relax, straight_through

CPU = torch.device("cpu")
NUM_DRAWS = 400_000


def assert_logistic(noise):
    """Mean 0, variance pi^2 / 3, symmetric, and a quarter of it beyond ln 3 on either side."""
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - math.pi**2 / 3) < 0.05
    assert abs((noise**3).mean()) < 0.3
    assert abs((noise > math.log(3)).float().mean() - 0.25) < 0.005
    assert abs((noise < -math.log(3)).float().mean() - 0.25) < 0.005


def test_the_noise_is_logistic():
    assert_logistic(draw_logistic((NUM_DRAWS,), (0, 1), CPU))


def test_one_gumbel_instead_of_two_would_be_noticed():
    """Its mean is 0.577 and its variance pi^2 / 6: biased towards eviction."""
    gumbel = relaxation.draw_gumbel((NUM_DRAWS,), torch.Generator().manual_seed(0), CPU)
    assert abs(gumbel.mean() - 0.5772) < 0.01
    assert abs(gumbel.var() - math.pi**2 / 6) < 0.03
    with pytest.raises(AssertionError):
        assert_logistic(gumbel)


def test_at_the_start_one_token_in_150_is_evicted():
    """Logit -5 under logistic noise: P(evict) = sigmoid(-5) = 0.67 %."""
    noise = draw_logistic((NUM_DRAWS,), (3,), CPU)
    evicted = (relax(torch.full((NUM_DRAWS,), -5.0), noise, 0.1) > 0).float().mean()
    assert abs(evicted - 0.00669) < 0.0008


def test_the_same_key_draws_the_same_noise():
    first = draw_logistic((5, 2), (7, 100, 3, 0), CPU)
    torch.rand(9)
    assert first.equal(draw_logistic((5, 2), (7, 100, 3, 0), CPU))


@pytest.mark.parametrize("key", [(8, 100, 3, 0), (7, 101, 3, 0), (7, 100, 4, 0), (7, 100, 3, 1)])
def test_another_key_draws_other_noise(key):
    assert not draw_logistic((5, 2), (7, 100, 3, 0), CPU).equal(draw_logistic((5, 2), key, CPU))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draw_logistic((5,), (1,), CPU)
    assert torch.get_rng_state().equal(before)


def test_relaxing_on_a_page_of_paper():
    """(-0.2 + 0.3) / 0.1 = 1: alpha = 0.7311, and what is kept is 0.2689 of it."""
    z = relax(torch.tensor([-0.2]), torch.tensor([0.3]), 0.1)
    assert z.item() == pytest.approx(1.0)
    assert log_keep(z).item() == pytest.approx(math.log(0.26894), abs=1e-4)
    assert straight_through(z).item() == 1.0


def test_log_keep_stays_finite_where_the_probability_does_not():
    assert log_keep(torch.tensor([2000.0, -2000.0])).tolist() == [-2000.0, 0.0]


def test_straight_through_decides_hard_and_learns_soft():
    """At z = 1 the slope of the sigmoid is 0.7311 * 0.2689 = 0.1966, on either side of 0."""
    z = torch.tensor([-1.0, 1.0], requires_grad=True)
    decided = straight_through(z)
    decided.sum().backward()
    assert decided.tolist() == [0.0, 1.0]
    assert z.grad.tolist() == pytest.approx([0.19661, 0.19661], abs=1e-5)
