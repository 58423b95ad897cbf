"""What is gathered from portraits, and what a trace refuses."""

import pytest

from snello.evaluation.trace import HeadTrace, Trace, gather_trace


def gather(portraits, **changes):
    tokens = [f"t{i}" for i in range(len(portraits))]
    parts = {"num_prompt_tokens": 2, "window_tokens": 1} | changes
    by_length = dict(enumerate(portraits, start=1))
    return gather_trace(tokens, parts["num_prompt_tokens"], parts["window_tokens"], by_length)


def test_a_trace_on_a_page_of_paper():
    """One layer, two heads, window 1: head 0 keeps token 0 alone, head 1 keeps everything."""
    portraits = [
        [[[0], [0]]],
        [[[0, 1], [0, 1]]],
        [[[0, 1, 2], [0, 1, 2]]],
        [[[0, 2, 3], [0, 1, 2, 3]]],
    ]
    trace = gather(portraits)
    assert [head.gone_at for head in trace.heads] == [(None, 4, None, None), (None,) * 4]
    assert [(head.layer, head.head) for head in trace.heads] == [(0, 0), (0, 1)]
    assert trace.factor == 8 / 7


def test_tokens_alive_are_those_read_and_not_yet_gone():
    head = HeadTrace(layer=0, head=0, gone_at=(None, 4, None, None))
    assert [head.num_alive(num_read) for num_read in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_heads_may_differ_in_number_from_layer_to_layer():
    trace = gather([[[[0]], [[0], [0]]]], num_prompt_tokens=1)
    assert [(head.layer, head.head) for head in trace.heads] == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("gone_at", "expected"),
    [((None,), "tells of 1 tokens, the text has 2"), ((None, 1), "forgot token 1 before")],
)
def test_a_trace_that_does_not_hold_together_is_refused(gone_at, expected):
    heads = (HeadTrace(layer=0, head=0, gone_at=gone_at),)
    trace = Trace(tokens=("a", "b"), num_prompt_tokens=1, window_tokens=1, heads=heads)
    with pytest.raises(ValueError, match=expected):
        trace.check()


def test_a_trace_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one token and one head"):
        Trace(tokens=(), num_prompt_tokens=0, window_tokens=1, heads=()).check()
