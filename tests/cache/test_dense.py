"""Dense memory: the baseline, against the hard mask that hides nothing."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.masked import MaskedMemory
from snello.cache.pages import OutOfPages
from snello.policies import Never
from tests.cache.driving import MIXED, PLAIN, Text, assert_same, plan_chunks, take_plan, take_step

pytestmark = pytest.mark.usefixtures("backend")


def make_dense(shapes=MIXED, **given):
    given = {"num_pages": 500, "page_tokens": 4, "max_sequences": 4} | given
    return DenseMemory(shapes, **given)


def read_masked(texts, shapes=MIXED):
    memory = MaskedMemory(
        shapes, window_tokens=1, shift=1, policy=Never(), max_sequences=len(texts)
    )
    handles, reads = take_plan(memory, texts, plan_chunks(texts, 1000))
    return [memory.kv_reads(handle) for handle in handles], reads


@pytest.mark.parametrize("tile_pages", [1, 2000])
def test_any_plan_agrees_with_attention_over_everything(tile_pages):
    texts = [Text(length, MIXED, seed=length) for length in (40, 23)]
    kv_reads, expected = read_masked(texts)
    turns = [[20, 0], [1, 11], *[[1, 1]] * 3, [16, 9]]
    for plan in (turns, plan_chunks(texts, 1), plan_chunks(texts, 7), plan_chunks(texts, 1000)):
        memory = make_dense()
        memory.store.tile_bytes = tile_pages * memory.store.bytes_per_page
        handles, reads = take_plan(memory, texts, plan)
        assert_same(reads, expected)
        assert [memory.kv_reads(handle) for handle in handles] == pytest.approx(kv_reads)
        for handle in handles:
            memory.release(handle)
        memory.check()
        assert memory.num_bytes_in_use == 0


def test_bytes_and_live_tokens_are_those_of_all_tokens():
    """9 tokens of 2 layers of 2 heads, 4 slots a page: 3 pages for each of 4 heads."""
    texts = [Text(9, (PLAIN, PLAIN))]
    memory = make_dense((PLAIN, PLAIN))
    (handle,), _ = take_plan(memory, texts, [[8], [1]])
    assert memory.num_bytes_in_use == 12 * memory.store.bytes_per_page == memory.peak_bytes
    assert memory.store.bytes_per_page == 4 * (16 * 4 + 4 + 1)
    assert memory.num_live_tokens(handle).tolist() == [[9, 9], [9, 9]]
    assert memory.portrait(handle) == [[list(range(9))] * 2] * 2
    assert memory.peak_live_tokens(handle) == 9
    assert memory.kv_reads(handle) == sum(range(1, 10))


def test_a_budget_in_bytes_is_kept():
    memory = make_dense((PLAIN,), num_pages=None, budget_bytes=4_200)
    handle = memory.add()
    with pytest.raises(OutOfPages, match="18 pages wanted, 15 of 15 free"):
        memory.begin([handle], [36])
    assert memory.num_bytes_in_use == 0
    take_step(memory, [handle], [Text(28, (PLAIN,))], [28])
    assert memory.num_bytes_in_use == 14 * memory.store.bytes_per_page <= 4_200


def test_a_pool_that_grows_between_steps_keeps_what_is_stored():
    texts = [Text(30, (PLAIN,))]
    _, expected = read_masked(texts, (PLAIN,))
    memory = make_dense((PLAIN,), num_pages=6)
    handles, first = take_plan(memory, texts, [[12]])
    memory.extend(20)
    _, second = take_plan(memory, texts, [[5], [13]], handles)
    assert_same([[torch.cat([first[0][0], second[0][0]])]], expected)
    memory.check()
