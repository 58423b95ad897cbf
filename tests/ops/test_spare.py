"""Spare pages on a page of paper, and the kernel against the reference."""

import pytest
import torch

from snello.ops.native import load_library
from snello.ops.pages import Tails
from snello.ops.spare import resolve

needs_kernels = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
BACKENDS = ["reference", pytest.param("cpu", marks=needs_kernels)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_gets_a_page_on_a_page_of_paper(backend):
    """Two layers, rings of 3 and 5, pages of 2; sequences 1 and 0 held 4 and 2 tokens.

    Of the first layer a token of sequence 1 leaves, and its second head's page is half full; of the
    second layer none leaves yet. The last page on the stack is handed out first.
    """
    survivors = torch.zeros(2, 3, 3, dtype=torch.int64)
    survivors[0, 1] = torch.tensor([2, 1, 0])
    tails = Tails(survivors, torch.full((2, 3, 3), -1))
    free, holders = torch.tensor([9, 8, 7, 6]), torch.zeros(10, dtype=torch.int32)
    rule = torch.tensor([3, 5]), torch.tensor([3, 3]), 2
    sequences, starts = torch.tensor([1, 0]), torch.tensor([4, 2])
    hand_out, take_back = resolve(backend)
    assert hand_out(sequences, starts, tails, *rule, free, 1, holders) == -2
    assert bool((tails.spare == -1).all())
    assert hand_out(sequences, starts, tails, *rule, free, 4, holders) == 2
    assert tails.spare[0, 1].tolist() == [6, -1, 7]
    assert holders.nonzero().flatten().tolist() == [6, 7]
    tails.spare[0, 1, 0] = -1  # that head has used its page
    assert take_back(sequences, tails.spare, free, 2, holders) == 1
    assert free[2] == 7
    assert holders.nonzero().flatten().tolist() == [6]
    assert bool((tails.spare == -1).all())


@needs_kernels
def test_the_kernel_does_what_the_reference_does():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        L, N, K, B = 3, 6, 4, 4
        survivors = torch.randint(9, (L, N, K), generator=generator)
        given = {
            "sequences": torch.randperm(N, generator=generator)[:B],
            "starts": torch.randint(20, (B,), generator=generator),
        }
        rule = torch.tensor([6, 3, 11]), torch.tensor([4, 0, 2]), 4
        results = []
        for backend in ("cpu", "reference"):
            tails = Tails(survivors.clone(), torch.full((L, N, K), -1))
            free, holders = torch.arange(40), torch.zeros(40, dtype=torch.int32)
            hand_out, take_back = resolve(backend)
            pool = free, 30, holders
            count = hand_out(given["sequences"], given["starts"], tails, *rule, *pool)
            handed = tails.spare.clone()
            tails.spare[:, :3] = -1
            back = take_back(given["sequences"], tails.spare, free, 30 - count, holders)
            results.append([count, handed.tolist(), back, free.tolist(), holders.tolist()])
        assert results[0] == results[1]
