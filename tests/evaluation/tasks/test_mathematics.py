r"""AIME, MATH-500, GSM8K on made-up rows in the layouts that the data sets have."""

import json

import pytest

from snello.evaluation.tasks.mathematics import INSTRUCTION, read_reference
from snello.evaluation.tasks.registry import open_task

LAYOUTS = {
    "aime24": {"id": 1, "problem": "What is 200 + 4?", "answer": "204"},
    "aime25": {
        "prompt": [{"role": "user", "content": "What is 200 + 4?"}],
        "reward_model": {"ground_truth": "204"},
    },
    "math500": {"problem": "What is 200 + 4?", "answer": "204", "subject": "Algebra"},
    "gsm8k": {"question": "What is 200 + 4?", "answer": "200 and <<200+4=204>>4 more.\n#### 204"},
}


@pytest.fixture(params=LAYOUTS)
def task(request, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(LAYOUTS[request.param]))
    return open_task(request.param, source=str(path))


def test_a_row_becomes_a_question(task):
    (question,) = task.pose(None, 0)
    assert question.name == f"{task.name}/0"
    assert question.messages == ({"role": "user", "content": f"What is 200 + 4?\n{INSTRUCTION}"},)
    assert question.reference == "204"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (r"<think>\boxed{7}</think> The answer is \boxed{204}.", 1.0),
        (r"\boxed{204.0}", 1.0),
        (r"\boxed{ 0204 }", 1.0),
        (r"<think>\boxed{204}</think> The answer is \boxed{7}.", 0.0),
        (r"<think>\boxed{204}", 0.0),
        (r"\boxed{}", 0.0),
        ("I do not know.", 0.0),
    ],
)
def test_the_last_box_after_the_thought_is_judged(task, reply, score):
    pytest.importorskip("math_verify")
    (question,) = task.pose(None, 0)
    assert task.judge(question, task.read(question, reply)) == score


def test_only_gsm8k_takes_a_number_without_a_box(task):
    (question,) = task.pose(None, 0)
    answer = task.read(question, "200 and 4 more: 204 apples.")
    assert answer == ("204" if task.name == "gsm8k" else None)


def test_equal_answers_vote_together(task):
    (question,) = task.pose(None, 0)
    replies = [r"\boxed{\frac{408}{2}}", r"\boxed{204}", r"so \boxed{204.}"]
    assert {task.read(question, reply) for reply in replies} == {"204"}


def test_other_columns_can_be_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ask": "1?", "solved": "x #### 1,234"}')
    task = open_task("aime24", source=str(path), columns={"problem": "ask", "answer": "solved"})
    assert task.pose(1, 0)[0].reference == "1234"
    with pytest.raises(ValueError, match="row 1: the columns are 'ask', 'solved'"):
        open_task("aime24", source=str(path)).pose(1, 0)


def test_questions_keep_their_names_in_any_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"problem": f"{i}?", "answer": str(i)} for i in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = open_task("math500", source=str(path))
    asked = {seed: task.pose(None, seed) for seed in (0, 1)}
    assert [q.name for q in asked[0]] != [q.name for q in asked[1]]
    assert sorted(asked[0], key=str) == sorted(asked[1], key=str)
    assert all(q.name == f"math500/{q.reference}" for q in asked[0])


def test_the_reference_of_a_solution():
    assert read_reference("so it is\n#### 12,000") == "12000"
    assert read_reference(r" \frac{1}{2} ") == r"\frac{1}{2}"
