"""Scores of given tokens: the decoder's own, through whatever memory, in any company."""

import pytest
import torch

from snello.config.sampling import SamplingConfig
from tests.engine.conftest import VOCABULARY
from tests.models.naive_memory import NaiveMemory


@pytest.fixture(scope="module")
def texts(prompts):
    return prompts


def score_directly(bench, token_ids):
    """The whole text in one pass over a memory that keeps all, and a plain softmax."""
    memory = NaiveMemory(bench.decoder.cache_shapes)
    step = memory.begin([memory.add()], [len(token_ids)])
    logits = bench.decoder.project(bench.decoder(torch.tensor(token_ids), step)).double()
    return logits.log_softmax(dim=-1)[:-1].gather(-1, torch.tensor(token_ids[1:])[:, None])[:, 0]


@torch.inference_mode()
def test_dense_scores_are_a_direct_pass(bench, texts):
    found = bench.open("dense").score(texts)
    for token_ids, scores in zip(texts, found, strict=True):
        assert len(scores) == len(token_ids) - 1
        expected = score_directly(bench, token_ids)
        assert torch.allclose(
            torch.tensor([s.logprob for s in scores]).double(), expected, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["dense", "sparse", "int8"])
def test_scores_are_those_of_generating_the_same_tokens(bench, prompts, kind):
    """Greedy tokens, forced: their logprobs are the ones that sampling reported."""
    engine = bench.open(kind)
    sampling = SamplingConfig(max_new_tokens=12, ignore_eos=True, logprobs=True)
    for prompt_ids in prompts[3:6]:
        (completion,) = engine.generate([prompt_ids], sampling)
        (scores,) = engine.score([[*prompt_ids, *completion.token_ids]])
        behind = scores[len(prompt_ids) - 1 :]
        reported = [place.logprob for place in completion.logprobs]
        assert [score.logprob for score in behind] == pytest.approx(reported, abs=1e-4)
        assert all(score.is_likeliest for score in behind)


def test_what_is_forgotten_is_not_seen(bench, texts):
    dense, sparse = bench.open("dense").score(texts[7:8])[0], bench.open().score(texts[7:8])[0]
    assert [s.logprob for s in dense[:6]] == pytest.approx(
        [s.logprob for s in sparse[:6]], abs=1e-4
    )
    assert max(abs(a.logprob - b.logprob) for a, b in zip(dense, sparse, strict=True)) > 0.01


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_company_and_chunks_change_nothing(bench, texts, kind):
    together = bench.open(kind).score(texts)
    one_by_one = [bench.open(kind).score([text])[0] for text in texts]
    in_chunks = bench.open(kind, max_batch_tokens=7).score(texts)
    few = bench.open(kind, num_pages=60).score(texts)  # too few for all at the same time
    for other in (one_by_one, in_chunks, few):
        for a, b in zip(together, other, strict=True):
            assert [s.logprob for s in a] == pytest.approx([s.logprob for s in b], abs=1e-4)


def test_the_memory_is_left_as_it_was(bench, texts):
    engine = bench.open()
    before = engine.memory.num_bytes_in_use, engine.memory.num_unused_sequences
    engine.score(texts)
    assert (engine.memory.num_bytes_in_use, engine.memory.num_unused_sequences) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([], r"a text to score has 0 tokens; .* must have at least 1 and at most 513"),
        ([7] * 514, "a text to score has 514 tokens"),
        ([VOCABULARY], "a text to score has token id 97"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(bench, text, expected):
    with pytest.raises(ValueError, match=expected):
        bench.open().score([[7, 8], text])


def test_the_longest_text_fills_the_context(bench):
    assert len(bench.open("dense").score([[7] * 513])[0]) == 512
    assert bench.open("dense").score([[7]]) == [[]]


def test_a_text_without_room_is_refused_and_leaves_nothing(bench, texts):
    engine = bench.open("dense", num_pages=12)
    with pytest.raises(ValueError, match=r"does not fit in the memory .*; enlarge it, or cut"):
        engine.score([texts[7]])
    assert engine.memory.num_bytes_in_use == 0


def test_requests_under_way_come_first(bench, texts):
    engine = bench.open()
    engine.add(texts[3])
    with pytest.raises(ValueError, match="1 requests are under way; score texts when"):
        engine.score(texts)
