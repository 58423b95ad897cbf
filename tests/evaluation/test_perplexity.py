"""Perplexity: each token once, with as much before it as the window allows."""

import math

import pytest

from snello.evaluation.perplexity import cut, measure_perplexity, read_text
from tests.evaluation.tiny import open_tiny

TEXT = "the amber bell rests near the mill. otter 3>home. " * 8


@pytest.fixture(scope="module")
def served(tiny_folder):
    return open_tiny(tiny_folder, "dense")


def test_pieces_on_a_page_of_paper():
    """Ten tokens, window 4, stride 2: the first piece scores 1 to 3, the others two new ones."""
    assert list(cut(10, 4, 2)) == [(0, 4, 3), (2, 6, 2), (4, 8, 2), (6, 10, 2)]
    assert list(cut(9, 4, 2))[-1] == (5, 9, 1)
    assert list(cut(3, 4, 2)) == [(0, 3, 2)]


@pytest.mark.parametrize(("window", "stride"), [(4, 1), (7, 3), (16, 15), (100, 50)])
def test_every_token_but_the_first_is_scored_once(window, stride):
    for num_tokens in range(2, 60):
        scored = []
        for start, end, num in cut(num_tokens, window, stride):
            assert end - start <= window
            assert num < end - start
            scored += range(end - num, end)
        assert scored == list(range(1, num_tokens))


def test_one_window_is_the_sum_of_all_scores(served):
    ids = served.codec.encode(TEXT)
    found = measure_perplexity(served.engine, ids, len(TEXT.encode()))
    (scores,) = served.engine.score([ids])
    nats = -sum(score.logprob for score in scores)
    assert found.nats == pytest.approx(nats)
    assert found.num_tokens == len(ids) - 1
    assert found.nats_per_token == pytest.approx(nats / (len(ids) - 1))
    assert found.nats_per_byte == pytest.approx(nats / len(TEXT))
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))


def test_windows_score_what_they_show(served):
    """Window 6, stride 2, by hand: each token's logprob behind the tokens of its own window."""
    ids = served.codec.encode(TEXT)[:12]
    nats = 0.0
    for start, first in ((0, 1), (2, 6), (4, 8), (6, 10)):
        (scores,) = served.engine.score([ids[start : start + 6]])
        nats -= sum(score.logprob for score in scores[first - start - 1 :])
    found = measure_perplexity(served.engine, ids, 9, window_tokens=6, stride_tokens=2)
    assert found.nats == pytest.approx(nats, abs=1e-4)


def test_a_memory_that_forgets_costs_another_number_of_nats(tiny_folder, served):
    ids = served.codec.encode(TEXT)
    dense = measure_perplexity(served.engine, ids, 1)
    sparse = measure_perplexity(open_tiny(tiny_folder, "sparse").engine, ids, 1)
    assert sparse.nats != pytest.approx(dense.nats, rel=1e-4)


@pytest.mark.parametrize(
    ("ids", "options", "expected"),
    [
        ([5, 6], {"window_tokens": 4, "stride_tokens": 4}, "the stride 4"),
        ([5, 6], {"window_tokens": 1}, "the window is 1 tokens"),
        ([5, 6], {"window_tokens": 2000}, "model's context of 1024"),
        ([5], {}, "the text has 1 tokens; two are needed"),
    ],
)
def test_what_makes_no_sense_is_refused(served, ids, options, expected):
    with pytest.raises(ValueError, match=expected):
        measure_perplexity(served.engine, ids, 9, **options)


def test_a_text_that_cannot_be_read(tmp_path):
    (tmp_path / "text").write_bytes(b"\xff")
    for path in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(ValueError, match="cannot be read as UTF-8 text"):
            read_text(path)
