"""What is watched is what the memory does: by the rule, at its moment, in every head."""

import pytest
import torch

from snello.evaluation.tasks.bundled import pose_fresh
from snello.evaluation.watch import watch
from tests.evaluation.tiny import WINDOW, open_tiny


@pytest.fixture(scope="module")
def token_ids(tiny_folder):
    problem = pose_fresh(1, kinds=["ledger"], levels=[1], seed=0)[0]
    return open_tiny(tiny_folder, "sparse").codec.encode_chat(problem.messages)[:120]


def test_a_window_forgets_each_token_as_it_leaves(tiny_folder, token_ids):
    """Window 6: position 0 is gone once the token at position 7 has been read, the eighth."""
    trace = watch(open_tiny(tiny_folder, "window"), token_ids, num_prompt_tokens=100)
    last = len(token_ids)
    expected = tuple(p + WINDOW + 2 if p + WINDOW + 2 <= last else None for p in range(last))
    assert all(head.gone_at == expected for head in trace.heads)
    assert [(head.layer, head.head) for head in trace.heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_sparse_memory_forgets_some_and_never_early(tiny_folder, token_ids):
    trace = watch(open_tiny(tiny_folder, "sparse"), token_ids, num_prompt_tokens=100)
    gone = [g - p for head in trace.heads for p, g in enumerate(head.gone_at) if g is not None]
    assert set(gone) == {WINDOW + 2}
    assert 1.2 < trace.factor < 6.0
    assert len({head.gone_at for head in trace.heads}) == len(trace.heads), "heads differ"


def test_what_is_left_is_what_one_long_read_leaves(tiny_folder, token_ids):
    trace = watch(open_tiny(tiny_folder, "sparse"), token_ids, num_prompt_tokens=100)
    served = open_tiny(tiny_folder, "sparse")
    memory = served.engine.memory
    sequence = memory.add()
    step = memory.begin([sequence], [len(token_ids)])
    with torch.inference_mode():
        served.engine.decoder(torch.tensor(token_ids), step)
    memory.commit(step)
    for head in trace.heads:
        alive = [p for p, gone in enumerate(head.gone_at) if gone is None]
        assert sorted(memory.portrait(sequence)[head.layer][head.head]) == alive


def test_a_longer_stride_sees_the_same_and_notices_later(tiny_folder, token_ids):
    """Strides of 16: a token is found missing at the end of the stride in which it went."""
    single = watch(open_tiny(tiny_folder, "sparse"), token_ids, num_prompt_tokens=100)
    strides = watch(
        open_tiny(tiny_folder, "sparse"), token_ids, num_prompt_tokens=100, stride_tokens=16
    )
    for one, other in zip(single.heads, strides.heads, strict=True):
        late = [None if g is None else min(len(token_ids), -(-g // 16) * 16) for g in one.gone_at]
        assert other.gone_at == tuple(late)


def test_the_memory_is_left_as_it_was(tiny_folder, token_ids):
    served = open_tiny(tiny_folder, "sparse")
    before = served.engine.memory.num_bytes_in_use
    watch(served, token_ids[:20], num_prompt_tokens=10)
    assert served.engine.memory.num_bytes_in_use == before


def test_tokens_are_the_text(tiny_folder, token_ids):
    served = open_tiny(tiny_folder, "sparse")
    trace = watch(served, token_ids[:20], num_prompt_tokens=10)
    assert trace.tokens[0] == "<|user|>"
    assert trace.window_tokens == WINDOW


def test_dense_memory_has_nothing_to_watch(tiny_folder, token_ids):
    with pytest.raises(ValueError, match="dense memory forgets nothing; watch a text in sparse"):
        watch(open_tiny(tiny_folder, "dense"), token_ids, num_prompt_tokens=10)
