"""Every policy through the engine: several requests, an abort, one that gives way, and samples."""

import pytest

from snello.cache.budgeted import BudgetedMemory
from snello.cache.open import choose_memory, open_memory
from snello.config.engine import PrefixCacheConfig
from snello.config.policy import parse_policy
from snello.config.sampling import SamplingConfig
from snello.engine.engine import Engine
from snello.engine.request import Completion

WRITTEN = [
    "streaming:sinks=3,window=9",
    "random:keep=0.3,window=6",
    "h2o:budget=12",
    "tova:budget=12",
    "snapkv:budget=12,window=4",
    "snapkv:budget=14,window=4,slide=6",
    "rkv:budget=16,window=4,every=5",
    "quest:budget=12",
    "offload:window=5",
]
SAMPLING = SamplingConfig(temperature=0.8, max_new_tokens=24, ignore_eos=True, seed=3)


def open_engine(bench, written, num_pages=2000, **settings):
    plan = choose_memory(None, None, None, "same", parse_policy(written, "a test"))
    shapes = bench.decoder.cache_shapes
    page_bytes = 4 * 2 * 8 * 4 + 4 * 5
    memory = open_memory(
        shapes, plan, budget_bytes=num_pages * page_bytes, page_tokens=4, max_sequences=32
    )
    assert memory.store.pool.num_pages == num_pages
    return Engine(bench.decoder, memory, **settings)


def bound(written):
    """The most live tokens of a head; None where nothing is bounded."""
    plan = choose_memory(None, None, None, "same", parse_policy(written, "a test"))
    settings = plan.rule.numbers
    if plan.kind == "streaming":
        return settings["sinks"] + settings["window"] + 1
    if plan.kind in ("h2o", "tova", "rkv") or "slide" in settings:
        return settings["budget"]
    return None


@pytest.mark.parametrize("written", WRITTEN)
def test_requests_together_get_what_each_gets_alone(bench, prompts, written):
    together = open_engine(bench, written).generate(prompts, SAMPLING)
    engine = open_engine(bench, written)
    for prompt, completion in zip(prompts, together, strict=True):
        (alone,) = engine.generate([prompt], SAMPLING)
        assert alone.token_ids == completion.token_ids
        assert alone.kv_reads == pytest.approx(completion.kv_reads)
        assert alone.peak_live_tokens == completion.peak_live_tokens
        limit = bound(written)
        assert limit is None or alone.peak_live_tokens <= limit
    engine.memory.check()
    assert engine.memory.store.pool.num_held == 0


@pytest.mark.parametrize("written", WRITTEN)
def test_an_abort_in_the_middle_leaves_the_others_and_the_pool_whole(bench, prompts, written):
    engine = open_engine(bench, written, max_batch_tokens=24)
    expected = open_engine(bench, written, max_batch_tokens=24).generate(prompts[3:6], SAMPLING)
    doomed, *numbers = [engine.add(prompt, SAMPLING) for prompt in (prompts[4], *prompts[3:6])]
    done = {}
    for count in range(200):
        if count == 5:
            engine.abort(doomed)
            engine.memory.check()
        done |= {e.request: e for e in engine.step() if isinstance(e, Completion)}
        if not engine.is_busy:
            break
    assert set(numbers) <= done.keys()
    assert all(len(done[number].token_ids) == 24 for number in numbers)
    if not isinstance(engine.memory, BudgetedMemory):  # there, cuts of prompts may change replies
        for number, wanted in zip(numbers, expected, strict=True):
            assert done[number].token_ids == wanted.token_ids
    engine.memory.check()
    assert engine.memory.store.pool.num_held == 0


@pytest.mark.parametrize("written", WRITTEN)
def test_who_gives_way_is_computed_again_and_ends(bench, prompts, written):
    """Short replies before let too many begin; the pool holds two at their ends."""
    pages = {"h2o:budget=12": 3, "tova:budget=12": 3, "quest:budget=12": 8}
    pages |= {"snapkv:budget=12,window=4": 8}
    engine = open_engine(bench, written, num_pages=2 * 4 * pages.get(written, 4))
    for _ in range(6):
        engine.generate([prompts[0]], SamplingConfig(max_new_tokens=1, ignore_eos=True))
    completions = engine.generate([prompts[i] for i in (0, 1, 2, 5, 0, 1)], SAMPLING)
    assert [len(completion.token_ids) for completion in completions] == [24] * 6
    assert engine.tally.num_preemptions > 0
    engine.memory.check()
    assert engine.memory.store.pool.num_held == 0


@pytest.mark.parametrize("written", WRITTEN)
def test_samples_share_their_prompt_and_a_next_turn_goes_on(bench, prompts, written):
    engine = open_engine(bench, written)
    numbers = engine.add_samples(prompts[4], [SAMPLING, SAMPLING])
    done = {}
    while engine.is_busy:
        done |= {e.request: e for e in engine.step() if isinstance(e, Completion)}
    first, second = (done[number].token_ids for number in numbers)
    assert first == second
    turn = engine.wait_for(engine.add(prompts[4], SAMPLING, keep=True))
    assert turn.token_ids == first
    after = engine.wait_for(engine.add(prompts[3], SAMPLING, sequence=turn.sequence))
    assert len(after.token_ids) == 24
    engine.memory.check()
    assert engine.memory.store.pool.num_held == 0


@pytest.mark.parametrize("written", ["h2o:budget=12", "quest:budget=12"])
def test_states_of_prompts_serve_later_ones(bench, prompts, written):
    engine = open_engine(bench, written, prefix_cache=PrefixCacheConfig(min_tokens=8))
    prompt = prompts[4]
    (first,) = engine.generate([prompt], SAMPLING)
    longer = [*prompt, *first.token_ids, 9, 9]
    engine.generate([longer], SAMPLING)
    assert engine.tally.num_prefix_hits == 1
    engine.memory.check()
    engine.drop_prefixes()
    assert engine.memory.store.pool.num_held == 0


def test_a_sequence_with_notes_cannot_be_saved_and_is_not_moved(bench, prompts, tmp_path):
    engine = open_engine(bench, "h2o:budget=12", num_pages=50, swap_bytes=2**20)
    turn = engine.wait_for(engine.add(prompts[4], SAMPLING, keep=True))
    with pytest.raises(ValueError, match="keeps notes beside its tokens"):
        engine.save(turn.sequence, tmp_path / "thread")
    assert not (tmp_path / "thread").exists()
    engine.generate(prompts, SAMPLING)
    assert engine.tally.num_moved == 0
