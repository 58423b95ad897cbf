"""The laws of the engine: company, chunks, scarcity and turns change no token."""

import pytest
import torch

from snello.config.engine import SamplingConfig
from snello.engine.request import Completion, Token

GREEDY = SamplingConfig(max_new_tokens=12)
WARM = SamplingConfig(temperature=1.0, top_p=0.95, seed=11, max_new_tokens=12)


def texts(completions):
    return [completion.token_ids for completion in completions]


def drain(engine):
    done = {}
    while engine.is_busy:
        for event in engine.step():
            if isinstance(event, Completion):
                done[event.request] = event
    return done


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "seeded"])
def test_a_batch_gives_what_each_request_gets_alone(bench, prompts, kind, sampling):
    together = texts(bench.open(kind).generate(prompts, sampling))
    engine = bench.open(kind)
    alone = [engine.generate([prompt], sampling)[0].token_ids for prompt in prompts]
    assert together == alone
    assert len({len(ids) for ids in together}) > 1, "some should end early, or nothing is tested"


@pytest.mark.parametrize("max_batch_tokens", [3, 33])
def test_the_size_of_prompt_chunks_changes_no_token(bench, prompts, max_batch_tokens):
    whole = texts(bench.open().generate(prompts, GREEDY))
    chunked = texts(bench.open(max_batch_tokens=max_batch_tokens).generate(prompts, GREEDY))
    assert whole == chunked


def test_sparse_that_never_evicts_is_dense(bench, prompts):
    dense = bench.open("dense").generate(prompts, GREEDY)
    never = bench.open("never").generate(prompts, GREEDY)
    assert texts(dense) == texts(never)
    assert [c.factor for c in dense] == pytest.approx([1.0] * len(prompts))


def test_eviction_frees_memory_and_is_measured(bench, prompts):
    dense = bench.open("dense", eos_ids=()).generate(prompts, SamplingConfig(max_new_tokens=50))
    sparse = bench.open(eos_ids=()).generate(prompts, SamplingConfig(max_new_tokens=50))
    for full, slim in zip(dense, sparse, strict=True):
        assert full.num_seen_tokens == slim.num_seen_tokens
        assert slim.peak_live_tokens < full.peak_live_tokens
        assert slim.kv_reads < full.kv_reads
        assert slim.factor > 1.2
        assert 0 < slim.peak_bytes < full.peak_bytes


def test_dense_kv_reads_are_the_sum_of_what_each_row_sees(bench):
    """A prompt of 3 and a reply of 4: rows see 1, 2, 3, 4, 5, 6; the last token is not run."""
    engine = bench.open("dense", eos_ids=())
    (completion,) = engine.generate([[5, 6, 7]], SamplingConfig(max_new_tokens=4))
    assert completion.num_seen_tokens == 6
    assert completion.peak_live_tokens == 6.0
    assert completion.kv_reads == pytest.approx(1 + 2 + 3 + 4 + 5 + 6)


def test_costs_can_be_asked_for_while_a_request_runs(bench):
    """A prompt of 5 reads 1 + ... + 5; each later token reads all before it and itself."""
    engine = bench.open("dense")
    number = engine.add([7, 8, 9, 10, 11], SamplingConfig(max_new_tokens=4, ignore_eos=True))
    reads = []
    while engine.is_busy:
        ended = [event for event in engine.step() if isinstance(event, Completion)]
        reads.append(ended[0].kv_reads if ended else engine.measure(number).kv_reads)
    assert reads == [15, 15 + 6, 15 + 6 + 7, 15 + 6 + 7 + 8]
    with pytest.raises(ValueError, match=f"request {number} is not being worked on"):
        engine.measure(number)


def test_scarce_pages_make_requests_wait_and_change_no_token(bench, prompts):
    plenty = texts(bench.open("dense").generate(prompts, GREEDY))
    engine = bench.open("dense", num_pages=4 * 30)
    scarce = engine.generate(prompts, GREEDY)
    assert texts(scarce) == plenty
    assert {c.finish_reason for c in scarce} <= {"eos", "length"}
    engine.memory.store.pool.check()
    assert engine.memory.num_bytes_in_use == 0


def test_scarce_pages_with_eviction_and_sampling_change_no_token(bench, prompts):
    many = prompts * 2
    plenty = texts(bench.open().generate(many, WARM))
    assert texts(bench.open(num_pages=4 * 45).generate(many, WARM)) == plenty


def test_a_request_that_can_never_fit_is_refused_in_one_line_and_others_live(bench, prompts):
    engine = bench.open("dense", num_pages=4 * 11)
    reference = bench.open("dense").generate([prompts[2], prompts[9]], GREEDY)
    first, refused, second = engine.generate([prompts[2], prompts[7], prompts[9]], GREEDY)
    assert refused.finish_reason == "refused"
    assert "does not fit in memory" in refused.refusal
    assert "\n" not in refused.refusal
    assert texts([first, second]) == texts(reference)
    assert engine.memory.num_bytes_in_use == 0


def test_more_requests_than_places_are_admitted_as_others_finish(bench, prompts):
    wide = texts(bench.open().generate(prompts * 2, GREEDY))
    narrow = texts(bench.open(max_sequences=3).generate(prompts * 2, GREEDY))
    assert wide == narrow


def test_three_turns_equal_one_shot(bench, prompts):
    """Every turn's greedy reply is what a fresh engine gives for the whole text so far."""
    engine, fresh = bench.open(), bench.open()
    sequence, said = None, []
    for prompt in prompts[3:6]:
        number = engine.add(prompt, GREEDY, sequence=sequence, keep=True)
        completion = drain(engine)[number]
        sequence = completion.sequence
        said += prompt
        (whole,) = fresh.generate([said], GREEDY)
        assert completion.token_ids == whole.token_ids
        said += completion.token_ids
    assert completion.num_seen_tokens == len(said) - 1
    assert completion.num_prompt_tokens == len(prompts[5])
    engine.forget(sequence)
    assert engine.memory.num_bytes_in_use == 0


def test_a_next_turn_computes_only_what_is_new(bench, prompts):
    engine = bench.open("dense", eos_ids=())
    number = engine.add(prompts[4], SamplingConfig(max_new_tokens=1), keep=True)
    sequence = drain(engine)[number].sequence
    number = engine.add([3], SamplingConfig(max_new_tokens=1), sequence=sequence)
    completion = drain(engine)[number]
    assert completion.num_seen_tokens == 42
    assert completion.kv_reads == pytest.approx(41 + 42)


def test_a_kept_sequence_gives_way_and_comes_back_with_the_same_tokens(bench, prompts):
    engine, fresh = bench.open("dense", num_pages=4 * 26), bench.open("dense")
    number = engine.add(prompts[4], GREEDY, keep=True)
    first = drain(engine)[number]
    engine.generate([prompts[7]], GREEDY)
    number = engine.add(prompts[2], GREEDY, sequence=first.sequence)
    second = drain(engine)[number]
    (whole,) = fresh.generate([prompts[4] + first.token_ids + prompts[2]], GREEDY)
    assert second.token_ids == whole.token_ids
    assert engine.memory.num_bytes_in_use == 0


def test_abort_gives_every_page_back_and_disturbs_nobody(bench, prompts):
    expected = texts(bench.open().generate(prompts, GREEDY))
    engine = bench.open()
    numbers = [engine.add(prompt, GREEDY) for prompt in prompts]
    endless = SamplingConfig(max_new_tokens=None, temperature=9.0)
    extra = [engine.add(prompt, endless) for prompt in prompts[:4]]
    done = {}
    for _ in range(3):
        done |= {e.request: e for e in engine.step() if isinstance(e, Completion)}
    for number in set(extra) - set(done):
        assert engine.abort(number).finish_reason == "aborted"
    done |= drain(engine)
    assert [done[number].token_ids for number in numbers] == expected
    engine.memory.store.pool.check()
    assert engine.memory.num_bytes_in_use == 0


def test_a_waiting_request_can_be_aborted(bench, prompts):
    engine = bench.open(max_sequences=1)
    first, second = engine.add(prompts[0], GREEDY), engine.add(prompts[1], GREEDY)
    engine.step()
    assert engine.abort(second).token_ids == []
    assert list(drain(engine)) == [first]


def test_reasons_to_stop(bench, prompts):
    free = bench.open(eos_ids=())
    (whole,) = free.generate([prompts[3]], SamplingConfig(max_new_tokens=12))
    assert whole.finish_reason == "length"
    assert whole.num_generated_tokens == 12
    third = whole.token_ids[2]
    first_time = whole.token_ids.index(third) + 1
    (ended,) = bench.open(eos_ids=(third,)).generate([prompts[3]], GREEDY)
    assert (ended.finish_reason, ended.token_ids) == ("eos", whole.token_ids[:first_time])
    (stopped,) = free.generate([prompts[3]], SamplingConfig(stop_token_ids=(third,)))
    assert (stopped.finish_reason, stopped.token_ids) == ("stop", whole.token_ids[:first_time])
    (full,) = free.generate([[4] * 500], SamplingConfig(max_new_tokens=None))
    assert (full.finish_reason, full.num_generated_tokens) == ("context", 12)


def test_stream_yields_one_request_alone(bench, prompts):
    engine = bench.open()
    engine.add(prompts[1], GREEDY)
    number = engine.add(prompts[3], GREEDY)
    *tokens, completion = engine.stream(number)
    assert [token for token in tokens if not isinstance(token, Token)] == []
    assert [token.token_id for token in tokens] == completion.token_ids


def test_one_wish_for_each_request(bench, prompts):
    wishes = [GREEDY, WARM, SamplingConfig(temperature=1.0, seed=12, max_new_tokens=12)]
    mixed = texts(bench.open().generate([prompts[3]] * 3, wishes))
    alone = [texts(bench.open().generate([prompts[3]], wish))[0] for wish in wishes]
    assert mixed == alone
    assert mixed[1] != mixed[2]


def test_without_a_seed_every_request_draws_its_own(bench, prompts):
    free = SamplingConfig(temperature=2.0, max_new_tokens=12)
    first, second = texts(bench.open(eos_ids=()).generate([prompts[3]] * 2, free))
    assert first != second


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt has no tokens"),
        ([3] * 512, "the prompt makes 512 tokens, and the model's context holds 512"),
        ([3, 97], "token id 97; the model knows ids 0 to 96"),
        ([-1], "token id -1"),
    ],
)
def test_a_bad_prompt_is_refused_in_one_line_and_nothing_changes(bench, prompt, message):
    engine = bench.open()
    with pytest.raises(ValueError, match=message):
        engine.generate([[5, 6], prompt])
    assert not engine.is_busy


def test_unknown_sequences_and_requests_are_refused(bench):
    engine = bench.open()
    with pytest.raises(ValueError, match="sequence 4 is not kept"):
        engine.add([1], sequence=4)
    with pytest.raises(ValueError, match="request 4 is not being worked on"):
        engine.abort(4)


def test_logits_are_computed_for_sampled_rows_only(bench, prompts, monkeypatch):
    seen = []
    project = type(bench.decoder).project

    def counted(self, hidden):
        seen.append(len(hidden))
        return project(self, hidden)

    monkeypatch.setattr(type(bench.decoder), "project", counted)
    bench.open(max_batch_tokens=16, eos_ids=()).generate(
        [prompts[7]], SamplingConfig(max_new_tokens=3)
    )
    assert seen == [1, 1, 1]


def test_no_graph_is_kept(bench, prompts):
    engine = bench.open()
    engine.generate(prompts[:2], GREEDY)
    assert not torch.is_inference_mode_enabled()
