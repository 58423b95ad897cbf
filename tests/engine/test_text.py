"""Texts and ids: chat turns that repeat nothing, streams that never show half a character."""

import json
import shutil

import pytest

from snello.engine.text import TextCodec, TextStream


@pytest.fixture(scope="module")
def codec(tiny_folder):
    return TextCodec(tiny_folder)


def test_a_chat_ends_where_the_reply_begins(codec):
    ids = codec.encode_chat([{"role": "user", "content": " what is heron?"}])
    texts = codec.decode_each(ids)
    assert texts[0] == "<|user|>"
    assert texts[-2:] == ["<|assistant|>", "<think>"]


def test_a_next_turn_continues_the_same_text(codec):
    """First turn, reply and next turn together are what the template writes for all of it."""
    first = {"role": "user", "content": " heron holds 3."}
    reply = " heron 3"
    asked = codec.encode_chat([first])
    said = codec.encode(reply)
    more = codec.encode_next_turn(" what is heron?", previous_ids=said)
    rest = codec.decode_each(more)
    assert rest[0] == "<|end|>"
    assert rest[1] == "<|user|>"
    ended = codec.encode_next_turn(" what is heron?", previous_ids=[*said, codec.eos_ids[0]])
    assert ended == more[1:]
    assert len(asked) + len(said) + len(more) > len(codec.encode_chat([first]))


def test_special_tokens_are_not_shown(codec):
    ids = [*codec.encode(" heron holds 3."), codec.eos_ids[0]]
    assert codec.decode(ids) == " heron holds 3."


def test_a_stream_adds_up_to_the_text(codec):
    ids = codec.encode(" heron holds 3. what is heron + otter?")
    stream = TextStream(codec.decode)
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) == codec.decode(ids)


def decode_bytes(token_ids):
    """One byte a token, as byte-level tokenizers end up with for rare characters."""
    return bytes(token_ids).decode("utf-8", errors="replace")


def test_a_stream_waits_for_all_bytes_of_a_character():
    text = "a\u00e9\u4e16b\U0001f600c"
    stream = TextStream(decode_bytes)
    pieces = [stream.push(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_end_tokens_come_from_the_generation_config_first(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert TextCodec(folder).eos_ids == (2, 7)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer could be read from") as caught:
        TextCodec(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_template_cannot_chat(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").unlink()
    codec = TextCodec(folder)
    assert not codec.has_chat
    with pytest.raises(ValueError, match="has no chat template"):
        codec.encode_chat([{"role": "user", "content": "?"}])
