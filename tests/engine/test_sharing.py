"""Shared prompts, prefix states, moved and saved memory: the same tokens, and less work."""

import pytest
import torch

from snello.cache.pages import OutOfPages
from snello.config.engine import PrefixCacheConfig, SamplingConfig
from snello.engine.request import Completion

GREEDY = SamplingConfig(max_new_tokens=12)
WARM = SamplingConfig(temperature=1.0, seed=5, max_new_tokens=12)
PREFIX = PrefixCacheConfig(min_tokens=4, every_tokens=16, pool_share=0.9)
KINDS = ["dense", "sparse"]


def drain(engine):
    done = {}
    while engine.is_busy:
        for event in engine.step():
            if isinstance(event, Completion):
                done[event.request] = event
    return done


def assert_whole(engine):
    engine.memory.check()
    engine.drop_prefixes()
    engine.memory.check()
    assert engine.memory.num_bytes_in_use == 0


def count_rows(monkeypatch, decoder):
    """Note how many tokens each step computes."""
    sizes, forward = [], type(decoder).forward

    def counted(self, tokens, step):
        sizes.append(len(tokens))
        return forward(self, tokens, step)

    monkeypatch.setattr(type(decoder), "forward", counted)
    return sizes


def make_wishes(count):
    return [
        GREEDY,
        *(
            SamplingConfig(temperature=1.5, seed=seed, max_new_tokens=12)
            for seed in range(count - 1)
        ),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_pages", [2000, 4 * 24], ids=["plenty", "scarce"])
def test_samples_of_one_prompt_get_what_each_gets_alone(bench, prompts, kind, num_pages):
    wishes = make_wishes(6)
    engine = bench.open(kind, num_pages=num_pages)
    numbers = engine.add_samples(prompts[7], wishes)
    done = drain(engine)
    alone = [bench.open(kind).generate([prompts[7]], wish)[0] for wish in wishes]
    assert [done[number].token_ids for number in numbers] == [c.token_ids for c in alone]
    assert len({tuple(c.token_ids) for c in alone}) > 3
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_computed_once_for_all_samples_and_its_pages_held_once(
    bench, prompts, kind, monkeypatch
):
    single = bench.open(kind, eos_ids=())
    single.generate([prompts[7]], GREEDY)
    sizes = count_rows(monkeypatch, bench.decoder)
    engine = bench.open(kind, eos_ids=())
    engine.add_samples(prompts[7], make_wishes(8))
    drain(engine)
    assert sizes[0] == len(prompts[7])
    assert sum(sizes) == len(prompts[7]) + 8 * 11
    assert engine.memory.peak_bytes < 5 * single.memory.peak_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_samples_never_start_from_another_text_of_their_length(bench, prompts, kind):
    engine = bench.open(kind, prefix_cache=PREFIX)
    other = [*prompts[7][:-1], 6]
    engine.generate([other], GREEDY)
    config = PrefixCacheConfig(min_tokens=400)
    engine._scheduler._checkpoints._config = config  # so that the prompt's own end is not kept
    numbers = engine.add_samples(prompts[7], [GREEDY, WARM])
    done = drain(engine)
    alone = [bench.open(kind).generate([prompts[7]], wish)[0] for wish in (GREEDY, WARM)]
    assert [done[number].token_ids for number in numbers] == [c.token_ids for c in alone]
    assert_whole(engine)


def test_samples_may_end_with_their_first_token(bench, prompts):
    engine = bench.open()
    wishes = [SamplingConfig(max_new_tokens=1), GREEDY, SamplingConfig(max_new_tokens=1)]
    numbers = engine.add_samples(prompts[4], wishes)
    done = drain(engine)
    assert [len(done[number].token_ids) for number in numbers][::2] == [1, 1]
    assert_whole(engine)
    with pytest.raises(ValueError, match="no samplings were given"):
        engine.add_samples(prompts[4], [])


@pytest.mark.parametrize("aborted", range(4))
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 6])
def test_any_sample_may_be_aborted_at_any_time(bench, prompts, aborted, num_steps):
    engine = bench.open(max_batch_tokens=20, num_pages=4 * 30, eos_ids=())
    numbers = engine.add_samples(prompts[7], make_wishes(4))
    done = {}
    for _ in range(num_steps):
        done |= {e.request: e for e in engine.step() if isinstance(e, Completion)}
    engine.abort(numbers[aborted])
    done |= drain(engine)
    expected = ALONE.setdefault(
        "samples", [bench.open(eos_ids=()).generate([prompts[7]], w)[0] for w in make_wishes(4)]
    )
    for position, number in enumerate(numbers):
        if position != aborted:
            assert done[number].token_ids == expected[position].token_ids
    assert_whole(engine)


ALONE = {}


def test_a_whole_family_that_can_never_fit_is_refused(bench, prompts):
    engine = bench.open("dense", num_pages=4 * 4)
    numbers = engine.add_samples(prompts[7], make_wishes(3))
    done = drain(engine)
    assert [done[number].finish_reason for number in numbers] == ["refused"] * 3
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_an_equal_beginning_is_computed_once_and_changes_no_token(
    bench, prompts, kind, monkeypatch
):
    """Dense memory shares at once; slim memory keeps a state where the second prompt departs."""
    stem, tails = prompts[7], [prompts[2], prompts[5], prompts[9], prompts[3]]
    texts = [stem + tail for tail in tails]
    expected = [bench.open(kind).generate([text], GREEDY)[0].token_ids for text in texts]
    engine = bench.open(kind, prefix_cache=PREFIX)
    sizes, computed = count_rows(monkeypatch, bench.decoder), []
    for text, wanted in zip(texts, expected, strict=True):
        before = len(sizes)
        (completion,) = engine.generate([text], GREEDY)
        assert completion.token_ids == wanted
        computed.append(sum(sizes[before:]) - len(wanted) + 1)
    later = [len(tail) for tail in tails[2:]]
    assert computed[2:] == later
    assert computed[1] == (len(tails[1]) if kind == "dense" else len(texts[1]))
    assert engine.tally.num_prefix_hits == (3 if kind == "dense" else 2)
    assert engine.tally.num_prefix_hit_tokens == len(stem) * engine.tally.num_prefix_hits
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_turn_is_found_again(bench, prompts, kind, monkeypatch):
    engine = bench.open(kind, prefix_cache=PREFIX)
    (first,) = engine.generate([prompts[7]], GREEDY)
    text = prompts[7] + first.token_ids + prompts[2]
    expected = bench.open(kind).generate([text], GREEDY)[0].token_ids
    sizes = count_rows(monkeypatch, bench.decoder)
    (second,) = engine.generate([text], GREEDY)
    assert second.token_ids == expected
    assert sizes[0] == len(prompts[2]) + 1
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_where_chunks_end_alike_a_hit_gives_the_same_bits(bench, prompts, kind, monkeypatch):
    """States every 16 tokens, chunks of 16: from there on, the same steps as without a hit."""
    stem = (prompts[7] + prompts[6])[:48]
    texts = [stem + prompts[4][:9], stem + prompts[8]]
    logits, project = [], type(bench.decoder).project

    def noted(self, hidden):
        logits.append(project(self, hidden))
        return logits[-1]

    monkeypatch.setattr(type(bench.decoder), "project", noted)
    settings = {"max_batch_tokens": 16, "eos_ids": ()}
    bench.open(kind, **settings).generate([texts[1]], GREEDY)
    cold, logits = logits, []
    engine = bench.open(kind, prefix_cache=PREFIX, **settings)
    engine.generate([texts[0]], GREEDY)
    logits = []
    engine.generate([texts[1]], GREEDY)
    assert engine.tally.num_prefix_hit_tokens == 48
    assert len(cold) == len(logits)
    assert all(torch.equal(one, other) for one, other in zip(cold, logits, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_states_keep_their_bounds_and_give_way(bench, prompts, kind):
    config = PrefixCacheConfig(min_tokens=2, every_tokens=8, pool_share=0.2, max_checkpoints=3)
    engine = bench.open(kind, num_pages=4 * 40, prefix_cache=config)
    expected = [bench.open(kind).generate([prompt], GREEDY)[0].token_ids for prompt in prompts]
    for prompt, wanted in zip(prompts, expected, strict=True):
        assert engine.generate([prompt], GREEDY)[0].token_ids == wanted
        assert engine.memory.store.pool.num_held <= 0.2 * 4 * 40
        assert 64 - engine.memory.num_unused_sequences <= 3
        engine.memory.check()
    assert [c.token_ids for c in engine.generate(prompts * 2, GREEDY)] == expected * 2
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swap_bytes", [0, 10**6], ids=["computed", "moved"])
def test_who_gives_way_goes_on_with_the_same_tokens(bench, prompts, kind, swap_bytes, monkeypatch):
    chosen = [prompts[4], prompts[6], prompts[7]]
    expected = [bench.open(kind, eos_ids=()).generate([p], WARM)[0].token_ids for p in chosen]
    sizes = count_rows(monkeypatch, bench.decoder)
    engine = bench.open(kind, eos_ids=(), swap_bytes=swap_bytes)
    engine._scheduler._shelf.bytes_per_s = 1e12
    numbers = [engine.add(prompt, WARM) for prompt in chosen]
    for _ in range(4):
        engine.step()
    with torch.inference_mode():
        engine._scheduler._yield_place(engine._requests[numbers[1]])
    assert engine.tally.num_moved == (1 if swap_bytes else 0)
    done = drain(engine)
    assert [done[number].token_ids for number in numbers] == expected
    assert engine.tally.num_preemptions == 1
    num_again = 0 if swap_bytes else len(chosen[1]) + 3
    assert sum(sizes) == sum(map(len, chosen)) + 3 * 11 + num_again
    assert engine._scheduler._shelf.num_bytes == 0
    assert_whole(engine)


def test_moving_is_chosen_by_cost_and_by_room(bench, prompts):
    engine = bench.open(swap_bytes=100_000, eos_ids=())
    number = engine.add(prompts[7], GREEDY)
    engine.step()
    engine.step()
    shelf, thread = engine._scheduler._shelf, engine._requests[number].thread
    shelf.bytes_per_s, shelf.tokens_per_s = 1e9, 10.0
    assert shelf.is_worth_it(thread)
    shelf.tokens_per_s = 1e9
    assert not shelf.is_worth_it(thread)
    shelf.tokens_per_s = 10.0
    shelf._budget_bytes = 100
    assert not shelf.is_worth_it(thread)


@pytest.mark.parametrize("swap_bytes", [0, 10**6], ids=["computed", "moved"])
def test_who_gave_way_may_be_aborted(bench, prompts, swap_bytes):
    engine = bench.open(swap_bytes=swap_bytes)
    engine._scheduler._shelf.bytes_per_s = 1e12
    first, second = engine.add(prompts[7], GREEDY), engine.add(prompts[6], GREEDY)
    engine.step()
    with torch.inference_mode():
        engine._scheduler._yield_place(engine._requests[second])
    engine.abort(second)
    assert list(drain(engine)) == [first]
    assert engine._scheduler._shelf.num_bytes == 0
    assert_whole(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_conversation_goes_on_in_another_engine(bench, prompts, kind, tmp_path):
    engine, other = bench.open(kind, eos_ids=()), bench.open(kind, eos_ids=())
    first = engine.wait_for(engine.add(prompts[7], GREEDY, keep=True))
    path = tmp_path / "talk.safetensors"
    engine.save(first.sequence, path, fingerprint="tiny")
    stayed = engine.wait_for(engine.add(prompts[2], GREEDY, sequence=first.sequence))
    with pytest.raises(ValueError, match='fingerprint "tiny", and here it is "big"'):
        other.restore(path, fingerprint="big")
    sequence = other.restore(path, fingerprint="tiny")
    moved = other.wait_for(other.add(prompts[2], GREEDY, sequence=sequence))
    assert moved.token_ids == stayed.token_ids
    assert_whole(other)
    small = bench.open(kind, num_pages=4)
    with pytest.raises(OutOfPages, match="pages wanted"):
        small.restore(path, fingerprint="tiny")
    assert_whole(small)


def test_a_prompt_that_keeps_too_much_is_begun_again_with_the_same_tokens(bench, prompts):
    """The estimate is told that nothing is kept; the pool is too small for what really is."""
    wish = SamplingConfig(max_new_tokens=6)
    chosen = prompts[2], prompts[7]
    expected = [bench.open(eos_ids=()).generate([p], wish)[0].token_ids for p in chosen]
    engine = bench.open(num_pages=42, eos_ids=())
    engine._scheduler._forecast._left += 1e6
    numbers = [engine.add(prompts[2], wish)]
    engine.step()
    numbers.append(engine.add(prompts[7], wish))
    done = drain(engine)
    assert engine.tally.num_spoiled == 1
    assert [done[number].token_ids for number in numbers] == expected
    assert_whole(engine)


def test_samples_that_share_all_their_pages_run_side_by_side(bench, prompts):
    """A prompt of ten whole pages for each of 4 heads; a sample needs 12 more at the most."""
    engine = bench.open("dense", num_pages=40 + 8 * 12 + 20, eos_ids=())
    engine.add_samples(prompts[4], [SamplingConfig(max_new_tokens=8, seed=i) for i in range(8)])
    most = 0
    while engine.is_busy:
        engine.step()
        most = max(most, len(engine._scheduler.running))
    assert most == 8
