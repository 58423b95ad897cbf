import torch

from snello.dms.decision import announced, marks, shift_decisions


def test_only_a_positive_logit_evicts():
    assert marks(torch.tensor([-5.0, 0.0, 1e-6])).tolist() == [False, False, True]


def test_a_token_is_announced_by_its_successor():
    assert announced(torch.tensor([0, 1, 7]), shift=1).tolist() == [-1, 0, 6]
    assert announced(torch.tensor([0, 1, 7]), shift=0).tolist() == [0, 1, 7]


def test_shift_on_a_page_of_paper():
    """Tokens 1 and 3 announce: they speak about tokens 0 and 2; the last token is kept."""
    spoken = torch.tensor([False, True, False, True])[None, :, None]
    document = torch.zeros(1, 4, dtype=torch.long)
    assert shift_decisions(spoken, document, 1).flatten().tolist() == [True, False, True, False]


def test_without_a_shift_a_token_decides_for_itself():
    spoken = torch.tensor([False, True, False, True])[None, :, None]
    document = torch.zeros(1, 4, dtype=torch.long)
    assert shift_decisions(spoken, document, 0).equal(spoken)


def test_no_token_speaks_about_another_document():
    """Token 2 opens a document and announces, but token 1 belongs to the one before."""
    spoken = torch.tensor([True, True, True, True])[None, :, None]
    documents = torch.tensor([[0, 0, 1, 1]])
    shifted = shift_decisions(spoken, documents, 1)
    assert shifted.flatten().tolist() == [True, False, True, False]


def test_a_token_without_successor_is_kept_in_every_representation():
    document = torch.zeros(1, 1, dtype=torch.long)
    assert shift_decisions(torch.full((1, 1, 2), 0.9), document, 1).tolist() == [[[0.0, 0.0]]]
    assert shift_decisions(torch.full((1, 1, 2), -9.0), document, 1).tolist() == [[[0.0, 0.0]]]


def test_the_gradient_goes_to_the_token_that_spoke():
    spoken = torch.zeros(1, 4, 1, requires_grad=True)
    documents = torch.tensor([[0, 0, 1, 1]])
    shift_decisions(spoken, documents, 1).sum().backward()
    assert spoken.grad.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]
