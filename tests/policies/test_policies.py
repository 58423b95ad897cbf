"""Rules of forgetting: what each marks, and that chunks cannot change it."""

import pytest
import torch

from snello.policies import Learned, Never, Policy, Random, Streaming, Window


def mark(policy, positions, *, layer=0, logits=None, num_heads=3):
    return policy.mark(layer, logits, torch.as_tensor(positions), num_heads)


@pytest.mark.parametrize("policy", [Learned(), Never(), Random(0.5), Streaming(shift=1), Window()])
def test_every_rule_is_a_policy(policy):
    assert isinstance(policy, Policy)
    marks = mark(policy, [0, 1], logits=torch.zeros(2, 3))
    assert marks.shape == (2, 3)
    assert marks.dtype == torch.bool


def test_learned_marks_positive_logits_and_only_those():
    logits = torch.tensor([[-5.0, 0.0, 1e-3]])
    assert mark(Learned(), [7], logits=logits).tolist() == [[False, False, True]]


def test_learned_without_logits_says_what_to_do():
    with pytest.raises(ValueError, match=r"layer 2 gave no eviction logits.*Load an adapter"):
        mark(Learned(), [0], layer=2)


def test_streaming_marks_all_but_the_sinks_of_which_the_next_row_speaks():
    """Two sinks, 0 and 1: rows 1 and 2 speak of them, row 3 of token 2; or each of itself."""
    marks = mark(Streaming(shift=1, sinks=2), range(5))
    assert marks[:, 0].tolist() == [False, False, False, True, True]
    assert torch.equal(marks[:, :1].expand(-1, 3), marks)
    marks = mark(Streaming(shift=0, sinks=2), range(5))
    assert marks[:, 0].tolist() == [False, False, True, True, True]


def test_only_learned_asks_for_logits():
    assert Learned().needs_logits
    assert not any(
        policy.needs_logits for policy in (Never(), Window(), Random(0.5), Streaming(shift=1))
    )


def test_window_marks_all_and_never_none():
    assert mark(Window(), range(5)).all()
    assert not mark(Never(), range(5)).any()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_random_marks_at_its_rate(rate):
    marks = mark(Random(rate), range(20000)).float()
    assert marks.mean(dim=0).sub(rate).abs().max() < 0.02


def test_random_does_not_depend_on_chunks():
    whole = mark(Random(0.5, seed=3), range(40), layer=1)
    pieces = [mark(Random(0.5, seed=3), range(a, a + 8), layer=1) for a in range(0, 40, 8)]
    assert torch.equal(whole, torch.cat(pieces))


def test_random_differs_between_seeds_layers_and_heads():
    base = mark(Random(0.5), range(200))
    assert not torch.equal(base, mark(Random(0.5, seed=1), range(200)))
    assert not torch.equal(base, mark(Random(0.5), range(200), layer=1))
    assert not torch.equal(base[:, 0], base[:, 1])


def test_random_marks_of_neighbours_are_unrelated():
    marks = mark(Random(0.5), range(20000)).float() - 0.5
    for lag in (1, 2, 3, 8):
        assert (marks[lag:] * marks[:-lag]).mean().abs() < 0.01
    assert (marks[:, 0] * marks[:, 1]).mean().abs() < 0.01


def test_a_rate_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"Random.rate is 8\.0.*0\.9 keeps one in ten"):
        Random(8.0)
