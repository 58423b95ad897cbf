"""From exchanges to ids: the chat template, where the reply starts, and traces of the base."""

import json

import pytest

from snello.bundled.tokenizer import build_tokenizer
from snello.config.retrofit import MixtureSettings, TraceSettings
from snello.retrofit.documents import open_writer
from snello.retrofit.records import Exchange, open_source
from snello.retrofit.runfolder import PARTIAL
from snello.retrofit.traces import TRACES, write_traces

MESSAGES = (
    {"role": "user", "content": "what is 1 + 1?"},
    {"role": "assistant", "content": "<think> 1 + 1</think> 2"},
)


@pytest.fixture
def writer(tiny_base):
    return open_writer(tiny_base, build_tokenizer().get_vocab_size())


def test_a_conversation_is_written_by_the_template_and_the_reply_starts_where_it_opens(writer):
    document = writer.write(Exchange(messages=MESSAGES))
    text = writer.tokenizer.decode(document.ids)
    assert text == "<|user|>what is 1 + 1?<|end|><|assistant|><think> 1 + 1</think> 2<|end|>"
    prompt = writer.tokenizer.decode(document.ids[: document.reply_start])
    assert prompt == "<|user|>what is 1 + 1?<|end|><|assistant|><think>"
    assert document.ids[: document.reply_start] == writer.write_prompt(Exchange(messages=MESSAGES))


def test_without_a_template_turns_are_joined_and_the_end_is_added(writer):
    writer.tokenizer.chat_template = None
    document = writer.write(Exchange(messages=MESSAGES))
    assert document.ids[-1] == writer.tokenizer.eos_token_id
    assert writer.tokenizer.decode(document.ids[: document.reply_start]) == "what is 1 + 1?"


def test_ids_that_the_model_has_not_are_refused(writer):
    with pytest.raises(ValueError, match="holds token id 900, but the model knows 694"):
        writer.write(Exchange(prompt_ids=(1,), reply_ids=(900,)))


def test_traces_go_on_at_the_next_batch_after_a_kill(writer, tmp_path):
    source = open_source("bundled", MixtureSettings(kinds=("ledger",), levels=(1,)))
    settings = TraceSettings(num_prompts=5, batch_sequences=2, replies_per_prompt=1)
    asked = []

    def generate(prompts, first):
        asked.append(first)
        return [[first + i, 2] for i in range(len(prompts))]

    first = tmp_path / "first"
    first.mkdir()
    whole = write_traces(first, source, writer, settings, generate).read_text()
    assert asked == [0, 2, 4]
    lines = whole.splitlines(keepends=True)
    (tmp_path / f".{TRACES}{PARTIAL}").write_text("".join(lines[:3]) + lines[3][:20])
    asked.clear()
    assert write_traces(tmp_path, source, writer, settings, generate).read_text() == whole
    assert asked == [2, 4]
    assert json.loads(lines[4])["reply_ids"] == [4, 2]
    asked.clear()
    write_traces(tmp_path, source, writer, settings, generate)
    assert asked == []
