"""Logarithms of the model's own probabilities."""

import torch

from snello.engine.scores import score_tokens


def test_scores_on_paper():
    """Probabilities 1/2, 1/8, 1/4, 1/8; token 3 was chosen, and the two likeliest are 0 and 2."""
    logits = torch.tensor([[0.5, 0.125, 0.25, 0.125]]).log() + 7
    (place,) = score_tokens(logits, torch.tensor([3]), [2])
    assert place.token_id == 3
    torch.testing.assert_close(place.logprob, torch.tensor(0.125).log().item())
    assert [token_id for token_id, _ in place.top] == [0, 2]
    torch.testing.assert_close([p for _, p in place.top], torch.tensor([0.5, 0.25]).log().tolist())


def test_ties_are_ordered_alike_in_any_company():
    logits = torch.zeros(3, 100)
    token_ids = torch.tensor([1, 2, 3])
    together = score_tokens(logits, token_ids, [1, 20, 3])
    alone = [score_tokens(logits[:1], token_ids[i : i + 1], [n])[0] for i, n in ((0, 1), (2, 3))]
    assert [together[0], together[2]] == alone


def test_a_small_vocabulary_has_no_more_than_it_has():
    (place,) = score_tokens(torch.randn(1, 3), torch.tensor([0]), [20])
    assert len(place.top) == 3
