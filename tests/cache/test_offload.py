"""Memory of which a window is on the device: exact, both pools whole, and every byte counted."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.offload import OffloadMemory
from tests.cache.driving import MIXED, PLAIN, Text, assert_same, plan_chunks, take_plan, take_step

SHAPES = MIXED
LENGTHS = [23, 30, 2]


def open_memory(shapes=SHAPES, *, window_tokens=5, **given):
    given = {"num_pages": 300, "page_tokens": 3, "max_sequences": 4} | given
    return OffloadMemory(shapes, window_tokens=window_tokens, **given)


@pytest.mark.parametrize("size", [1, 4, 40])
def test_it_reads_what_dense_memory_reads(size):
    texts = [Text(length, SHAPES, seed=seed) for seed, length in enumerate(LENGTHS)]
    plan = plan_chunks(texts, size)
    memory = open_memory()
    handles, reads = take_plan(memory, texts, plan)
    dense = DenseMemory(SHAPES, num_pages=300, page_tokens=3, max_sequences=4)
    others, expected = take_plan(dense, texts, plan)
    assert_same(reads, expected)
    memory.check()
    for handle, other in zip(handles, others, strict=True):
        assert memory.kv_reads(handle) == dense.kv_reads(other)
        assert memory.peak_live_tokens(handle) == dense.peak_live_tokens(other)
        memory.release(handle)
    memory.check()
    assert memory.num_bytes_in_use == memory.host_bytes == 0


def test_what_is_where_on_a_page_of_paper():
    """20 tokens, window 5: 15 are behind it, five full pages of 3; two heads."""
    text = Text(20, (PLAIN,))
    memory = open_memory((PLAIN,))
    handle = memory.add()
    take_step(memory, [handle], [text], [20])
    of_page = memory.store.bytes_per_page
    assert memory.host_bytes == 2 * 5 * of_page
    assert memory.num_bytes_in_use == 2 * 2 * of_page
    assert memory.bytes_moved(handle) == 0  # the prompt came in one step
    assert memory.peak_sequence_bytes(handle) == 2 * 2 * of_page
    take_step(memory, [handle], [Text(30, (PLAIN,))], [1])
    per_slot = (8 + 8) * 4 + 4  # key, value, position
    assert memory.bytes_moved(handle) == 2 * 5 * 3 * per_slot
    assert memory.peak_bytes == 2 * 2 * of_page + memory.bytes_moved(handle)


def test_a_layer_is_fetched_while_another_is_read_and_both_are_counted():
    """Three layers alike: the second is on its way while the first is read, then the third."""
    shapes = (PLAIN,) * 3
    text, memory = Text(30, shapes), open_memory(shapes)
    handle = memory.add()
    take_step(memory, [handle], [text], [20])
    held = memory.peak_bytes
    take_step(memory, [handle], [text], [1])
    assert memory.peak_bytes == held + memory.bytes_moved(handle) * 2 // 3


def test_queries_of_a_long_prompt_are_read_in_blocks():
    text, memory = Text(30, SHAPES), open_memory()
    memory.store.tile_bytes = 4 * 4 * 30 * 2
    dense = DenseMemory(SHAPES, num_pages=300, page_tokens=3, max_sequences=4)
    plan = plan_chunks([text], 30)
    (handle,), reads = take_plan(memory, [text], plan)
    (other,), expected = take_plan(dense, [text], plan)
    assert_same(reads, expected)
    assert memory.kv_reads(handle) == dense.kv_reads(other)


def test_a_fork_shares_what_is_away_and_goes_on_alike():
    text = Text(40, SHAPES)
    memory = open_memory()
    handle = memory.add()
    take_step(memory, [handle], [text], [20])
    away = memory.host_bytes
    fork = memory.fork(handle)
    assert memory.host_bytes == away
    memory.check()
    for _ in range(15):
        mine, others = take_step(memory, [handle, fork], [text, text], [1, 1])
        assert_same([mine], [others], atol=1e-6)
    memory.release(handle)
    memory.check()
    with pytest.raises(ValueError, match="goes on from its end only"):
        memory.fork(fork, 7)
    memory.release(fork)
    memory.check()
    assert memory.host_bytes == 0


def test_a_pool_that_holds_the_window_is_enough():
    """Two heads, window 5, pages of 3: never more than 9 tokens, three pages a head."""
    text = Text(60, (PLAIN,))
    memory = open_memory((PLAIN,), num_pages=6)
    handle = memory.add()
    for _ in range(60):
        take_step(memory, [handle], [text], [1])
    assert int(memory.num_live_tokens(handle).max()) == 60
    memory.check()


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 token stays on the device"):
        open_memory(window_tokens=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second memory")
@pytest.mark.gpu
def test_copies_run_beside_the_work_of_a_gpu():
    text = Text(40, SHAPES)
    for layer, parts in enumerate(text.layers):
        text.layers[layer] = [None if part is None else part.cuda() for part in parts]
    memory = open_memory(device="cuda")
    dense = DenseMemory(SHAPES, num_pages=300, page_tokens=3, max_sequences=4, device="cuda")
    plan = plan_chunks([text], 1)
    assert_same(take_plan(memory, [text], plan)[1], take_plan(dense, [text], plan)[1], atol=1e-4)
