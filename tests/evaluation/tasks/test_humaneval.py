"""HumanEval on made-up rows: replies in all forms, run in the sandbox."""

import json

import pytest

from snello.evaluation.sandbox import run_python
from snello.evaluation.tasks.registry import open_task

PROMPT = (
    "from typing import List\n\n\ndef double(x: int) -> int:\n    return 2 * x\n\n\n"
    'def total(numbers: List[int]) -> int:\n    """ Add up twice each number. """\n'
)
ROW = {
    "task_id": "Made/0",
    "prompt": PROMPT,
    "entry_point": "total",
    "canonical_solution": "    return sum(map(double, numbers))\n",
    "test": "def check(f):\n    assert f([1, 2]) == 6\n    assert f([]) == 0\n",
}
WHOLE = "def total(numbers: List[int]) -> int:\n    return sum(map(double, numbers))\n"
RIGHT = {
    "chat": [
        f"<think>```python\nx\n```</think>\n```python\n{PROMPT}{ROW['canonical_solution']}```",
        f"```python\n{WHOLE}```",
        ROW["canonical_solution"],
        WHOLE,
    ],
    "text": [
        ROW["canonical_solution"],
        f"{ROW['canonical_solution']}\n\ndef other():\n    pass\n",
        f"{ROW['canonical_solution']}\nprint(total([1]))\n",
        f"{ROW['canonical_solution']}```\nThis adds up",
    ],
}
WRONG = [
    "    return sum(numbers)\n",
    "    raise SystemExit\n",
    "    import os\n    os._exit(0)\n",
    "    while True:\n        pass\n",
    "    import os\n    while True:\n        os.fork()\n",
    "    import socket\n    socket.create_connection(('127.0.0.1', 9))\n    return 6\n",
    "    open('/tmp/snello-evil', 'w').write('x')\n    return sum(map(double, numbers))\n",
    "    return (\n",
]


@pytest.fixture(params=["chat", "text"])
def task(request, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    return open_task("humaneval", source=str(path), form=request.param, wall_s=1.0)


@pytest.fixture
def _sandbox():
    try:
        run_python("pass")
    except ValueError as error:
        pytest.skip(str(error))


def test_the_form_of_the_question(task):
    (question,) = task.pose(None, 0)
    assert question.name == "Made/0"
    if task.form == "text":
        assert (question.text, question.messages) == (PROMPT, ())
    else:
        assert question.messages[0]["content"].endswith(PROMPT)
        assert question.text == ""


@pytest.mark.usefixtures("_sandbox")
def test_right_solutions_pass_in_any_form(task):
    (question,) = task.pose(None, 0)
    for reply in RIGHT[task.form]:
        assert task.judge(question, task.read(question, reply)) == 1.0, reply


@pytest.mark.usefixtures("_sandbox")
@pytest.mark.parametrize("reply", WRONG)
def test_wrong_and_harmful_ones_do_not(task, reply):
    (question,) = task.pose(None, 0)
    assert task.judge(question, task.read(question, reply)) == 0.0


def test_a_thought_without_end_is_no_answer(task):
    (question,) = task.pose(None, 0)
    assert task.read(question, f"<think>{WHOLE}") is None
    assert task.judge(question, None) == 0.0
