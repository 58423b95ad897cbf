"""Who owns which page."""

import random

import pytest
import torch

from snello.cache.pages import OutOfPages, PagePool

CPU = torch.device("cpu")


def test_pages_are_handed_out_in_order():
    assert PagePool(5, CPU).take(3).tolist() == [0, 1, 2]


def test_a_failed_take_changes_nothing():
    pool = PagePool(4, CPU)
    pool.take(3)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 of 4 free"):
        pool.take(2)
    assert pool.num_free == 1
    assert pool.take(1).tolist() == [3]


def test_a_page_given_back_twice_is_noticed():
    pool = PagePool(4, CPU)
    pages = pool.take(2)
    pool.give_back(pages[:1])
    with pytest.raises(AssertionError, match="not held"):
        pool.give_back(pages)


def test_a_pool_without_pages_is_refused():
    with pytest.raises(ValueError, match="0 pages; it needs at least 1"):
        PagePool(0, CPU)


@pytest.mark.parametrize("seed", range(5))
def test_accounting_survives_any_order(seed):
    dice, pool, held = random.Random(seed), PagePool(16, CPU), []
    for _ in range(200):
        if held and dice.random() < 0.5:
            pool.give_back(held.pop(dice.randrange(len(held))))
        elif pool.num_free:
            held.append(pool.take(dice.randint(1, pool.num_free)))
        pool.check()
        owned = torch.cat(held).tolist() if held else []
        assert len(set(owned)) == len(owned) == pool.num_held


def test_a_pool_grows_with_pages_of_new_numbers():
    pool = PagePool(2, CPU)
    pool.take(2)
    pool.extend(4, 3)
    assert sorted(pool.take(3).tolist()) == [4, 5, 6]
    pool.check()


def test_broken_accounting_is_reported():
    pool = PagePool(3, CPU)
    pool.take(1)
    pool.num_free = 3
    with pytest.raises(RuntimeError, match="page accounting is broken"):
        pool.check()
