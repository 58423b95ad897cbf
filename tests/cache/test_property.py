"""The page store against a naive model, lists of positions, through any order of use."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snello.cache.pages import OutOfPages
from snello.cache.sparse import SparseMemory
from snello.cache.store import EMPTY
from snello.config.model import CacheShape
from snello.policies import Random
from tests.cache.conftest import BACKENDS
from tests.cache.driving import Text, take_step

SHAPES = (
    CacheShape(num_heads=2, key_size=3, value_size=2),
    CacheShape(num_heads=1, key_size=4, value_size=2, value_in_key=True),
)
NUM_PAGES, PAGE_TOKENS, MAX_SEQUENCES = 60, 3, 3
TEXTS = [Text(400, SHAPES, seed=seed) for seed in range(MAX_SEQUENCES)]


class Naive:
    """What should be alive: for each sequence a length, and the rule applied to every position."""

    def __init__(self, window_tokens, shift, policy):
        self.window_tokens, self.shift, self.policy = window_tokens, shift, policy
        self.lengths = {}

    def live(self, sequence, layer, head):
        """Recent positions, and older ones about which no mark has been announced."""
        length = self.lengths[sequence]
        marks = self.policy.mark(layer, None, torch.arange(length + 1), 2)[:, head].tolist()
        last = length - 1
        return [
            position
            for position in range(length)
            if last - position <= self.window_tokens
            or not (position + self.shift <= last and marks[position + self.shift])
        ]

    def num_pages(self):
        """Pages of all rings and of all survivors."""
        total = 0
        for sequence, length in self.lengths.items():
            for layer, shape in enumerate(SHAPES):
                for head in range(shape.num_heads):
                    ring = min(length, self.window_tokens + 1)
                    survivors = len(self.live(sequence, layer, head)) - ring
                    total += -(-ring // PAGE_TOKENS) + -(-survivors // PAGE_TOKENS)
        return total


def check_contents(memory, sequence, layer, head):
    """Every live slot holds the key and value that were given for its position."""
    pages = memory.table.pages[layer, sequence, head]
    positions = memory.store.positions[pages].flatten()
    is_live = positions < EMPTY
    where = positions[is_live].long()
    _, k, v, _ = TEXTS[sequence].layers[layer]
    stored = memory.store.keys[pages].flatten(0, 1)[is_live]
    assert torch.equal(stored[:, : k.shape[-1]], k[where, head])
    if v is not None:
        assert torch.equal(memory.store.values[pages].flatten(0, 1)[is_live], v[where, head])


def check_all(memory, naive):
    memory.check()
    assert memory.num_bytes_in_use == naive.num_pages() * memory.store.bytes_per_page
    for sequence, length in naive.lengths.items():
        assert memory.length(sequence) == length
        portrait, counts = memory.portrait(sequence), memory.num_live_tokens(sequence)
        for layer, shape in enumerate(SHAPES):
            for head in range(shape.num_heads):
                live = naive.live(sequence, layer, head)
                assert portrait[layer][head] == live
                assert counts[layer, head] == len(live)
                check_contents(memory, sequence, layer, head)


def append(memory, naive, counts):
    """One step over those open sequences that are to grow; too large a step changes nothing."""
    growing = {s: n for s, n in counts.items() if s in naive.lengths and n > 0}
    if not growing or any(naive.lengths[s] + n > 400 for s, n in growing.items()):
        return
    try:
        take_step(memory, list(growing), [TEXTS[s] for s in growing], list(growing.values()))
    except OutOfPages:
        return
    for sequence, count in growing.items():
        naive.lengths[sequence] += count


ACTIONS = st.one_of(
    st.just("add"),
    st.tuples(st.just("release"), st.integers(0, MAX_SEQUENCES - 1)),
    st.dictionaries(
        st.integers(0, MAX_SEQUENCES - 1), st.one_of(st.just(1), st.integers(1, 12)), min_size=1
    ),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    actions=st.lists(ACTIONS, max_size=20),
    window_tokens=st.sampled_from([1, 4, 300]),
    shift=st.sampled_from([0, 1]),
    rate=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    backend=st.sampled_from(BACKENDS),
)
def test_any_order_of_use_agrees_with_lists(actions, window_tokens, shift, rate, backend):
    policy = Random(rate)
    naive = Naive(window_tokens, shift, policy)
    memory = SparseMemory(
        SHAPES,
        window_tokens=window_tokens,
        shift=shift,
        policy=policy,
        num_pages=NUM_PAGES,
        page_tokens=PAGE_TOKENS,
        max_sequences=MAX_SEQUENCES,
        backend=backend,
    )
    for action in ["add", *actions]:
        if action == "add":
            if len(naive.lengths) < MAX_SEQUENCES:
                naive.lengths[memory.add()] = 0
        elif isinstance(action, dict):
            append(memory, naive, action)
        elif action[1] in naive.lengths:
            memory.release(action[1])
            del naive.lengths[action[1]]
        check_all(memory, naive)
    for sequence in list(naive.lengths):
        memory.release(sequence)
    assert memory.num_bytes_in_use == 0
    memory.check()
