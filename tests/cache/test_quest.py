"""Quest's memory: dense where the budget allows, else the chosen pages, and what that reads."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.quest import QuestMemory
from snello.policies import Quest
from tests.cache.driving import MIXED, PLAIN, QUERY_HEADS, Text, assert_same, plan_chunks, take_plan

SHAPES = (PLAIN, PLAIN, PLAIN)
PAGE = 4


def open_memory(budget, shapes=SHAPES, **given):
    room = {"num_pages": 900, "page_tokens": PAGE, "max_sequences": 4} | given
    return QuestMemory(shapes, quest=Quest(budget), **room)


@pytest.mark.parametrize("size", [1, 5])
def test_an_endless_budget_is_dense(size):
    texts = [Text(45, MIXED, seed=1), Text(23, MIXED, seed=2)]
    plan = plan_chunks(texts, size)
    dense = DenseMemory(MIXED, num_pages=900, page_tokens=PAGE, max_sequences=2)
    handles, expected = take_plan(dense, texts, plan)
    memory = open_memory(1000, MIXED)
    mine, reads = take_plan(memory, texts, plan)
    assert_same(reads, expected)
    for handle, other in zip(mine, handles, strict=True):
        assert memory.kv_reads(handle) == dense.kv_reads(other)
        assert memory.num_live_tokens(handle).equal(dense.num_live_tokens(other))


def read_chosen(text, layer, position, budget):
    """What the query at a position reads, page by page, in plain words."""
    q, k, v, _ = text.layers[layer]
    num_pages = position // PAGE + 1
    out, per_head = torch.zeros(QUERY_HEADS, v.shape[-1]), QUERY_HEADS // k.shape[1]
    num_read = 0
    for head in range(k.shape[1]):
        mine = range(head * per_head, (head + 1) * per_head)
        promise = {}
        for page in range(num_pages - 1):
            keys = k[page * PAGE : (page + 1) * PAGE, head]
            low, high = keys.min(0).values, keys.max(0).values
            products = [torch.maximum(q[position, h] * low, q[position, h] * high) for h in mine]
            promise[page] = max(float(product.sum()) for product in products)
        best = sorted(promise, key=promise.get, reverse=True)[: budget // PAGE - 1]
        rows = [p for p in range(position + 1) if p // PAGE in (*best, num_pages - 1)]
        num_read += len(rows)
        for h in mine:
            weights = (k[rows, head] @ q[position, h] / k.shape[-1] ** 0.5).softmax(0)
            out[h] = weights @ v[rows, head]
    return out, num_read


def test_single_tokens_read_the_chosen_pages_in_all_layers_but_the_first():
    budget, texts = 12, [Text(50, SHAPES, seed=3), Text(35, SHAPES, seed=4)]
    memory = open_memory(budget)
    dense = DenseMemory(SHAPES, num_pages=900, page_tokens=PAGE, max_sequences=2)
    plan = [[30, 15], *[[1, 1]] * 20]
    handles, reads = take_plan(memory, texts, plan)
    _, expected = take_plan(dense, texts, plan)
    for text, read, wanted, start, handle in zip(
        texts, reads, expected, (30, 15), handles, strict=True
    ):
        assert_same([read[:2]], [wanted[:2]])
        torch.testing.assert_close(read[2][:start], wanted[2][:start])
        total = 0
        for position in range(start, start + 20):
            out, num_read = read_chosen(text, 2, position, budget)
            torch.testing.assert_close(read[2][position], out, atol=1e-5, rtol=0)
            total += num_read
        whole = sum(range(start + 1, start + 21))
        prompt = sum(range(1, start + 1))
        assert memory.kv_reads(handle) == pytest.approx(prompt + (2 * whole + total / 2) / 3)
        num_full = sum(position // PAGE for position in range(start, start + 20))
        assert memory.bound_reads(handle) == pytest.approx(num_full / 3)


def test_bounds_follow_their_pages_through_forks_and_reuse():
    memory = open_memory(8, num_pages=150)
    texts = [Text(40, SHAPES, seed=seed) for seed in (5, 6)]
    handles, _ = take_plan(memory, texts[:1], [[17], *[[1]] * 9])
    fork = memory.fork(handles[0])
    _, mine = take_plan(memory, texts[:1], [[1]] * 6, handles)
    _, theirs = take_plan(memory, texts[:1], [[1]] * 6, [fork])
    assert_same(mine, theirs, atol=0)
    memory.release(handles[0])
    memory.release(fork)
    memory.check()
    plan = [[17], *[[1]] * 15]
    _, again = take_plan(memory, texts[1:], plan)  # on pages that held other keys
    _, fresh = take_plan(open_memory(8), texts[1:], plan)
    assert_same(again, fresh, atol=0)
    memory.extend(7)
    memory.check()
