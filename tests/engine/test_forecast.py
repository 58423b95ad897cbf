"""What requests will hold: on paper, and learned from what others held."""

import numpy as np
import pytest

from snello.config.engine import SamplingConfig
from snello.engine.forecast import Forecast, Outlook, find_peak
from snello.engine.request import Request, Thread


def make_request(num_tokens=10, max_new_tokens=100, num_generated=0):
    request = Request(
        number=0,
        thread=Thread([7] * num_tokens),
        sampling=SamplingConfig(max_new_tokens=max_new_tokens),
        seed=0,
        eos_ids=frozenset(),
        num_prompt_tokens=num_tokens,
        length_limit_tokens=512,
    )
    request.num_generated = num_generated
    return request


def test_the_peak_on_paper():
    """One grows 10 to 30 in 20 steps, one 10 to 20 in 10: 20 now, 40 at step 10, 30 at step 20."""
    outlooks = [Outlook(10, 30, 20), Outlook(10, 20, 10)]
    assert find_peak(0, outlooks) == 40
    assert find_peak(5, outlooks) == 45
    assert find_peak(5, [Outlook(3, 3, 1)]) == 8


def test_the_peak_is_below_the_sum_of_ends_where_one_leaves_early():
    outlooks = [Outlook(0, 100, 100), Outlook(0, 100, 1000)]
    assert find_peak(0, outlooks) == 110 < 200


def test_the_estimate_starts_dense_and_comes_to_what_was_kept(bench, prompts):
    engine = bench.open(eos_ids=())
    assert engine.tally.kept_fraction == 1.0
    engine.generate(prompts, SamplingConfig(max_new_tokens=60))
    kept = engine.tally.kept_fraction
    number = engine.add(prompts[7], SamplingConfig(max_new_tokens=100), keep=True)
    sequence = engine.wait_for(number).sequence
    handle = engine._scheduler.idle[sequence].memory_sequence
    survivors, behind = engine.memory.count_kept([handle])
    assert survivors.sum() / behind.sum() == pytest.approx(kept, abs=0.1)
    assert kept < 0.8


def test_pages_are_expected_as_they_turn_out(bench, prompts):
    for kind in ("dense", "sparse"):
        engine = bench.open(kind, eos_ids=())
        number = engine.add(prompts[7], SamplingConfig(max_new_tokens=100), keep=True)
        handle = engine._scheduler.idle[engine.wait_for(number).sequence].memory_sequence
        survivors, behind = engine.memory.count_kept([handle])
        kept = survivors / np.maximum(behind, 1)
        (expected,) = engine.memory.expect_pages([engine.memory.length(handle)], kept)
        assert expected == pytest.approx(engine.memory.count_pages([handle])[0], abs=4)


def test_replies_are_expected_to_be_as_long_as_others_that_got_so_far(bench):
    forecast = Forecast(bench.open().memory, reserve_fraction=0.0, num_layers=2)
    assert forecast.expect_steps(make_request()) == 100
    assert forecast.expect_steps(make_request(max_new_tokens=None)) == 502
    for length in (10, 20, 60):
        forecast.note_end(make_request(num_generated=length))
    assert forecast.expect_steps(make_request()) == 30
    assert forecast.expect_steps(make_request(num_generated=15)) == 25
    assert forecast.expect_steps(make_request(num_generated=70)) == 30
    assert forecast.expect_steps(make_request(max_new_tokens=4)) == 4


def test_slim_memory_admits_more_at_once_than_dense_and_few_give_way(bench, prompts):
    """The pool that holds 3 dense replies to their ends holds more once much is seen forgotten."""
    most = {}
    wish = SamplingConfig(max_new_tokens=60)
    for kind in ("dense", "sparse"):
        engine = bench.open(kind, num_pages=4 * 78, eos_ids=())
        for _ in range(14):
            engine.add(prompts[4], wish)
        most[kind] = 0
        while engine.is_busy:
            engine.step()
            most[kind] = max(most[kind], len(engine._scheduler.running))
        assert engine.tally.num_preemptions <= 2, kind
    assert most["dense"] == 3 < most["sparse"]
