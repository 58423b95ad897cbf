"""The offline model, as a Python program uses it."""

import jaxtyping
import pytest

import snello
from snello.config.engine import EngineConfig
from snello.engine.build import serve

SHORT = snello.SamplingParams(max_new_tokens=6)
TEXTS = ["heron holds 3.", "otter", "the calm bell glows 4 times above the gate."]


@pytest.fixture(scope="module")
def llm(tiny_adapter):
    return snello.LLM(str(tiny_adapter), kv_memory="64MiB", max_sequences=8)


@pytest.fixture
def unchecked():
    """Let wrong types through to our own messages, as they are outside of tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def is_whole(llm):
    llm.texts.engine.memory.check()
    return llm.texts.engine.memory.num_bytes_in_use == 0 and not llm.texts.is_busy


def test_prompts_are_answered_in_order_as_the_engine_does(llm, tiny_adapter):
    requests = llm.generate(TEXTS, SHORT, progress=False)
    served = serve(tiny_adapter, EngineConfig())
    ids = [served.codec.encode(text) for text in TEXTS]
    completions = served.engine.generate(ids, SHORT)
    assert [request.prompt for request in requests] == TEXTS
    assert [request.prompt_token_ids for request in requests] == ids
    for request, completion in zip(requests, completions, strict=True):
        (reply,) = request.outputs
        assert reply.token_ids == completion.token_ids
        assert reply.text == served.codec.decode(completion.token_ids)
        assert reply.finish_reason == completion.finish_reason
        assert (reply.kv_reads, reply.factor) == (completion.kv_reads, completion.factor)
        assert reply.peak_live_tokens == completion.peak_live_tokens > 0
        assert reply.refusal is None
    assert is_whole(llm)


def test_a_base_with_an_adapter_is_the_adapter(llm, tiny_folder, tiny_adapter):
    both = snello.LLM(str(tiny_folder), str(tiny_adapter), kv_memory=2**26, memory="sparse")
    ids = [r.outputs[0].token_ids for r in both.generate(TEXTS, SHORT, progress=False)]
    assert ids == [r.outputs[0].token_ids for r in llm.generate(TEXTS, SHORT, progress=False)]


def test_kv_memory_is_the_size_of_the_pool(llm, tiny_adapter):
    wide = snello.LLM(str(tiny_adapter), kv_memory="128MiB").texts.engine.memory.store.pool
    pool = llm.texts.engine.memory.store.pool
    assert wide.num_pages == pytest.approx(2 * pool.num_pages, rel=0.01)


def test_one_prompt_may_stand_alone_as_text_or_as_ids(llm):
    (text,) = llm.generate(TEXTS[0], SHORT)
    (ids,) = llm.generate(text.prompt_token_ids, SHORT)
    (listed,) = llm.generate([text.prompt_token_ids], SHORT)
    assert ids.prompt is None
    assert text.outputs[0].token_ids == ids.outputs[0].token_ids == listed.outputs[0].token_ids
    assert llm.generate([], SHORT) == []


def test_each_prompt_may_have_its_own_wish(llm):
    long = snello.SamplingParams(max_new_tokens=9, ignore_eos=True, n=2, temperature=1.0, seed=1)
    first, second = llm.generate(TEXTS[:2], [SHORT, long])
    assert (len(first.outputs), len(second.outputs)) == (1, 2)
    assert [len(reply.token_ids) for reply in second.outputs] == [9, 9]
    assert second.outputs[0].token_ids != second.outputs[1].token_ids


def test_chat_renders_the_template_and_takes_one_or_several_conversations(llm):
    messages = [{"role": "user", "content": " what is heron?"}]
    (alone,) = llm.chat(messages, SHORT)
    assert alone.prompt == "<|user|> what is heron?<|end|><|assistant|><think>"
    assert alone.prompt_token_ids == llm.texts.codec.encode_chat(messages)
    several = llm.chat([messages, messages], SHORT)
    assert [r.outputs[0].text for r in several] == [alone.outputs[0].text] * 2


def test_a_stop_string_cuts_the_text(llm):
    free = snello.SamplingParams(max_new_tokens=30, ignore_eos=True)
    text = llm.generate(TEXTS[0], free)[0].outputs[0].text
    stop = text[7:9]
    wish = snello.SamplingParams(max_new_tokens=30, ignore_eos=True, stop=stop)
    (reply,) = llm.generate(TEXTS[0], wish)[0].outputs
    assert reply.text == text[: text.index(stop)]
    assert reply.stop_reason == stop


def test_a_bar_is_shown_on_stderr_only_if_wanted(llm, monkeypatch, capsys):
    llm.generate(TEXTS[0], SHORT, progress=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    llm.generate(TEXTS[0], SHORT)
    captured = capsys.readouterr()
    assert "generating" in captured.err
    assert "tokens/s" in captured.err
    assert captured.out == ""


def test_a_request_that_can_never_fit_is_told_and_the_others_are_answered(tiny_folder):
    """One MiB is 512 pages of 16 slots; 4 heads hold 252 tokens in 64, so let none be enough."""
    llm = snello.LLM(str(tiny_folder), kv_memory="1MiB", page_tokens=4096)
    (reply,) = llm.generate(TEXTS[0], SHORT)[0].outputs
    assert reply.finish_reason == "refused"
    assert "does not fit in memory" in reply.refusal
    assert (reply.text, reply.token_ids) == ("", [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda llm: llm.generate(7), "prompts are of the type int; give one, or a list"),
        (lambda llm: llm.generate([{"a": 1}]), "a prompt is of the type dict; give a text or"),
        (lambda llm: llm.generate([["a"]]), "a prompt is of the type list of str; give a text"),
        (lambda llm: llm.generate(["heron", ""]), "the prompt has no tokens"),
        (lambda llm: llm.generate("heron " * 300), "the model's context holds 256"),
        (lambda llm: llm.generate(TEXTS, [SHORT]), "1 sampling settings came for 3 prompts"),
        (lambda llm: llm.chat("heron"), "conversations are of the type str"),
        (lambda llm: llm.chat(["heron"]), "a conversation is of the type str; give a list of"),
    ],
)
def test_mistakes_get_one_line_and_nothing_is_computed(llm, unchecked, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(llm)
    assert "\n" not in str(caught.value)
    assert is_whole(llm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_memory": "lots"}, "'lots' is no amount of memory"),
        ({"kv_memory": 1000}, "kv_memory is 1000; it must be at least 1 MiB"),
        ({"gpus": 2}, "gpus is no setting of an engine; known: kv_memory, device, dtype"),
        ({"max_sequences": 0}, "EngineConfig.max_sequences is 0"),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        snello.LLM("/nowhere", **settings)


def test_what_the_front_door_does_not_have_is_told():
    with pytest.raises(AttributeError, match="snello has no 'LMM'; known: LLM, AsyncLLM"):
        _ = snello.LMM
