"""LiveCodeBench on made-up rows: both kinds of tests, packed as they are published."""

import base64
import json
import pickle
import zlib

import pytest

from snello.evaluation.sandbox import run_python
from snello.evaluation.tasks.livecodebench import Case, gather_tests, unpack_tests
from snello.evaluation.tasks.registry import open_task


def pack(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def make_row(kind, public, private, *, starter="", name=None):
    tests = [
        [{"input": i, "output": o, "testtype": kind} for i, o in pairs]
        for pairs in (public, private)
    ]
    return {
        "question_id": f"made-{kind}",
        "contest_date": "2024-08-03T00:00:00",
        "question_content": "Add them.",
        "starter_code": starter,
        "public_test_cases": json.dumps(tests[0]),
        "private_test_cases": pack(json.dumps(tests[1])),
        "metadata": json.dumps({"func_name": name} if name else {}),
    }


STDIN = make_row("stdin", [("1 2\n", "3\n")], [("5 6\n", "11"), ("0.5 1\n", "1.50")])
STARTER = "class Solution:\n    def add(self, x: List[int], y: int) -> List[int]:\n        "
FUNCTIONAL = make_row(
    "functional", [("[1, 2]\n3", "[4, 5]")], [("[]\n7", "[]")], starter=STARTER, name="add"
)
READS = "```python\nprint(sum(map(float, input().split())))\n```"
CALLS = f"```python\n{STARTER}return [y + each for each in x]\n```"


@pytest.fixture
def ask(tmp_path):
    def ask_one(row):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row))
        task = open_task("livecodebench", source=str(path), wall_s=2.0)
        return task, task.pose(None, 0)[0]

    return ask_one


@pytest.fixture
def _sandbox():
    try:
        run_python("pass")
    except ValueError as error:
        pytest.skip(str(error))


def test_the_prompt_has_the_starter_code_or_asks_for_stdin(ask):
    _, question = ask(FUNCTIONAL)
    assert question.messages[1]["content"].startswith("### Question:\nAdd them.\n\n### Format: You")
    assert f"```python\n{STARTER}\n```" in question.messages[1]["content"]
    _, question = ask(STDIN)
    assert "```python\n# YOUR CODE HERE\n```\n\n### Answer:" in question.messages[1]["content"]
    assert question.name == "livecodebench/made-stdin"


@pytest.mark.parametrize(
    ("since", "before", "num"),
    [
        (None, None, 3),
        ("2024-08-03", None, 2),
        (None, "2024-08-03", 1),
        ("2024-08-01", "2025-01-01", 1),
    ],
)
def test_contests_of_a_time(tmp_path, since, before, num):
    path = tmp_path / "rows.jsonl"
    days = ("2023-05-07", "2024-08-03T00:00:00", "2025-01-11T00:00:00")
    path.write_text("\n".join(json.dumps({**STDIN, "contest_date": day}) for day in days))
    task = open_task("livecodebench", source=str(path), since=since, before=before)
    assert len(task.pose(None, 0)) == num
    with pytest.raises(ValueError, match=r"'August' is no day; write it as 2024-08-01"):
        open_task("livecodebench", source=str(path), since="August").pose(None, 0)


def test_public_tests_come_first(ask):
    _, question = ask(STDIN)
    assert question.reference.cases[:2] == (
        Case("1 2\n", "3\n", "stdin"),
        Case("5 6\n", "11", "stdin"),
    )
    assert ask(FUNCTIONAL)[1].reference.function == "add"


@pytest.mark.usefixtures("_sandbox")
@pytest.mark.parametrize(
    ("row", "reply", "score"),
    [
        (STDIN, f"<think>hm</think>{READS}", 1.0),
        (STDIN, READS.replace("float", "int"), 0.0),
        (STDIN, READS.replace("sum", "max"), 0.0),
        (STDIN, READS.replace("print(", "print('=', "), 0.0),
        (STDIN, f"<think>{READS}", 0.0),
        (STDIN, "```python\nwhile True: pass\n```", 0.0),
        (FUNCTIONAL, CALLS, 1.0),
        (FUNCTIONAL, CALLS.replace("return [y + each for each in x]", "return (y,) * 0"), 0.0),
        (FUNCTIONAL, CALLS.replace("[y + each for each in x]", "tuple(y + i for i in x)"), 1.0),
        (FUNCTIONAL, CALLS.replace("[y + each for each in x]", "{1}"), 0.0),
        (FUNCTIONAL, "```python\ndef add(x, y):\n    return [y + each for each in x]\n```", 1.0),
        (FUNCTIONAL, f"```python\nimport atexit\natexit.register(print, 1)\n{CALLS[10:]}", 0.0),
        (FUNCTIONAL, "```python\nprint('[4, 5]')\nraise SystemExit\n```", 0.0),
    ],
)
def test_every_test_must_pass(ask, row, reply, score):
    task, question = ask(row)
    assert task.judge(question, task.read(question, reply)) == score


def test_packed_tests_hold_texts_alone():
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    tests = [{"input": "1", "output": "1", "testtype": "stdin"}]
    assert unpack_tests(tests, "x") == unpack_tests(pack(json.dumps(tests)), "x") == tests
    for bad in (pack(Evil()), pack(7), "no base64", base64.b64encode(b"no zlib").decode(), "[1"):
        with pytest.raises(ValueError, match="row 3: tests cannot be unpacked"):
            unpack_tests(bad, "row 3")


def test_a_row_without_tests_is_refused():
    with pytest.raises(ValueError, match="made-stdin has no tests"):
        gather_tests(make_row("stdin", [], []))
