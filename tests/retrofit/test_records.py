"""Records of every known shape, and the line that a bad one gets."""

import json

import pytest

from snello.config.retrofit import MixtureSettings
from snello.retrofit.records import Exchange, open_source, read_record

MIXTURE = MixtureSettings(kinds=("ledger",), levels=(1,))
USER = {"role": "user", "content": "one and one?"}
REPLY = {"role": "assistant", "content": "two"}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, REPLY]},
        {"prompt": "one and one?", "response": "two"},
        {"prompt": [USER], "completion": "two"},
        {"problem": "one and one?", "solution": "two"},
        {"problem": "one and one?", "generations": ["two", "three"]},
        {
            "problem": "one and one?",
            "generations": ["three", "two"],
            "correctness_math_verify": [False, True],
        },
    ],
)
def test_every_known_shape_of_a_conversation_is_the_same_exchange(record):
    assert read_record(record, "here") == Exchange(messages=(USER, REPLY))


def test_text_and_ids_are_taken_as_they_are():
    assert read_record({"text": "once"}, "here") == Exchange(text="once")
    assert read_record({"prompt_ids": [1], "reply_ids": [2, 3]}, "here") == Exchange(
        prompt_ids=(1,), reply_ids=(2, 3)
    )


def test_a_problem_whose_generations_are_all_wrong_is_left_out(tmp_path):
    wrong = {"problem": "a", "generations": ["b"], "correctness_math_verify": [False]}
    source = open_source(write_lines(tmp_path / "a.jsonl", wrong, {"text": "c"}), MIXTURE)
    assert source.size == 1
    assert source.exchange(0) == Exchange(text="c")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"holds no record to train on"),
        ('{"text": "a"}\n{"text": \n', r"line 2: not a JSON object"),
        ('{"text": "a"}\n\n', r"line 2: not a JSON object"),
        ('{"text": "a"}\n[1]\n', r"line 2: a record is list"),
        ('{"words": "a"}\n', r"line 1: the record has 'words'; it needs 'messages'"),
        ('{"text": ""}\n', r"line 1: text is ''; it must be text that is not empty"),
        ('{"prompt": "a", "response": 3}\n', r"line 1: response is '3'"),
        ('{"messages": [{"role": "user"}]}\n', r"line 1: messages holds .* needs role and content"),
        ('{"prompt_ids": ["a"], "reply_ids": []}\n', r"line 1: prompt_ids is .* token ids"),
    ],
)
def test_a_bad_file_gets_one_line_with_the_number_of_the_bad_one(tmp_path, content, complaint):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        open_source(str(path), MIXTURE)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_gets_one_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "\xff\xfe"}\n')
    with pytest.raises(ValueError, match="line 1: not a JSON object"):
        open_source(str(path), MIXTURE)


def test_a_missing_file_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no data file"):
        open_source(str(tmp_path / "none.jsonl"), MIXTURE)
    (tmp_path / "data.csv").write_text("a")
    with pytest.raises(ValueError, match=r"neither \.jsonl nor \.parquet"):
        open_source(str(tmp_path / "data.csv"), MIXTURE)


def test_parquet_is_read_like_jsonl(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), MIXTURE)
    assert source.exchange(1) == Exchange(text="b")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="not a whole parquet file"):
        open_source(str(tmp_path / "b.parquet"), MIXTURE)


def test_a_hub_name_without_network_gets_one_line():
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="no file, and the hub did not give") as caught:
        open_source("nobody/has-such-a-data-set", MIXTURE)
    assert "\n" not in str(caught.value)


def test_bundled_problems_never_end_and_depend_on_the_number_alone():
    source = open_source("bundled", MIXTURE)
    assert source.size is None
    one = source.exchange(123456)
    assert one == open_source("bundled", MIXTURE).exchange(123456)
    assert one != source.exchange(123457)
    assert one.messages[-1]["content"].startswith("<think>")


def test_an_unknown_kind_of_problem_is_refused_at_once():
    with pytest.raises(ValueError, match=r"kinds has .riddle.; known: ledger"):
        open_source("bundled", MixtureSettings(kinds=("riddle",)))
