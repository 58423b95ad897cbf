"""Text requests on a tiny engine: stop strings, several replies, scores, and any company."""

import os
import random
import signal

import pytest
import torch

from snello.config.sampling import SamplingConfig
from snello.engine.dice import split_seed
from snello.engine.text import TextCodec
from snello.engine.text_engine import TextEngine
from tests.models.naive_memory import NaiveMemory

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Letters(TextCodec):
    """A tokenizer of one or two letters a token, and nothing for the first six (the ends)."""

    def __init__(self):
        self.eos_ids = ()

    def decode(self, token_ids):
        return "".join(self.decode_each(token_ids))

    def decode_each(self, token_ids):
        return ["" if i < 6 else LETTERS[i % 7] * (1 + i % 2) for i in token_ids]


EVERYTHING = {
    "temperature": 1.1,
    "top_k": 60,
    "top_p": 0.95,
    "min_p": 0.001,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "logit_bias": {9: 1.5, 12: -100.0},
    "min_new_tokens": 4,
    "ignore_eos": True,
    "stop_token_ids": (40, 41),
    "logprobs": True,
    "top_logprobs": 4,
    "max_new_tokens": 14,
}
WISHES = [
    SamplingConfig(**EVERYTHING, seed=3, stop=("adg", "ff")),
    SamplingConfig(max_new_tokens=14),
    SamplingConfig(max_new_tokens=14, stop="e"),
    SamplingConfig(max_new_tokens=14, temperature=1.0, seed=5),
    SamplingConfig(max_new_tokens=14, repetition_penalty=1.4),
    SamplingConfig(max_new_tokens=14, temperature=0.8, top_p=0.8, seed=1, n=2),
    SamplingConfig(max_new_tokens=9, presence_penalty=2.0, logprobs=True),
    SamplingConfig(**EVERYTHING, seed=4, stop=("g",), include_stop_str_in_output=True),
]


@pytest.fixture
def open_texts(bench):
    return lambda **settings: TextEngine(bench.open(**settings), Letters())


def is_whole(texts):
    texts.engine.memory.check()
    return texts.engine.memory.num_bytes_in_use == 0 and not texts.is_busy


def tell(groups):
    """What must not depend on company: all but the numbers of requests and the floats."""
    return [
        [
            (
                reply.text,
                reply.token_ids,
                reply.finish_reason,
                reply.stop_reason,
                [place.token_id for place in reply.logprobs or []],
            )
            for reply in group
        ]
        for group in groups
    ]


@pytest.mark.parametrize("num_pages", [2000, 4 * 45])
def test_requests_with_every_wish_get_the_same_alone_and_in_a_crowd(open_texts, prompts, num_pages):
    """The smaller pool makes requests wait and be computed again."""
    wishes = (WISHES * 2)[: len(prompts)]
    alone = [open_texts().generate([p], [w])[0] for p, w in zip(prompts, wishes, strict=True)]
    dice = random.Random(1)
    order = dice.sample(range(len(prompts)), len(prompts))
    texts = open_texts(num_pages=num_pages, max_batch_tokens=64)
    crowd = texts.generate([prompts[i] for i in order], [wishes[i] for i in order])
    assert tell(crowd) == tell([alone[i] for i in order])
    assert is_whole(texts)
    assert {reply.finish_reason for group in crowd for reply in group} >= {"stop", "length"}


def test_a_stop_string_ends_the_reply_at_once_and_gives_its_memory_back(open_texts, prompts):
    (whole,) = open_texts(eos_ids=()).generate([prompts[3]], [SamplingConfig(max_new_tokens=12)])
    stop = whole[0].text[2:5]
    texts = open_texts(eos_ids=())
    request = texts.add(prompts[3], SamplingConfig(max_new_tokens=12, stop=stop), is_streamed=True)
    pieces = []
    while texts.is_busy:
        pieces += texts.step()
        if pieces[-1].output is not None:
            assert is_whole(texts), "the memory must be free before the next step"
    output = pieces[-1].output
    assert {piece.request for piece in pieces} == {request}
    assert "".join(piece.text for piece in pieces) == output.text
    assert output.text == whole[0].text[: whole[0].text.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    ids = [i for piece in pieces for i in piece.token_ids]
    assert ids == output.token_ids == whole[0].token_ids[: len(ids)]
    assert len(ids) < 12


def test_a_stop_string_that_the_last_allowed_token_completes_is_a_stop(open_texts, prompts):
    (whole,) = open_texts(eos_ids=()).generate([prompts[3]], [SamplingConfig(max_new_tokens=4)])
    wish = SamplingConfig(max_new_tokens=4, stop=whole[0].text[-4:])
    ((reply,),) = open_texts(eos_ids=()).generate([prompts[3]], [wish])
    assert (reply.finish_reason, len(reply.token_ids)) == ("stop", 4)


def test_the_text_of_a_stop_token_is_left_out_unless_it_is_asked_for(open_texts, prompts):
    (whole,) = open_texts(eos_ids=()).generate([prompts[3]], [SamplingConfig(max_new_tokens=12)])
    ids = whole[0].token_ids
    third = ids[2]
    ids = ids[: ids.index(third) + 1]
    for is_streamed in (False, True):
        for shows, shown in ((False, ids[:-1]), (True, ids)):
            texts = open_texts(eos_ids=())
            wish = SamplingConfig(stop_token_ids=[third], include_stop_str_in_output=shows)
            texts.add(prompts[3], wish, is_streamed=is_streamed)
            pieces = [piece for _ in ids for piece in texts.step()]
            output = pieces[-1].output
            assert (output.stop_reason, output.token_ids) == (third, ids)
            assert output.text == Letters().decode(shown)


def test_end_tokens_are_not_chosen_before_the_least_length_and_can_be_ignored(open_texts, prompts):
    """The model ends some replies early by itself."""
    free = SamplingConfig(max_new_tokens=20)
    replies = open_texts().generate(prompts, [free] * len(prompts))
    short = [i for i, (reply,) in enumerate(replies) if len(reply.token_ids) < 8]
    assert short, "nothing is tested"
    asked = [prompts[i] for i in short]
    wishes = [SamplingConfig(max_new_tokens=20, min_new_tokens=8)] * len(short)
    for (reply,) in open_texts().generate(asked, wishes):
        assert len(reply.token_ids) > 8 or reply.finish_reason != "eos"
        assert min(reply.token_ids[:8]) > 5
    wishes = [SamplingConfig(max_new_tokens=20, ignore_eos=True)] * len(short)
    for i, (reply,) in zip(short, open_texts().generate(asked, wishes), strict=True):
        assert reply.finish_reason == "length"
        before = replies[i][0].token_ids
        assert reply.token_ids[: len(before)] == before


def test_several_replies_are_what_their_seeds_give_alone(open_texts, prompts):
    warm = {"temperature": 1.2, "max_new_tokens": 10, "ignore_eos": True}
    texts = open_texts()
    (replies,) = texts.generate([prompts[3]], [SamplingConfig(**warm, seed=9, n=4)])
    assert [reply.index for reply in replies] == [0, 1, 2, 3]
    assert len({tuple(reply.token_ids) for reply in replies}) == 4
    alone = [
        open_texts().generate([prompts[3]], [SamplingConfig(**warm, seed=split_seed(9, i))])[0][0]
        for i in range(4)
    ]
    assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in alone]
    (free,) = texts.generate([prompts[3]], [SamplingConfig(**warm, n=2)])
    assert free[0].token_ids != free[1].token_ids
    assert is_whole(texts)


def test_a_long_queue_is_handed_over_in_parts_and_answered_in_order(open_texts, prompts):
    """Two places, so prompts are handed over while fewer than four replies are unfinished."""
    texts, most = open_texts(max_sequences=2), 0
    step = texts.engine.step

    def counted():
        nonlocal most
        most = max(most, len(texts._replies))
        return step()

    texts.engine.step = counted
    wish = SamplingConfig(max_new_tokens=2, n=3, temperature=1.0, seed=3)
    replies = texts.generate(prompts[:5], [wish] * 5)
    wide = open_texts().generate(prompts[:5], [wish] * 5)
    assert tell(replies) == tell(wide)
    assert most == 6
    assert is_whole(texts)


@pytest.mark.parametrize("max_batch_tokens", [7, 2048])
def test_logprobs_are_the_log_softmax_of_the_model_at_each_token(
    bench, open_texts, prompts, max_batch_tokens
):
    """Against one forward pass over the whole text, whatever the sampler did to the logits."""
    wish = SamplingConfig(
        temperature=3.0,
        repetition_penalty=1.5,
        logit_bias={20: 4.0},
        top_k=20,
        seed=6,
        logprobs=True,
        top_logprobs=5,
        max_new_tokens=10,
    )
    texts = open_texts(kind="dense", max_batch_tokens=max_batch_tokens)
    for prompt, (reply,) in zip(
        prompts[2:6], texts.generate(prompts[2:6], [wish] * 4), strict=True
    ):
        ids = prompt + reply.token_ids
        memory = NaiveMemory(bench.decoder.cache_shapes)
        hidden = bench.decoder(torch.tensor(ids), memory.begin([memory.add()], [len(ids)]))
        expected = bench.decoder.project(hidden).log_softmax(-1)[len(prompt) - 1 : -1]
        assert [place.token_id for place in reply.logprobs] == reply.token_ids
        for place, row in zip(reply.logprobs, expected, strict=True):
            assert place.logprob == pytest.approx(row[place.token_id].item(), abs=1e-4)
            assert [i for i, _ in place.top] == row.topk(5).indices.tolist()
            assert [p for _, p in place.top] == pytest.approx(row.topk(5).values.tolist(), abs=1e-4)
        total = sum(place.logprob for place in reply.logprobs)
        assert reply.cumulative_logprob == pytest.approx(total)


def test_logprobs_are_not_kept_where_nobody_asked(open_texts, prompts):
    ((reply,),) = open_texts().generate([prompts[0]], [SamplingConfig(max_new_tokens=2)])
    assert reply.logprobs is None
    assert reply.cumulative_logprob is None


def test_a_penalty_sees_earlier_turns_and_counts_only_the_reply(bench, prompts):
    """The edits of a second turn: everything before it in the counts, nothing of it counted."""
    engine = bench.open()
    first = engine.wait_for(
        engine.add(prompts[3], SamplingConfig(max_new_tokens=3, presence_penalty=1.0), keep=True)
    )
    wish = SamplingConfig(max_new_tokens=2, repetition_penalty=1.2)
    number = engine.add([7, 8], wish, sequence=first.sequence)
    request = engine._requests[number]
    engine.step()
    counts = request.edits.seen
    assert set(counts.token_ids.tolist()) == {*prompts[3], *first.token_ids, 7, 8} | set(
        request.thread.token_ids
    )
    assert counts.counts.sum() == 1


def test_abort_ends_all_replies_and_gives_everything_back(open_texts, prompts):
    texts = open_texts()
    wish = SamplingConfig(n=3, max_new_tokens=None, ignore_eos=True, temperature=1.0)
    request, other = texts.add(prompts[3], wish), texts.add(prompts[2], wish)
    texts.step()
    pieces = texts.abort(request)
    assert [piece.output.finish_reason for piece in pieces] == ["aborted"] * 3
    assert texts.abort(request) == []
    assert len(texts.abort(other)) == 3
    assert is_whole(texts)


@pytest.fixture
def _felt_interrupts():
    """Ctrl-C as in a terminal: a shell starts background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_felt_interrupts")
@pytest.mark.parametrize("entrance", ["texts", "engine"])
def test_ctrl_c_gives_everything_back(open_texts, prompts, entrance):
    """It comes in the middle of the second step, and is felt when that step is whole."""
    texts = open_texts()
    num_steps, step = 0, texts.engine.step

    def interrupted():
        nonlocal num_steps
        num_steps += 1
        if num_steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    texts.engine.step = interrupted
    wish = SamplingConfig(max_new_tokens=None, ignore_eos=True)
    generate = {"texts": texts.generate, "engine": texts.engine.generate}[entrance]
    with pytest.raises(KeyboardInterrupt):
        generate(prompts, [wish] * len(prompts))
    assert num_steps == 2
    assert is_whole(texts)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_felt_interrupts")
def test_a_second_ctrl_c_is_not_held_back(open_texts, prompts):
    texts = open_texts()

    def stuck():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still here")

    texts.engine.step = stuck
    with pytest.raises(KeyboardInterrupt):
        texts.generate(prompts, [SamplingConfig()] * len(prompts))
    assert is_whole(texts)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"logit_bias": {97: 1.0}}, "logit_bias has token id 97; the model knows ids 0 to 96"),
        ({"stop_token_ids": [200]}, "stop_token_ids has token id 200; the model knows"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused_and_nothing_is_taken(open_texts, wish, message):
    texts = open_texts()
    with pytest.raises(ValueError, match=message):
        texts.generate([[7], [8]], [SamplingConfig(), SamplingConfig(**wish)])
    assert is_whole(texts)


def test_the_engine_itself_takes_one_reply_a_request(bench):
    with pytest.raises(ValueError, match=r"SamplingConfig.n is 2; the engine's requests are one"):
        bench.open().add([7], SamplingConfig(n=2))
