"""Bytes that were read: the window's and the survivors', by hand and against real pages."""

import pytest
import torch

from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape
from snello.evaluation.kv_bytes import ReadPrice, price_reads
from snello.policies import Never


def make_memory(survivors):
    return SparseMemory(
        [CacheShape(num_heads=2, key_size=8, value_size=8)] * 3,
        window_tokens=3,
        shift=1,
        policy=Never(),
        survivors=survivors,
        num_pages=60,
        page_tokens=4,
        max_sequences=2,
        dtype=torch.bfloat16,
        backend="reference",
    )


def test_a_token_takes_what_its_page_gives_it():
    """16 numbers of a head: 2 bytes each, or 1 and two scales; a position is 4 bytes, a mark 1.

    A page of narrow survivors has twice as many places as marks, of which it needs none.
    """
    price = price_reads(make_memory("same"), 3)
    assert (price.token_bytes, price.survivor_bytes) == (6 * 37, 6 * 37)
    price = price_reads(make_memory("int8"), 3)
    assert (price.token_bytes, price.survivor_bytes) == (6 * 37, 6 * 28.5)


def test_window_and_survivors_on_a_page_of_paper():
    """Window 2: the queries at 0..4 see 1, 2, 3, 3, 3 recent tokens; 15 reads, if all is kept."""
    price = ReadPrice(10.0, 1.0, 2)
    assert price.weigh(15, 0, 5) == 12 * 10 + 3
    assert price.weigh(9, 3, 5) == 6 * 10 + 3
    assert price.weigh(0, 4, 4) == 0
    assert ReadPrice(10.0, 10.0, None).weigh(15, 0, 5) == 150


@pytest.mark.parametrize("survivors", ["same", "int8"])
def test_the_memory_counts_as_many_reads_as_it_holds_tokens(survivors):
    """Step by step: what is recent is in the ring, what is older in survivors' pages."""
    memory = make_memory(survivors)
    sequence = memory.add()
    price, expected = price_reads(memory, 3), 0.0
    for position in range(9):
        step = memory.begin([sequence], [1])
        for layer in range(3):
            k = torch.randn(1, 2, 8)
            step.attend(layer, torch.randn(1, 2, 8), k, k, None, scale=1.0)
        memory.commit(step)
        recent = int(memory.count_ring(position + 1)[0])
        old = int(memory.count_survivors(sequence)[0, 0])
        expected += recent * price.token_bytes + old * price.survivor_bytes
    assert price.weigh(memory.kv_reads(sequence), 0, 9) == pytest.approx(expected)
