"""Texts by their beginnings: the longest state that fits, on paper and against a plain search."""

import random

import numpy as np
import pytest

from snello.cache.prefix import Checkpoint, PrefixIndex


def keep(index, text):
    checkpoint = Checkpoint(np.array(text), sequence=len(index))
    index.add(checkpoint)
    return checkpoint


def test_only_a_text_that_holds_all_of_a_state_starts_from_it():
    index = PrefixIndex(block_tokens=4, can_cut=False)
    short, long = keep(index, [1, 2, 3]), keep(index, [1, 2, 3, 4, 5, 6])
    assert index.find([1, 2, 3, 4, 5, 6, 7], 6) == (long, 6)
    assert index.find([1, 2, 3, 4, 5, 9, 7], 6) == (short, 3)
    assert index.find([1, 2, 3, 4, 5, 6], 5) == (short, 3)
    assert index.find([1, 2], 2) is None
    index.remove(short)
    assert index.find([1, 2, 3, 4, 5, 9], 6) is None


def test_a_state_that_can_be_cut_serves_every_beginning_of_a_block_or_more():
    index = PrefixIndex(block_tokens=4, can_cut=True)
    whole = keep(index, [1, 2, 3, 4, 5, 6])
    assert index.find([1, 2, 3, 4, 5, 9, 9], 6) == (whole, 5)
    assert index.find([1, 2, 3, 4, 5, 6, 7, 8, 9], 4) == (whole, 4)


@pytest.mark.parametrize("can_cut", [False, True])
def test_the_longest_match_is_found_among_many(can_cut):
    dice = random.Random(5)
    index, texts = PrefixIndex(block_tokens=3, can_cut=can_cut), []
    for _ in range(60):
        text = [dice.randrange(2) for _ in range(dice.randrange(1, 16))]
        texts.append(text)
        keep(index, text)
    for _ in range(200):
        asked = [dice.randrange(2) for _ in range(12)]
        match = index.find(asked, 11)
        fitting = [len(text) for text in texts if text == asked[: len(text)][:11]]
        if can_cut:
            fitting = [count_common(text, asked[:11]) for text in texts]
        assert (match.num_tokens if match else 0) == max(fitting, default=0)


def count_common(first, second):
    size = 0
    while size < min(len(first), len(second)) and first[size] == second[size]:
        size += 1
    return size


def test_what_is_found_is_given_up_last():
    index = PrefixIndex(block_tokens=4, can_cut=False)
    first, second = keep(index, [1, 2, 3]), keep(index, [4, 5, 6])
    assert list(index) == [first, second]
    index.find([1, 2, 3, 4], 4)
    assert list(index) == [second, first]


def test_equal_hashes_are_no_hit(monkeypatch):
    index = PrefixIndex(block_tokens=2, can_cut=False)
    monkeypatch.setattr(index, "_chain", lambda text: [0] * (1 + len(text) // 2))
    keep(index, [1, 2, 3, 4])
    assert index.find([1, 2, 9, 4, 5], 4) is None
    assert index.find([1, 2, 3, 4, 5], 4).num_tokens == 4


def test_a_text_departs_from_those_seen_before():
    index = PrefixIndex(block_tokens=2, can_cut=False, max_seen=2)
    assert index.find_common([1, 2, 3]) == 0
    index.note([1, 2, 3, 4, 5])
    assert index.find_common([1, 2, 3, 9]) == 3
    index.note([7, 7, 7])
    index.note([8, 8, 8])
    assert index.find_common([1, 2, 3, 9]) == 0
    assert index.find_common([8, 8, 8, 9]) == 3
