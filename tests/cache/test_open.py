"""Which memory a wish becomes, and what cannot be wished."""

import pytest

from snello.cache.offload import WINDOW_TOKENS, OffloadMemory
from snello.cache.open import choose_memory, open_memory
from snello.cache.sparse import SparseMemory
from snello.config.policy import parse_policy
from tests.cache.driving import PLAIN, Text, plan_chunks, take_plan

ROOM = {"budget_bytes": 2**20, "max_sequences": 4, "page_tokens": 4}


def open_rule(written, shapes=(PLAIN, PLAIN)):
    plan = choose_memory(None, None, None, "same", parse_policy(written, "a test"))
    return plan, open_memory(shapes, plan, **ROOM)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_streaming_holds_its_sinks_and_its_window_however_a_text_comes(size):
    plan, memory = open_rule("streaming:sinks=3,window=8")
    assert (plan.kind, plan.window_tokens) == ("streaming", 8)
    texts = [Text(40, (PLAIN, PLAIN))]
    (handle,), _ = take_plan(memory, texts, plan_chunks(texts, size))
    assert memory.portrait(handle) == [[[0, 1, 2, *range(31, 40)]] * 2] * 2


def test_random_keeps_about_its_share_behind_its_window():
    _, memory = open_rule("random:keep=0.25,window=8")
    assert isinstance(memory, SparseMemory)
    texts = [Text(300, (PLAIN, PLAIN))]
    (handle,), _ = take_plan(memory, texts, plan_chunks(texts, 50))
    behind = memory.num_live_tokens(handle) - 9
    assert behind.float().mean() / 291 == pytest.approx(0.25, abs=0.04)


def test_offloading_brings_a_window_of_its_own():
    _, memory = open_rule("offload:window=7")
    assert isinstance(memory, OffloadMemory)
    assert memory.window_tokens == 7
    assert open_rule("offload")[1].window_tokens == WINDOW_TOKENS


def test_a_rule_brings_its_own_memory():
    rule = parse_policy("streaming:window=8", "a test")
    with pytest.raises(ValueError, match="streaming was asked for, and memory dense"):
        choose_memory(None, "dense", None, "same", rule)
    assert choose_memory(None, None, None, "int8", rule).survivors == "int8"
    with pytest.raises(ValueError, match="the policy tova has no window"):
        choose_memory(None, None, None, "int8", parse_policy("tova:budget=9", "a test"))
    with pytest.raises(ValueError, match="h2o keeps recent=9 of a budget of 8"):
        choose_memory(None, None, None, "same", parse_policy("h2o:budget=8,recent=9", "a test"))
