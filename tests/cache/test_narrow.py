"""Narrow survivors: memory against a mask over everything whose old tokens are rounded."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snello.cache.sparse import SparseMemory
from snello.cache.state import copy_out, measure_state, put_in
from snello.config.model import CacheShape
from snello.dms.decision import marks as decide
from snello.dms.decision import shift_decisions
from snello.ops.attend import attend_part
from snello.ops.narrow import FORMATS, round_trip, widen
from snello.ops.retain import is_recent, retain
from snello.policies import Learned, Never
from tests.cache.conftest import BACKENDS
from tests.cache.driving import MIXED, PLAIN, Text, assert_same, plan_chunks, take_plan

FORMAT = pytest.mark.parametrize("survivors", list(FORMATS))
DTYPES = [torch.float32, torch.bfloat16]


def make_sparse(shapes=MIXED, *, window_tokens=4, shift=1, policy=None, **given):
    given = {"num_pages": 500, "page_tokens": 2, "max_sequences": 4} | given
    policy = policy or Learned()
    return SparseMemory(shapes, window_tokens=window_tokens, shift=shift, policy=policy, **given)


def read_oracle(text, shapes, *, window_tokens, shift, dtype, survivors):
    """Every token of a text at once: recent ones as pages hold them, old ones rounded besides."""
    positions, reads = torch.arange(text.num_tokens), []
    recent = is_recent(positions[:, None] - positions, window_tokens)
    for shape, (q, k, v, logits) in zip(shapes, text.layers, strict=True):
        evict = shift_decisions(decide(logits)[None], torch.zeros_like(positions)[None], shift)[0]
        seen = retain(positions, positions, evict.T, window_tokens, shape.horizon)
        exact = [None if part is None else part.to(dtype).float() for part in (k, v)]
        rounded = [None if part is None else round_trip(part, FORMATS[survivors]) for part in exact]
        keys, values = (
            None if a is None else torch.cat([a, b]).transpose(0, 1)[None]
            for a, b in zip(exact, rounded, strict=True)
        )
        values = (keys if values is None else values)[..., : shape.value_size]
        visible = torch.cat([seen & recent, seen & ~recent], dim=-1)[None]
        reads.append(attend_part(q[None], keys, values, visible, scale=k.shape[-1] ** -0.5).out[0])
    return reads


def check_live_tokens(memory, handle, text, dtype, survivors):
    """What stands in the window is exact, and what stands behind it was rounded once."""
    length = memory.length(handle)
    state = copy_out(memory, handle)
    for numbers, part in ((state.keys, 1), (state.values, 2)):
        row = 0
        for layer, shape in enumerate(memory.shapes):
            given = text.layers[layer][part]
            ring = int(memory.count_ring(length)[layer])
            for head in range(shape.num_heads):
                where = state.positions[row : row + ring].long()
                assert (where >= length - ring).all()
                if given is not None:
                    stored = numbers[row : row + ring, : given.shape[-1]]
                    assert torch.equal(stored, given[where, head].to(dtype))
                row += ring
        assert row == len(numbers)
    rounded, row = state.codes, 0
    for layer, shape in enumerate(memory.shapes):
        for head in range(shape.num_heads):
            count = int(state.survivors[layer, head])
            where = rounded.positions[row : row + count].long()
            wanted = round_trip(text.layers[layer][1][where, head].to(dtype), FORMATS[survivors])
            mine = rounded.keys[row : row + count], rounded.scales[row : row + count, 0]
            got = widen(*mine, FORMATS[survivors], wanted.shape[-1])
            torch.testing.assert_close(got, wanted, rtol=0, atol=0)
            row += count


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    plan=st.lists(
        st.tuples(*[st.one_of(st.just(1), st.integers(0, 30))] * 2).filter(any),
        min_size=1,
        max_size=10,
    ),
    window_tokens=st.sampled_from([1, 4, 16, 300]),
    evicted=st.sampled_from([0.0, 0.5, 0.9]),
    shift=st.sampled_from([0, 1]),
    dtype=st.sampled_from(DTYPES),
    survivors=st.sampled_from(list(FORMATS)),
    backend=st.sampled_from(BACKENDS),
)
def test_any_steps_are_the_mask_with_old_tokens_rounded(
    plan, window_tokens, evicted, shift, dtype, survivors, backend
):
    rule = {"window_tokens": window_tokens, "shift": shift}
    stored = {"dtype": dtype, "survivors": survivors}
    plan = [(1, 2), *plan]
    lengths = [sum(counts) for counts in zip(*plan, strict=True)]
    texts = [Text(n, MIXED, evicted=evicted, seed=i) for i, n in enumerate(lengths)]
    memory = make_sparse(backend=backend, num_pages=3000, **rule, **stored)
    handles, reads = take_plan(memory, texts, plan)
    for handle, text, read in zip(handles, texts, reads, strict=True):
        assert_same([read], [read_oracle(text, MIXED, **rule, **stored)], atol=2e-5)
        check_live_tokens(memory, handle, text, dtype, survivors)
    memory.check()
    for handle in handles:
        memory.release(handle)
    memory.check()
    assert memory.num_bytes_in_use == 0


@FORMAT
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_step_by_step_is_chunked(dtype, backend, survivors):
    texts = [Text(n, MIXED, seed=n) for n in (66, 23)]
    given = {"dtype": dtype, "survivors": survivors, "backend": backend}
    _, expected = take_plan(make_sparse(**given), texts, plan_chunks(texts, 1))
    for size in (5, 63, 1000):
        _, reads = take_plan(make_sparse(**given), texts, plan_chunks(texts, size))
        assert_same(reads, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_memory_takes_a_fraction_of_the_bytes(dtype):
    """Nothing is forgotten: numbers take a half to an eighth, with 8 to 12 bytes beside 256."""
    shape = CacheShape(num_heads=1, key_size=128, value_size=128)
    text = Text(400, (shape,))
    sizes = {}
    for survivors in ("same", *FORMATS):
        given = {"dtype": dtype, "survivors": survivors, "page_tokens": 8, "policy": Never()}
        memory = make_sparse((shape,), **given)
        (handle,), _ = take_plan(memory, [text], plan_chunks([text], 50))
        sizes[survivors] = memory.peak_bytes
        pages = 1 + math.ceil(395 / memory.store.survivor_tokens)
        assert memory.peak_bytes == pages * memory.store.bytes_per_page
        assert memory.peak_sequence_bytes(handle) == memory.peak_bytes
    assert sizes["int8"] == sizes["fp8"]
    assert sizes["same"] / sizes["int8"] > 0.85 * dtype.itemsize
    assert sizes["same"] / sizes["int4"] > 0.70 * 2 * dtype.itemsize


@pytest.mark.parametrize(
    ("survivors", "num_slots", "beside"), [("int8", 32, 4 + 8), ("fp8", 32, 4 + 8), ("int4", 64, 8)]
)
def test_bytes_of_a_page(survivors, num_slots, beside):
    shapes = (CacheShape(num_heads=1, key_size=128, value_size=128),)
    given = {"page_tokens": 16, "dtype": torch.bfloat16}
    assert make_sparse(shapes, **given).store.bytes_per_page == 16 * (512 + 5)
    store = make_sparse(shapes, survivors=survivors, **given).store
    assert store.survivor_tokens == num_slots
    assert store.bytes_per_page == 16 * (512 + 1) + num_slots * beside
    held = (store.keys, store.values, store.positions, store.evict, store.scales)
    num_pages = store.pool.num_pages + 2
    assert sum(part.nbytes for part in held) == num_pages * store.bytes_per_page


def test_int4_survivors_of_one_in_eight_take_a_thirtieth_of_dense_bytes():
    """Heads of 128 against 16 bits, when the window is small beside the text: 8 times 3.75."""
    shape = CacheShape(num_heads=1, key_size=128, value_size=128)
    given = {"dtype": torch.bfloat16, "page_tokens": 16}
    factors = {}
    for survivors in ("same", "int8", "int4"):
        store = make_sparse((shape,), survivors=survivors, **given).store
        factors[survivors] = 8 * 512 / (store.bytes_per_page / store.survivor_tokens)
    assert factors["int4"] > 30
    assert factors["int8"] > 15
    assert factors["same"] < 8


@FORMAT
@pytest.mark.parametrize("backend", BACKENDS)
def test_forks_and_copies_go_on_bit_for_bit(backend, survivors):
    text, tail = Text(120, MIXED, evicted=0.3, seed=4), [[1], [7], *[[1]] * 5]
    memory = make_sparse(survivors=survivors, backend=backend, num_pages=2000)
    (origin,), _ = take_plan(memory, [text], [[80], [1], [1]])
    before = memory.store.pool.num_held
    fork = memory.fork(origin)
    own, _ = memory._sort_columns(memory.table.num_held[:, fork], memory.count_survivors(fork))
    assert memory.store.pool.num_held - before == int(own.sum()) < before
    state = copy_out(memory, origin)
    assert state.num_bytes == measure_state(memory, origin)
    back = put_in(memory, state)
    memory.check()
    assert memory.portrait(back) == memory.portrait(fork) == memory.portrait(origin)
    reads = [take_plan(memory, [text], tail, [handle])[1][0] for handle in (origin, fork, back)]
    for other in reads[1:]:
        for part, expected in zip(other, reads[0], strict=True):
            assert torch.equal(part, expected)
    for handle in (origin, fork, back):
        memory.release(handle)
    memory.check()
    assert memory.num_bytes_in_use == 0
    assert not memory.store.scales[:-1].any()


def test_a_pool_that_grows_keeps_its_bytes():
    text = Text(90, (PLAIN,), evicted=0.2)
    given = {"survivors": "int8", "shapes": (PLAIN,)}
    _, expected = take_plan(make_sparse(**given), [text], [[60], *[[1]] * 20])
    memory = make_sparse(**given, num_pages=60)
    handles, first = take_plan(memory, [text], [[60]])
    memory.extend(200)
    _, then = take_plan(memory, [text], [[1]] * 20, handles)
    memory.check()
    joined = torch.cat([first[0][0], then[0][0]])
    assert torch.equal(joined, expected[0][0])


@FORMAT
def test_numbers_that_are_none_spoil_nobody_else(survivors):
    good, bad = Text(40, (PLAIN,), seed=1), Text(40, (PLAIN,), seed=2)
    bad.layers[0][2].fill_(torch.inf)
    memory = make_sparse((PLAIN,), survivors=survivors)
    plan = plan_chunks([good, bad], 5)
    handles, reads = take_plan(memory, [good, bad], plan)
    given = {"window_tokens": 4, "shift": 1, "dtype": torch.float32, "survivors": survivors}
    expected = read_oracle(good, (PLAIN,), **given)
    assert_same(reads[:1], [expected])
    memory.release(handles[1])
    _, reads = take_plan(memory, [good], plan_chunks([good], 3))
    assert_same(reads, [expected])
