"""Several memories on one tiny model: the same dice, a matched window, costs that add up."""

import math

import pytest

from snello.config.engine import SamplingConfig
from snello.evaluation.compare import compare, match_window
from snello.evaluation.run import limit_replies, read_reply, run_policy
from snello.evaluation.tasks.bundled import pose_fresh
from tests.evaluation.tiny import open_tiny

SAMPLING = SamplingConfig(temperature=0.8, seed=11, max_new_tokens=12)


@pytest.fixture(scope="module")
def problems():
    return pose_fresh(5, kinds=["ledger"], levels=[1], seed=0)


@pytest.fixture(scope="module")
def comparison(tiny_folder, problems):
    def open_memory(kind, window_tokens):
        return open_tiny(tiny_folder, kind, window_tokens)

    return compare(open_memory, problems, SAMPLING, memories=("dense", "sparse", "window"))


def test_dense_memory_keeps_all(comparison, problems):
    dense = comparison.runs["dense"]
    assert dense.summary.factor == 1.0
    assert dense.window_tokens is None
    for reply in dense.replies:
        assert reply.peak_live_tokens == reply.num_stored_tokens


def test_sparse_memory_holds_less_and_reads_less(comparison):
    dense, sparse = comparison.runs["dense"].summary, comparison.runs["sparse"].summary
    assert sparse.factor > 1.3
    assert sparse.peak_live_tokens < dense.peak_live_tokens / 1.3
    assert sparse.kv_reads < dense.kv_reads / 1.3
    assert sparse.peak_pool_bytes < dense.peak_pool_bytes
    assert sparse.peak_bytes < dense.peak_bytes


def test_the_window_is_as_large_as_the_sparse_run(comparison):
    sparse, window = comparison.runs["sparse"].summary, comparison.runs["window"].summary
    assert window.window_tokens == math.ceil(sparse.peak_live_tokens) - 1
    assert 0 <= window.peak_live_tokens - sparse.peak_live_tokens < 1


def test_differences_are_against_dense(comparison):
    assert [(d.memory, d.baseline) for d in comparison.differences] == [
        ("sparse", "dense"),
        ("window", "dense"),
    ]


def test_a_window_without_a_sparse_run_is_refused(comparison):
    with pytest.raises(ValueError, match="name 'sparse' first"):
        match_window({"dense": comparison.runs["dense"]})


def test_no_difference_without_dense(tiny_folder, problems):
    alone = compare(
        lambda kind, width: open_tiny(tiny_folder, kind, width),
        problems[:1],
        SAMPLING,
        memories=("sparse",),
    )
    assert alone.differences == []


def test_the_same_dice_whatever_the_memory_and_the_company(tiny_folder, problems, comparison):
    """A window longer than the text forgets nothing, so its replies are dense memory's."""
    wide = run_policy(open_tiny(tiny_folder, "window", 900), problems[:2], SAMPLING)
    dense = comparison.runs["dense"]
    assert [r.token_ids for r in wide.replies] == [r.token_ids for r in dense.replies[:2]]


def test_another_seed_gives_other_replies(tiny_folder, problems, comparison):
    other = run_policy(
        open_tiny(tiny_folder, "dense"),
        problems,
        SamplingConfig(temperature=0.8, seed=99, max_new_tokens=12),
    )
    assert [r.token_ids for r in other.replies] != [
        r.token_ids for r in comparison.runs["dense"].replies
    ]


def test_progress_counts_to_the_end(tiny_folder, problems):
    seen = []
    run_policy(open_tiny(tiny_folder, "dense"), problems[:3], SAMPLING, advance=seen.append)
    assert seen == [1, 2, 3]


def test_without_a_limit_a_reply_may_be_twice_the_longest_right_one(tiny_folder, problems):
    served = open_tiny(tiny_folder, "dense")
    longest = max(len(served.codec.encode(problem.reply)) for problem in problems)
    assert limit_replies(problems, served.codec) == 2 * longest
    run = run_policy(
        served, problems[:1], SamplingConfig(temperature=5.0, seed=0, max_new_tokens=None)
    )
    assert len(run.replies[0].token_ids) <= limit_replies(problems[:1], served.codec)


def test_a_refused_problem_is_no_wrong_answer(tiny_folder, problems):
    served = open_tiny(tiny_folder, "dense")
    number = served.engine.add(served.codec.encode_chat(problems[0].messages), SAMPLING)
    completion = served.engine.abort(number)
    refused = completion.__class__(
        **{
            name: getattr(completion, name)
            for name in completion.__slots__
            if name not in ("finish_reason", "refusal")
        },
        finish_reason="refused",
        refusal="it does not fit; enlarge the pool.",
    )
    with pytest.raises(ValueError, match="enlarge the pool"):
        read_reply(problems[0], refused, served.codec)
