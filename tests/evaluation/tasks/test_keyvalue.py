"""Key-value retrieval: a JSON object, one key of it, made up or from a file."""

import json

import pytest

from snello.evaluation.tasks.registry import open_task


def ask(**options):
    return open_task("key-value", encode=str.split, **options)


def read_prompt(prompt):
    data = json.loads(prompt.split("JSON data:\n")[1].split("\n\nKey:")[0])
    return data, prompt.split('Key: "')[1].split('"')[0]


@pytest.mark.parametrize("depth", [0, 50, 100])
def test_the_pair_stands_at_its_depth(depth):
    (question,) = ask(lengths=(100,), depths=(depth,)).pose(None, 0)
    prompt = question.messages[0]["content"]
    assert 98 <= len(prompt.split()) <= 100
    data, key = read_prompt(prompt)
    assert data[key] == question.reference
    assert list(data).index(key) == round(depth / 100 * (len(data) - 1))


def test_pairs_of_a_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"ordered_kv_records": [["a", "1"], ["b", "2"]], "key": "b", "value": "2"}
    path.write_text(json.dumps(row))
    (question,) = ask(source=str(path), form="text").pose(None, 0)
    assert read_prompt(question.text) == ({"a": "1", "b": "2"}, "b")
    assert question.text.startswith("Extract the value corresponding to the specified key")
    assert question.text.endswith('{"a": "1",\n "b": "2"}\n\nKey: "b"\nCorresponding value:')
    assert question.reference == "2"


def test_the_last_uuid_counts():
    task = ask(lengths=(100,), depths=(50,))
    (question,) = task.pose(None, 0)
    data, key = read_prompt(question.messages[0]["content"])
    other = next(value for name, value in data.items() if name != key)
    for reply, score in (
        (f'The value of "{key}" is "{question.reference.upper()}".', 1.0),
        (f"<think>{question.reference}</think>{other}", 0.0),
        (question.reference[:-1], 0.0),
    ):
        assert task.judge(question, task.read(question, reply)) == score
