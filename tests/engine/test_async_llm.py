"""Many streams on one engine: the same tokens, nothing held after anything that can happen."""

import asyncio
import gc
import threading
import time
from contextlib import aclosing

import pytest

import snello
from snello.engine.loop import EngineStopped

SHORT = snello.SamplingParams(max_new_tokens=8, ignore_eos=True)
ENDLESS = snello.SamplingParams(max_new_tokens=None, ignore_eos=True)
TEXTS = ["heron holds 3.", "otter", "the calm bell glows 4 times above the gate."]


@pytest.fixture
def llm(tiny_adapter):
    made = snello.AsyncLLM(str(tiny_adapter), kv_memory="64MiB", max_sequences=8)
    yield made
    made._loop.close()
    assert is_whole(made)


def texts_of(llm):
    return llm._loop.texts


def is_whole(llm):
    texts = texts_of(llm)
    texts.engine.memory.check()
    return texts.engine.memory.num_bytes_in_use == 0 and not texts.is_busy and not texts._replies


async def until(condition):
    """Wait for the thread, at most ten seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen")


async def collect(llm, prompt, sampling):
    return [piece async for piece in llm.stream(prompt, sampling)]


def test_many_streams_at_once_give_what_each_gives_alone(llm, tiny_adapter):
    wishes = [
        SHORT,
        snello.SamplingParams(temperature=1.0, seed=4, n=2, max_new_tokens=12, logprobs=True),
        snello.SamplingParams(max_new_tokens=40, ignore_eos=True, stop=[" ", "e"], seed=1),
    ] * 3
    prompts = TEXTS * 3

    async def all_at_once():
        work = [collect(llm, p, w) for p, w in zip(prompts, wishes, strict=True)]
        return await asyncio.gather(*work)

    streams = asyncio.run(all_at_once())
    offline = snello.LLM(str(tiny_adapter), kv_memory="64MiB")
    expected = offline.generate(prompts, wishes, progress=False)
    for pieces, request in zip(streams, expected, strict=True):
        for reply in request.outputs:
            mine = [piece for piece in pieces if piece.index == reply.index]
            assert "".join(piece.text for piece in mine) == reply.text
            assert [i for piece in mine for i in piece.token_ids] == reply.token_ids
            scored = [place.token_id for piece in mine for place in piece.logprobs]
            assert scored == [place.token_id for place in reply.logprobs or []]
            assert [piece.output is None for piece in mine] == [True] * (len(mine) - 1) + [False]
            assert mine[-1].output.finish_reason == reply.finish_reason
    assert is_whole(llm)


def test_generate_and_chat_give_whole_replies(llm):
    async def ask():
        wish = snello.SamplingParams(max_new_tokens=5, n=3, temperature=1.0, seed=2)
        replies = await llm.generate(TEXTS[0], wish)
        messages = [{"role": "user", "content": " what is heron?"}]
        pieces = [piece async for piece in llm.stream_chat(messages, SHORT)]
        return replies, pieces

    replies, pieces = asyncio.run(ask())
    assert [reply.index for reply in replies] == [0, 1, 2]
    assert pieces[-1].output.completion.num_prompt_tokens == len(
        texts_of(llm).codec.encode_chat([{"role": "user", "content": " what is heron?"}])
    )


@pytest.mark.parametrize("way", ["cancel", "break", "aclosing", "before the start"])
def test_who_leaves_gives_everything_back_and_disturbs_nobody(llm, way):
    async def leave():
        other = asyncio.create_task(collect(llm, TEXTS[1], SHORT))
        if way == "break":
            async for piece in llm.stream(TEXTS[2], ENDLESS):
                assert piece.output is None
                break
        elif way == "aclosing":
            async with aclosing(llm.stream(TEXTS[2], ENDLESS)) as stream:
                await anext(stream)
        else:
            task = asyncio.create_task(collect(llm, TEXTS[2], ENDLESS))
            if way == "cancel":
                await until(lambda: texts_of(llm).engine.memory.num_bytes_in_use > 0)
            else:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        pieces = await other
        await until(lambda: not texts_of(llm).is_busy and not texts_of(llm)._replies)
        assert is_whole(llm)
        assert not llm._loop._waiting
        assert len(await collect(llm, TEXTS[1], SHORT)) == len(pieces) == 8

    asyncio.run(leave())


def test_a_mistake_reaches_its_caller_alone(llm):
    async def ask():
        good = asyncio.create_task(collect(llm, TEXTS[0], SHORT))
        with pytest.raises(ValueError, match="the model's context holds 256"):
            await collect(llm, "heron " * 300, SHORT)
        with pytest.raises(ValueError, match="logit_bias has token id 9999"):
            await collect(llm, TEXTS[0], snello.SamplingParams(logit_bias={9999: 1.0}))
        assert len(await good) == 8

    asyncio.run(ask())


def test_a_fault_of_the_engine_reaches_all_who_wait_and_all_who_come(llm):
    async def ask():
        streams = [asyncio.create_task(collect(llm, text, ENDLESS)) for text in TEXTS]
        await until(lambda: len(texts_of(llm)._replies) == 3)

        def broken():
            raise MemoryError("no more")

        texts_of(llm).engine.step = broken
        for found in await asyncio.gather(*streams, return_exceptions=True):
            assert isinstance(found, EngineStopped)
            assert str(found) == "the engine failed (MemoryError: no more); open a new one."
            assert isinstance(found.__cause__, MemoryError)
        with pytest.raises(EngineStopped, match="the engine failed"):
            await collect(llm, TEXTS[0], SHORT)

    asyncio.run(ask())


def test_closing_ends_what_runs_and_refuses_what_comes(llm):
    async def ask():
        streams = [asyncio.create_task(collect(llm, text, ENDLESS)) for text in TEXTS]
        await until(lambda: len(texts_of(llm)._replies) == 3)
        await llm.close()
        for found in await asyncio.gather(*streams, return_exceptions=True):
            assert isinstance(found, EngineStopped)
            assert "the engine was closed" in str(found)
        with pytest.raises(EngineStopped, match="closed"):
            await collect(llm, TEXTS[0], SHORT)
        await llm.close()

    asyncio.run(ask())
    assert is_whole(llm)
    assert not llm._loop._thread.is_alive()


def test_a_context_closes_it(tiny_adapter):
    async def ask():
        async with snello.AsyncLLM(str(tiny_adapter), kv_memory="64MiB") as llm:
            await collect(llm, TEXTS[0], SHORT)
            return llm

    assert not asyncio.run(ask())._loop._thread.is_alive()


def test_a_dropped_one_ends_its_thread(tiny_adapter):
    thread = snello.AsyncLLM(str(tiny_adapter), kv_memory="64MiB")._loop._thread
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_an_event_loop_that_is_gone_gives_everything_back(llm):
    """Its request was never cancelled: the thread finds nobody to give the pieces to."""
    event_loop = asyncio.new_event_loop()
    stream = llm.stream(TEXTS[0], ENDLESS)
    event_loop.run_until_complete(anext(stream))
    event_loop.close()
    ended = time.monotonic() + 10
    while texts_of(llm).is_busy and time.monotonic() < ended:
        time.sleep(0.01)
    assert is_whole(llm)
    assert len(asyncio.run(collect(llm, TEXTS[1], SHORT))) == 8


def test_event_loops_in_several_threads_share_one_engine(llm):
    found = {}

    def ask(text):
        found[text] = asyncio.run(collect(llm, text, SHORT))

    threads = [threading.Thread(target=ask, args=(text,)) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(found[text]) for text in TEXTS] == [8, 8, 8]
