"""Sparse memory against the hard mask over everything, on paper, and in use."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.masked import MaskedMemory
from snello.cache.memory import Memory, Step
from snello.cache.pages import OutOfPages
from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape, Horizon
from snello.policies import Learned, Never, Random, Window
from tests.cache.conftest import BACKENDS
from tests.cache.driving import (
    MIXED,
    PLAIN,
    Text,
    assert_same,
    plan_chunks,
    take_plan,
    take_step,
)

CPU = BACKENDS[0]
pytestmark = pytest.mark.usefixtures("backend")


def make_texts(*lengths, shapes=MIXED, evicted=0.5):
    return [Text(length, shapes, evicted=evicted, seed=seed) for seed, length in enumerate(lengths)]


def make_sparse(shapes=MIXED, *, window_tokens=4, shift=1, policy=None, **given):
    given = {"num_pages": 500, "page_tokens": 4, "max_sequences": 4} | given
    policy = policy or Learned()
    return SparseMemory(shapes, window_tokens=window_tokens, shift=shift, policy=policy, **given)


def read_masked(texts, shapes=MIXED, *, window_tokens=4, shift=1, policy=None):
    """What the hard mask over everything gives, all at once; and its memory."""
    memory = MaskedMemory(
        shapes,
        window_tokens=window_tokens,
        shift=shift,
        policy=policy or Learned(),
        max_sequences=4,
    )
    handles, reads = take_plan(memory, texts, plan_chunks(texts, 1000))
    return memory, handles, reads


def close_all(memory, handles):
    for handle in handles:
        memory.release(handle)
    memory.check()
    assert memory.num_bytes_in_use == 0


@pytest.mark.parametrize("shift", [0, 1], ids="shift{}".format)
@pytest.mark.parametrize("window_tokens", [1, 16, 1000], ids="w{}".format)
@pytest.mark.parametrize("evicted", [0.1, 0.5, 0.9], ids="evict{}".format)
def test_step_by_step_is_chunked_is_the_hard_mask(evicted, window_tokens, shift):
    rule = {"window_tokens": window_tokens, "shift": shift}
    shapes = MIXED[1:]
    texts = make_texts(66, 23, 40, shapes=shapes, evicted=evicted)
    masked, masked_handles, expected = read_masked(texts, shapes, **rule)
    for size in (1, 5, 16, 63, 1000):
        memory = make_sparse(shapes, **rule)
        handles, reads = take_plan(memory, texts, plan_chunks(texts, size))
        assert_same(reads, expected)
        for handle, masked_handle in zip(handles, masked_handles, strict=True):
            assert memory.kv_reads(handle) == pytest.approx(masked.kv_reads(masked_handle))
        close_all(memory, handles)


@pytest.mark.parametrize("policy", [Window(), Never(), Random(0.5)])
def test_every_policy_agrees_with_the_hard_mask(policy):
    texts = make_texts(30, 17)
    _, _, expected = read_masked(texts, policy=policy)
    for size in (1, 7, 1000):
        handles, reads = take_plan(
            memory := make_sparse(policy=policy), texts, plan_chunks(texts, size)
        )
        assert_same(reads, expected)
        close_all(memory, handles)


def test_a_turn_after_decoding_needs_no_recomputation():
    """Mistake 9: prompt, answer, second prompt, answer, in one memory, beside another sequence."""
    texts = make_texts(60, 31)
    _, _, expected = read_masked(texts)
    turns = [[20, 0], *[[1, 0]] * 6, [1, 11], [17, 1], *[[1, 1]] * 3, [13, 2], [0, 14]]
    memory = make_sparse()
    _, reads = take_plan(memory, texts, turns)
    assert_same(reads, expected)


def test_heads_longer_than_a_tile_are_read_in_parts():
    texts = make_texts(60, 31)
    _, _, expected = read_masked(texts)
    memory = make_sparse()
    memory.store.tile_bytes = 2 * memory.store.bytes_per_page
    _, reads = take_plan(memory, texts, [[40, 20], *[[1, 1]] * 5, [15, 6]])
    assert_same(reads, expected)


def test_without_eviction_it_is_dense_memory():
    texts = make_texts(40, 9)
    dense = DenseMemory(MIXED, num_pages=500, page_tokens=4, max_sequences=2)
    plan = plan_chunks(texts, 7)
    _, expected = take_plan(dense, texts, plan)
    _, reads = take_plan(make_sparse(policy=Never()), texts, plan)
    assert_same(reads, expected)


# On paper: one layer, one head; a row whose logit is positive marks a token.
ONE = (CacheShape(num_heads=1, key_size=2, value_size=2),)


def run_marked(marked_rows, num_tokens, chunk, **rule):
    """Which positions are alive after tokens of which some rows announce an eviction."""
    text = Text(num_tokens, ONE)
    logits = torch.full((num_tokens, 1), -1.0)
    logits[list(marked_rows)] = 1.0
    text.layers[0] = (*text.layers[0][:3], logits)
    memory = make_sparse(ONE, **rule)
    (handle,), _ = take_plan(memory, [text], plan_chunks([text], chunk))
    return memory.portrait(handle)[0][0]


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_the_window_on_paper(chunk):
    """Mistake 1: window 2, all marked, 6 tokens: exactly 3, 4 and 5 are alive."""
    assert run_marked(range(6), 6, chunk, window_tokens=2, shift=0) == [3, 4, 5]


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_the_shift_on_paper(chunk):
    """Mistake 2: window 1, rows 2 and 3 announce marks, 8 tokens; 6 and 7 are recent."""
    rule = {"window_tokens": 1}
    assert run_marked([2, 3], 8, chunk, shift=1, **rule) == [0, 3, 4, 5, 6, 7]
    assert run_marked([2, 3], 8, chunk, shift=0, **rule) == [0, 1, 4, 5, 6, 7]


def test_the_first_token_announces_nothing_about_the_text_before_it():
    assert run_marked([0], 6, 2, window_tokens=1, shift=1) == [0, 1, 2, 3, 4, 5]


def test_bytes_fall_when_tokens_are_evicted():
    """Mistake 6: masking alone would hold 96 tokens; here it is the ring and the survivors."""
    (text,) = make_texts(96, shapes=(PLAIN,), evicted=0.9)
    memory = make_sparse((PLAIN,), window_tokens=7)
    dense = DenseMemory((PLAIN,), num_pages=500, page_tokens=4, max_sequences=1)
    (handle,), _ = take_plan(memory, [text], plan_chunks([text], 8))
    take_plan(dense, [text], plan_chunks([text], 8))
    survivors = memory.num_live_tokens(handle)[0] - 8
    num_pages = sum(2 + -(-int(count) // 4) for count in survivors)
    assert memory.num_bytes_in_use == num_pages * memory.store.bytes_per_page
    assert memory.num_bytes_in_use < 0.4 * dense.num_bytes_in_use
    assert memory.peak_live_tokens(handle) < 32 < dense.peak_live_tokens(handle)


def test_what_a_chunk_evicts_is_never_stored():
    """One prefill of 96 tokens, all marked: only pages of the ring were ever taken."""
    (text,) = make_texts(96, shapes=(PLAIN,))
    memory = make_sparse((PLAIN,), window_tokens=7, policy=Window(), num_pages=2 * 24)
    (handle,), _ = take_plan(memory, [text], [[96]])
    assert memory.peak_bytes == 2 * 2 * memory.store.bytes_per_page
    assert memory.portrait(handle) == [[list(range(88, 96))] * 2]


def test_pages_behind_a_horizon_are_given_back():
    """Nothing is evicted, yet each head holds no more than its ring and a span of survivors."""
    for kind, span in (("sliding", 12), ("chunked", 16)):
        horizon = Horizon(kind=kind, span_tokens=span)
        shapes = (CacheShape(num_heads=2, key_size=8, value_size=8, horizon=horizon),)
        texts = make_texts(120, shapes=shapes)
        memory = make_sparse(shapes, policy=Never())
        handles, _ = take_plan(memory, texts, plan_chunks(texts, 5))
        assert memory.num_live_tokens(handles[0]).max() < span + 4
        assert memory.store.pool.num_held <= 2 * (2 + span // 4 + 1)
        close_all(memory, handles)


def test_a_horizon_within_the_window_leaves_no_survivors():
    horizon = Horizon(kind="sliding", span_tokens=5)
    shapes = (CacheShape(num_heads=1, key_size=8, value_size=8, horizon=horizon),)
    (text,) = make_texts(40, shapes=shapes)
    memory = make_sparse(shapes, window_tokens=9, policy=Never())
    (handle,), _ = take_plan(memory, [text], [[20], *[[1]] * 20])
    assert memory.portrait(handle) == [[list(range(35, 40))]]


def test_a_step_that_cannot_be_served_changes_nothing():
    texts = make_texts(40, 30, shapes=(PLAIN,))
    memory = make_sparse((PLAIN,), num_pages=24)
    handles, _ = take_plan(memory, texts, [[12, 10]])
    before = memory.num_bytes_in_use, memory.table.pages.clone(), memory.num_survivors.clone()
    with pytest.raises(OutOfPages, match=r"pages wanted.*release a sequence"):
        memory.begin(handles, [20, 20])
    assert memory.num_bytes_in_use == before[0]
    assert torch.equal(memory.table.pages, before[1])
    assert torch.equal(memory.num_survivors, before[2])
    assert [memory.length(handle) for handle in handles] == [12, 10]
    memory.release(handles[1])
    take_step(memory, handles[:1], texts[:1], [20])
    memory.check()


def test_a_released_sequence_leaves_no_trace():
    """A handle that is used again, on pages that are used again, reads what a fresh one reads."""
    first, second = make_texts(50, 33, evicted=0.9)
    memory = make_sparse(num_pages=120, max_sequences=1)
    for text in (first, second, first):
        _, _, expected = read_masked([text])
        handles, reads = take_plan(memory, [text], plan_chunks([text], 6))
        assert_same(reads, expected)
        close_all(memory, handles)
    assert not memory.store.keys[:-1].any()
    assert not memory.num_survivors.any()


def test_a_step_that_was_never_finished_can_be_released():
    texts = make_texts(30, shapes=(PLAIN, PLAIN))
    memory = make_sparse((PLAIN, PLAIN))
    handles, _ = take_plan(memory, texts, [[9]])
    step = memory.begin(handles, [11])
    step.attend(0, *texts[0].rows(0, 9, 20), scale=0.3)
    assert memory.num_bytes_in_use > 0
    close_all(memory, handles)
    assert memory.num_bytes_in_use == 0
    memory.check()


def test_numbers_of_one_sequence_cannot_spoil_another():
    """Slots that are hidden weigh 0, and 0 times infinity would be NaN."""
    good, bad = make_texts(20, 20, shapes=(PLAIN,))
    bad.layers[0][2].fill_(torch.inf)
    memory = make_sparse((PLAIN,))
    handles, reads = take_plan(memory, [good, bad], plan_chunks([good, bad], 5))
    memory.release(handles[1])
    _, _, expected = read_masked([good], (PLAIN,))
    assert_same(reads[:1], expected)
    _, reads = take_plan(memory, [good], plan_chunks([good], 3))
    assert_same(reads, expected)


def test_one_sequence_reads_the_same_bits_whoever_decodes_beside_it():
    """On the CPU backend: alone, and in batches that change from step to step."""
    texts = make_texts(60, 31, 45)
    memory = make_sparse(backend=CPU)
    prompts = [[20, 5, 7]]
    _, alone = take_plan(memory, texts[:1], [[20], *[[1]] * 12])
    crowd = [[1, step % 2, step % 3 > 0] for step in range(12)]
    _, together = take_plan(make_sparse(backend=CPU), texts, prompts + crowd)
    for part, expected in zip(together[0], alone[0], strict=True):
        assert torch.equal(part, expected)


def test_a_backend_that_cannot_serve_is_refused():
    with pytest.raises(ValueError, match="kernels read float32, bfloat16, not float16"):
        make_sparse(backend="cpu", dtype=torch.float16)


def test_steps_may_be_taken_in_and_out_of_inference_mode():
    texts = make_texts(60)
    _, _, expected = read_masked(texts)
    memory = make_sparse()
    with torch.inference_mode():
        handles, first = take_plan(memory, texts, [[40]])
    _, second = take_plan(memory, texts, [[1], [19]], handles)
    both = [torch.cat(parts) for parts in zip(first[0], second[0], strict=True)]
    assert_same([both], expected)


def test_half_precision_storage_serves_float32_queries():
    texts = make_texts(30)
    _, _, expected = read_masked(texts)
    memory = make_sparse(dtype=torch.bfloat16)
    _, reads = take_plan(memory, texts, [[20], *[[1]] * 10])
    assert_same(reads, expected, atol=0.05)
    assert memory.store.bytes_per_page == 4 * (20 * 2 + 5)


def test_reads_and_peaks_on_paper():
    """Window 1, all marked: queries see 1, 2, 2, 2 tokens; after each step 2 are alive at most."""
    (text,) = make_texts(4, shapes=(PLAIN,))
    memory = make_sparse((PLAIN,), window_tokens=1, policy=Window())
    (handle,), _ = take_plan(memory, [text], [[2], [1], [1]])
    assert memory.kv_reads(handle) == 1 + 2 + 2 + 2
    assert memory.peak_live_tokens(handle) == 2
    memory.release(handle)
    assert memory.kv_reads(handle) == 7
    assert memory.add() == handle
    assert memory.kv_reads(handle) == 0


def test_it_is_a_memory_and_its_steps_are_steps():
    for memory in (
        make_sparse(),
        DenseMemory(MIXED, num_pages=9, max_sequences=1),
        MaskedMemory(MIXED, window_tokens=1, shift=1, policy=Learned(), max_sequences=1),
    ):
        assert isinstance(memory, Memory)
        assert isinstance(memory.begin([memory.add()], [1]), Step)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window_tokens": 0}, "window_tokens is 0; it must be at least 1"),
        ({"num_pages": None}, "give exactly one"),
        ({"budget_bytes": 10**6}, "give exactly one"),
        ({"max_sequences": 0}, "max_sequences is 0"),
        ({"num_pages": None, "budget_bytes": 5}, "0 pages; it needs at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make_sparse(**given)


def test_handles_that_are_not_open_are_refused():
    memory = make_sparse(max_sequences=1)
    handle = memory.add()
    with pytest.raises(ValueError, match="1 sequences are open and no more are allowed"):
        memory.add()
    with pytest.raises(ValueError, match=r"sequence 7 is not open; open ones are \[0\]"):
        memory.begin([7], [1])
    memory.release(handle)
    with pytest.raises(ValueError, match="not open"):
        memory.release(handle)
