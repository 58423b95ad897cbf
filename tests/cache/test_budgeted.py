"""Budgeted memory against lists of tokens, its bounds, and its pages."""

import random

import pytest
import torch

from snello.cache.budgeted import BudgetedMemory
from snello.cache.dense import DenseMemory
from snello.cache.pages import OutOfPages
from snello.cache.store import EMPTY
from snello.config.model import CacheShape, Horizon
from snello.config.policy import parse_policy
from snello.policies import RULES, Sight, build_rule
from tests.cache.driving import MIXED, PLAIN, QUERY_HEADS, Text, assert_same, plan_chunks, take_plan

SHAPES = (
    PLAIN,
    CacheShape(num_heads=1, key_size=12, value_size=9, value_in_key=True),
    CacheShape(
        num_heads=2, key_size=8, value_size=8, horizon=Horizon(kind="sliding", span_tokens=21)
    ),
)
WRITTEN = [
    "tova:budget=11",
    "h2o:budget=11",
    "h2o:budget=8,recent=3",
    "snapkv:budget=10,window=3,kernel=3",
    "snapkv:budget=12,window=3,slide=5",
    "rkv:budget=13,window=3,every=4,kernel=3",
]


def open_memory(written, shapes=SHAPES, **given):
    room = {"num_pages": 400, "page_tokens": 4, "max_sequences": 4} | given
    return BudgetedMemory(shapes, rule=build_rule(parse_policy(written, "a test")), **room)


class Naive:
    """The tokens of each head of one sequence, in a list, and the rule applied to one at a time."""

    def __init__(self, text, rule, shapes):
        self.text, self.rule, self.shapes = text, rule, shapes
        self.length, self.seen = 0, 0
        heads = {(i, k) for i, shape in enumerate(shapes) for k in range(shape.num_heads)}
        self.held = {head: [] for head in heads}  # of (position, notes)

    def take(self, count):
        """Read `count` tokens; return what each query read, layer by layer."""
        first, last = self.length, self.length + count
        self.length = last
        return [self._take(layer, first, last) for layer in range(len(self.shapes))]

    def _take(self, layer, first, last):
        shape, (q, k, v, _) = self.shapes[layer], self.text.layers[layer]
        v = k if v is None else v
        per_head = QUERY_HEADS // shape.num_heads
        scores, tokens = [], []
        out = torch.zeros(last - first, QUERY_HEADS, shape.value_size)
        for head in range(shape.num_heads):
            fresh = [(p, torch.zeros(self.rule.num_notes)) for p in range(first, last)]
            mine = self.held[layer, head] + fresh
            tokens.append(mine)
            for query in range(head * per_head, (head + 1) * per_head):
                table = torch.full((last - first, len(mine)), -torch.inf)
                for row, position in enumerate(range(first, last)):
                    for column, (other, _) in enumerate(mine):
                        span = shape.horizon.span_tokens
                        if other <= position and (span is None or position - other < span):
                            product = q[position, query] @ k[other, head]
                            table[row, column] = product / shape.key_size**0.5
                            self.seen += query % per_head == 0
                    read = torch.stack([v[other, head] for other, _ in mine])[:, : shape.value_size]
                    out[row, query] = table[row].softmax(0) @ read
                scores.append(table)
        self._decide(layer, torch.stack(scores)[None], tokens)
        return out

    def _decide(self, layer, scores, tokens):
        positions = torch.tensor([[[p for p, _ in mine] for mine in tokens]])
        k = self.text.layers[layer][1]
        sight = Sight(
            scores=scores,
            weights=scores.softmax(-1),
            keys=torch.stack([k[positions[0, head], head] for head in range(len(tokens))])[None],
            positions=positions,
            is_live=torch.ones_like(positions, dtype=torch.bool),
            last=positions.amax((1, 2)),
            layer=layer,
            notes=torch.stack([torch.stack([n for _, n in mine]) for mine in tokens])[None],
        )
        verdict = self.rule.decide(sight)
        for head, mine in enumerate(tokens):
            self.held[layer, head] = [
                (position, verdict.notes[0, head, column])
                for column, (position, _) in enumerate(mine)
                if verdict.keep[0, head, column]
            ]


def check_contents(memory, handle, naive):
    """Each head holds what the lists hold: positions, keys, values."""
    portrait = memory.portrait(handle)
    for (layer, head), tokens in naive.held.items():
        assert portrait[layer][head] == sorted(position for position, _ in tokens)
        pages = memory.table.pages[layer, handle, head]
        positions = memory.store.positions[pages].flatten()
        where = positions[positions < EMPTY].long()
        keys = memory.store.keys[pages].flatten(0, 1)[: len(where)]
        k, v = naive.text.layers[layer][1:3]
        assert torch.equal(keys[:, : k.shape[-1]], k[where, head])
        if v is not None:
            values = memory.store.values[pages].flatten(0, 1)[: len(where)]
            assert torch.equal(values[:, : v.shape[-1]], v[where, head])


@pytest.mark.parametrize("written", WRITTEN)
def test_any_ragged_batches_give_what_lists_of_tokens_give(written):
    dice, memory = random.Random(written), open_memory(written)
    texts = [Text(40, SHAPES, seed=seed) for seed in range(3)]
    handles = [memory.add() for _ in texts]
    naives = [Naive(text, memory.rule, SHAPES) for text in texts]
    for _ in range(16):
        counts = [dice.choice([0, 1, 1, 1, 2, 7]) for _ in texts]
        counts = [min(n, 40 - naive.length) for n, naive in zip(counts, naives, strict=True)]
        if not any(counts):
            continue
        _, reads = take_plan(memory, texts, [counts], handles) if all(counts) else (None, None)
        if reads is None:
            live = [i for i, count in enumerate(counts) if count]
            _, reads = take_plan(
                memory,
                [texts[i] for i in live],
                [[counts[i] for i in live]],
                [handles[i] for i in live],
            )
        else:
            live = range(3)
        expected = [naives[i].take(counts[i]) for i in live]
        assert_same(reads, expected)
        memory.check()
        for handle, naive in zip(handles, naives, strict=True):
            check_contents(memory, handle, naive)
            assert memory.kv_reads(handle) == pytest.approx(naive.seen / 5)


@pytest.mark.parametrize("name", [name for name in RULES if name != "tri"])  # wants a file
@pytest.mark.parametrize("size", [1, 5, 64])
def test_an_endless_budget_is_dense(name, size):
    texts = [Text(45, MIXED, seed=1), Text(23, MIXED, seed=2)]
    plan = plan_chunks(texts, size)
    dense = DenseMemory(MIXED, num_pages=900, page_tokens=4, max_sequences=2)
    handles, expected = take_plan(dense, texts, plan)
    memory = open_memory(f"{name}:budget=1000", MIXED, num_pages=900)
    mine, reads = take_plan(memory, texts, plan)
    assert_same(reads, expected)
    for handle, other in zip(mine, handles, strict=True):
        assert memory.kv_reads(handle) == dense.kv_reads(other)
        assert memory.peak_live_tokens(handle) == dense.peak_live_tokens(other)
        assert memory.peak_sequence_bytes(handle) == dense.peak_sequence_bytes(other)


@pytest.mark.parametrize("written", WRITTEN)
def test_no_head_is_ever_above_its_limit_and_the_pool_is_whole_at_the_end(written):
    memory = open_memory(written)
    rule = memory.rule
    texts = [Text(60, SHAPES, seed=seed) for seed in range(2)]
    handles = [memory.add() for _ in texts]
    plan = [[13, 1], [9, 17], *[[1, 1]] * 20, [6, 2], *[[1, 1]] * 6]
    most, num_rows = 0, 0
    for counts in plan:
        take_plan(memory, texts, [counts], handles)
        for handle, count in zip(handles, counts, strict=True):
            live = memory.num_live_tokens(handle)[memory.table.exists[:, 0]]
            limit = rule.limit if rule.limit is not None else memory.length(handle)
            assert int(live.max()) <= (rule.chunk_limit if count > 1 else limit)
            pages = memory.table.num_held[:, handle][memory.table.exists[:, 0]]
            assert torch.equal(pages, (live + 3) // 4)
        most = max(most, float(memory.num_live_tokens(handles[0]).sum()) / 5)
        num_rows += counts[0]
    assert memory.peak_live_tokens(handles[0]) == pytest.approx(most)
    if rule.limit is not None:
        assert memory.kv_reads(handles[0]) <= num_rows * (rule.limit + 17)
    for handle in handles:
        memory.release(handle)
    memory.check()
    assert memory.store.pool.num_held == 0
    blank = memory.store.positions[: memory.store.blank]
    assert bool((blank == EMPTY).all())
    assert not bool(memory.store.keys.any())


@pytest.mark.parametrize("written", WRITTEN)
def test_a_fork_goes_on_as_its_parent_and_takes_nothing_from_it(written):
    memory = open_memory(written)
    texts = [Text(40, SHAPES)]
    handles, _ = take_plan(memory, texts, [[17], *[[1]] * 5])
    fork = memory.fork(handles[0])
    memory.check()
    _, mine = take_plan(memory, texts, [[1]] * 9, handles)
    _, theirs = take_plan(memory, texts, [[1]] * 9, [fork])
    assert_same(mine, theirs, atol=0)
    assert memory.portrait(handles[0]) == memory.portrait(fork)
    memory.release(handles[0])
    memory.check()


def test_a_step_without_room_changes_nothing():
    memory = open_memory("tova:budget=8", (PLAIN,), num_pages=4)
    texts = [Text(40, (PLAIN,))]
    handles, _ = take_plan(memory, texts, [[30]])  # 2 heads of 2 pages: that is all there is
    other = memory.add()
    with pytest.raises(OutOfPages):
        memory.begin([handles[0], other], [1, 1])
    memory.check()
    before = memory.portrait(handles[0])
    take_plan(memory, texts, [[1]] * 3, handles)  # within the budget there is always room
    assert memory.portrait(handles[0]) != before
    memory.release(other)


def test_a_larger_pool_keeps_what_was_noted():
    memories = [open_memory("h2o:budget=8", (PLAIN,), num_pages=6) for _ in range(2)]
    texts = [Text(40, (PLAIN,))]
    handles = [take_plan(memory, texts, [[9], [1]])[0] for memory in memories]
    memories[0].extend(5)
    reads = [
        take_plan(memory, texts, [[1]] * 20, own)[1]
        for memory, own in zip(memories, handles, strict=True)
    ]
    assert_same(*reads, atol=0)
    memories[0].check()
