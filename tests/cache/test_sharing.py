"""Forks, copies and files of sequences: the same reads bit for bit, every page accounted for."""

import math

import numpy as np
import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.pages import OutOfPages
from snello.cache.snapshot import restore_sequence, save_sequence
from snello.cache.sparse import SparseMemory
from snello.cache.state import copy_out, measure_state, put_in
from snello.policies import Learned, Never
from tests.cache.driving import MIXED, PLAIN, Text, take_plan

KINDS = ["dense", "sparse"]
TAIL = [[1], [1], [7], [1], [1], [15]]


def open_memory(kind, shapes=MIXED, **given):
    given = {"num_pages": 600, "page_tokens": 4, "max_sequences": 4} | given
    if kind == "dense":
        return DenseMemory(shapes, **given)
    rule = {"window_tokens": 6, "shift": 1, "policy": Learned()} | given
    return SparseMemory(shapes, **rule)


def join(text, num_tokens, other):
    """The first tokens of one text, then those of another."""
    joined = Text(0, ())
    joined.num_tokens = other.num_tokens
    joined.layers = [
        tuple(
            None if first is None else torch.cat([first[:num_tokens], second[num_tokens:]])
            for first, second in zip(mine, others, strict=True)
        )
        for mine, others in zip(text.layers, other.layers, strict=True)
    ]
    return joined


def make_texts():
    """One text, and another that departs from it after 44 tokens."""
    first, second = Text(90, MIXED, seed=0), Text(90, MIXED, seed=50)
    return first, join(first, 44, second)


def read_alone(kind, text, head):
    """What the steps after `head` read where nothing is shared, and the memory."""
    memory = open_memory(kind)
    handles, _ = take_plan(memory, [text], head)
    _, reads = take_plan(memory, [text], TAIL, handles)
    return reads[0], memory.portrait(handles[0])


def assert_equal(reads, expected):
    for read, wanted in zip(reads, expected, strict=True):
        assert torch.equal(read, wanted)


def close_all(memory, handles):
    for handle in handles:
        memory.release(handle)
        memory.check()
    assert memory.num_bytes_in_use == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [[[44]], [[43], [1]], [[4]], [[3]]], ids=len)
def test_a_fork_and_its_origin_each_read_what_they_would_alone(kind, head):
    first, second = make_texts()
    memory = open_memory(kind)
    (origin,), _ = take_plan(memory, [first], head)
    fork = memory.fork(origin)
    memory.check()
    _, reads = take_plan(memory, [second], TAIL, [fork])
    _, origin_reads = take_plan(memory, [first], TAIL, [origin])
    for handle, text, got in ((fork, second, reads), (origin, first, origin_reads)):
        expected, portrait = read_alone(kind, text, head)
        assert_equal(got[0], expected)
        assert memory.portrait(handle) == portrait
    memory.check()
    close_all(memory, [origin, fork])


def test_shared_pages_count_once():
    """Window 6, 4 slots a page: a fork takes the ring's 2 pages and a tail; dense takes a tail."""
    text = Text(90, (PLAIN,), evicted=0.2)
    for kind, most in (("sparse", 3), ("dense", 1)):
        memory = open_memory(kind, (PLAIN,))
        (origin,), _ = take_plan(memory, [text], [[61]])
        before = memory.num_bytes_in_use
        forks = [memory.fork(origin) for _ in range(3)]
        gained = (memory.num_bytes_in_use - before) // memory.store.bytes_per_page
        num_heads = 2
        assert gained <= 3 * num_heads * most < memory.peak_sequence_bytes(origin)
        together, alone = memory.count_pages(forks)
        assert sum(alone) == gained
        assert together * memory.store.bytes_per_page <= memory.num_bytes_in_use
        memory.release(origin)
        assert memory.num_bytes_in_use <= before + gained * memory.store.bytes_per_page
        close_all(memory, forks)


def test_a_fork_that_finds_no_room_changes_nothing():
    text = Text(90, (PLAIN,))
    memory = open_memory("sparse", (PLAIN,), num_pages=20)
    (origin,), _ = take_plan(memory, [text], [[16]] + [[1]] * 20)
    before = memory.num_bytes_in_use
    memory.store.pool.require(4)
    fork = memory.fork(origin)
    with pytest.raises(OutOfPages, match="pages wanted"):
        memory.fork(fork)
    memory.check()
    memory.release(fork)
    assert memory.num_bytes_in_use == before
    memory = open_memory("sparse", (PLAIN,), max_sequences=1)
    (origin,), _ = take_plan(memory, [text], [[16]])
    before = memory.store.pool.num_free
    with pytest.raises(ValueError, match="no more are allowed"):
        memory.fork(origin)
    assert memory.store.pool.num_free == before
    memory.check()


@pytest.mark.parametrize("num_tokens", [0, 1, 4, 18, 32, 44])
def test_dense_memory_forks_at_any_earlier_token(num_tokens):
    first, _ = make_texts()
    second = join(first, num_tokens, Text(90, MIXED, seed=50))
    memory = open_memory("dense")
    (origin,), _ = take_plan(memory, [first], [[44]])
    fork = memory.fork(origin, num_tokens)
    memory.check()
    assert memory.portrait(fork)[0][0] == list(range(num_tokens))
    live = memory.store.positions[memory.table.pages[0, fork, 0]].flatten()
    assert sorted(live[live < 2**30].tolist()) == list(range(num_tokens))
    _, reads = take_plan(memory, [second], TAIL, [fork])
    head = [[num_tokens]] if num_tokens else []
    expected, _ = read_alone("dense", second, head) if head else (None, None)
    if head:
        assert_equal(reads[0], expected)
    memory.check()
    with pytest.raises(ValueError, match="after 999 tokens was asked for"):
        memory.fork(origin, 999)
    close_all(memory, [origin, fork])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [[[44]], [[3]], [[43], [1]]], ids=len)
def test_a_sequence_put_into_other_pages_reads_the_same(kind, head):
    first, _ = make_texts()
    expected, portrait = read_alone(kind, first, head)
    memory = open_memory(kind)
    (origin,), _ = take_plan(memory, [first], head)
    state = copy_out(memory, origin)
    assert state.num_bytes == measure_state(memory, origin)
    others, _ = take_plan(memory, [Text(20, MIXED, seed=9)], [[20]])
    memory.release(origin)
    back = put_in(memory, state)
    memory.check()
    _, reads = take_plan(memory, [first], TAIL, [back])
    assert_equal(reads[0], expected)
    assert memory.portrait(back) == portrait
    close_all(memory, [back, *others])


@pytest.mark.parametrize("kind", KINDS)
def test_putting_in_what_does_not_fit_changes_nothing(kind):
    memory = open_memory(kind)
    (origin,), _ = take_plan(memory, [make_texts()[0]], [[44]])
    state = copy_out(memory, origin)
    small = open_memory(kind, num_pages=20)
    with pytest.raises(OutOfPages, match="pages wanted"):
        put_in(small, state)
    small.check()
    assert small.num_bytes_in_use == 0
    assert small.num_unused_sequences == 4


@pytest.mark.parametrize(
    ("kind", "narrow"),
    [
        ("dense", {}),
        ("sparse", {}),
        ("sparse", {"survivors": "int8"}),
        ("sparse", {"survivors": "fp8"}),
        ("sparse", {"survivors": "int4"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_holds_live_tokens_only_and_goes_on_bit_for_bit(kind, narrow, dtype, tmp_path):
    first, _ = make_texts()
    memory = open_memory(kind, dtype=dtype, **narrow)
    (origin,), _ = take_plan(memory, [first], [[44]])
    path, token_ids = tmp_path / "deep" / "thread.safetensors", list(range(45))
    save_sequence(memory, origin, path, fingerprint="m", token_ids=token_ids)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < measure_state(memory, origin) + 4300
    other = open_memory(kind, dtype=dtype, **narrow)
    restored = restore_sequence(other, path, fingerprint="m")
    assert restored.token_ids == token_ids
    _, reads = take_plan(other, [first], TAIL, [restored.sequence])
    _, expected = take_plan(memory, [first], TAIL, [origin])
    assert_equal(reads[0], expected[0])
    other.check()


def test_files_of_something_else_and_damaged_files_are_refused_in_one_line(tmp_path):
    memory, path = open_memory("sparse"), tmp_path / "thread"
    (origin,), _ = take_plan(memory, [make_texts()[0]], [[44]])
    save_sequence(memory, origin, path, fingerprint="m", token_ids=[1] * 44)
    for other, fingerprint, message in (
        (open_memory("dense"), "m", 'with memory "sparse", and here it is "dense"'),
        (open_memory("sparse", window_tokens=7), "m", "with window_tokens 6, and here it is 7"),
        (open_memory("sparse", shift=0), "m", "with shift 1, and here it is 0"),
        (open_memory("sparse", dtype=torch.bfloat16), "m", 'with dtype "torch.float32"'),
        (open_memory("sparse", MIXED[1:]), "m", "with shapes"),
        (
            open_memory("sparse", survivors="int8"),
            "m",
            'with survivors "same", and here it is "int8"',
        ),
        (
            open_memory("sparse", survivors="int4"),
            "m",
            'with survivors "same", and here it is "int4"',
        ),
        (open_memory("sparse"), "n", 'with fingerprint "m", and here it is "n"'),
    ):
        with pytest.raises(ValueError, match=message):
            restore_sequence(other, path, fingerprint=fingerprint)
        assert other.num_unused_sequences == 4
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    for content in (whole[:-100], bytes(changed), b"", b"\x10" + b"\0" * 40, whole[:50]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a whole saved sequence.*save it again"):
            restore_sequence(open_memory("sparse"), path, fingerprint="m")
    with pytest.raises(ValueError, match="there is no file"):
        restore_sequence(memory, tmp_path / "none", fingerprint="m")
    with pytest.raises(ValueError, match="cannot be written"):
        save_sequence(memory, origin, path / "below", fingerprint="m", token_ids=[])


def test_a_prompt_that_keeps_more_than_expected_is_spoiled_and_nobody_else():
    """Nothing is expected to be kept, all is, and the pool ends: the one that decodes reads on."""
    shapes = (PLAIN, PLAIN, PLAIN)
    steady, greedy = Text(60, shapes, seed=1), Text(60, shapes, seed=2)
    alone = open_memory("sparse", shapes, policy=Never())
    (handle,), _ = take_plan(alone, [steady], [[12]])
    _, expected = take_plan(alone, [steady], [[1], [1]], [handle])
    memory = open_memory("sparse", shapes, policy=Never(), num_pages=68)
    (first,), _ = take_plan(memory, [steady], [[12]])
    handles = [first, memory.add()]
    with pytest.raises(OutOfPages):
        memory.begin([*handles], [1, 50])
    step = memory.begin([*handles], [1, 50], kept=np.zeros(3))
    parts = []
    for layer in range(3):
        rows = zip(steady.rows(layer, 12, 13), greedy.rows(layer, 0, 50), strict=True)
        given = [torch.cat(pair) for pair in rows]
        parts.append(step.attend(layer, *given, scale=1 / math.sqrt(8))[:1])
    memory.commit(step)
    assert step.promise.spoiled == {handles[1]}
    assert memory.store.pool.num_free >= 0
    memory.check()
    memory.release(handles[1])
    memory.check()
    _, more = take_plan(memory, [steady], [[1]], handles[:1])
    both = [torch.cat([part, later]) for part, later in zip(parts, more[0], strict=True)]
    assert_equal(both, expected[0])


def test_a_prompt_that_keeps_what_is_expected_is_whole():
    (text,) = (Text(80, (PLAIN,), evicted=0.9),)
    whole = open_memory("sparse", (PLAIN,))
    handles, expected = take_plan(whole, [text], [[80]])
    memory = open_memory("sparse", (PLAIN,), num_pages=24)
    step = memory.begin([memory.add()], [80], kept=np.full(1, 0.3))
    read = step.attend(0, *text.rows(0, 0, 80), scale=1 / math.sqrt(8))
    memory.commit(step)
    assert not step.promise.spoiled
    assert torch.equal(read, expected[0][0])
    assert memory.portrait(0) == whole.portrait(handles[0])
