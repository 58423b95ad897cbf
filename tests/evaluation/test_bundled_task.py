"""Bundled problems behind the interface of tasks: posed, read and judged like before."""

import pytest

from snello.evaluation.bundled_task import find_tasks
from snello.evaluation.task import Task


def test_a_kind_is_a_task_and_its_own_replies_are_right():
    (task,) = find_tasks(["ledger"], [1, 2])
    assert isinstance(task, Task)
    questions = task.pose(4, seed=5)
    assert [question.reference.level for question in questions] == [1, 2, 1, 2]
    assert len({question.name for question in questions}) == 4
    for question in questions:
        answer = task.read(question, question.reference.reply)
        assert answer == question.reference.answer
        assert task.judge(question, answer) == 1.0
        assert task.judge(question, "12") == 0.0
        assert task.judge(question, None) == 0.0
        assert question.most_new_tokens > len(question.reference.reply.split())


def test_a_thought_without_an_end_is_no_answer():
    (task,) = find_tasks(["ledger"], [1])
    (question,) = task.pose(1, seed=0)
    assert task.read(question, " otter 3>heron = 3,") is None
    assert task.read(question, "</think>") is None


def test_the_same_question_is_the_same_whatever_the_count():
    (task,) = find_tasks(["ledger"], [1])
    assert list(task.pose(5, seed=1)[:2]) == list(task.pose(2, seed=1))
    assert len(task.pose(None, seed=1)) == 200


def test_levels_can_be_tasks_of_their_own():
    tasks = find_tasks(["ledger:level=1", "ledger:level=3"], [2])
    assert [task.name for task in tasks] == ["ledger:level=1", "ledger:level=3"]
    assert [task.pose(1, seed=0)[0].reference.level for task in tasks] == [1, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["riddles"], "unknown kind of problem 'riddles'"),
        (["ledger", "ledger"], "the task ledger is named twice"),
        (["ledger:size=3"], "the task ledger:size=3 sets 'size'; it has one setting"),
        (["ledger:level=high"], "has the setting 'level=high'; write KEY=COUNT"),
    ],
)
def test_what_is_no_task_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_tasks(names, [1])
