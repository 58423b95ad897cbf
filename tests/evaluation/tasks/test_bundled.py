"""Fresh problems: repeatable, never trained on, in turns; replies judged by their end."""

import pytest

from snello.bundled.problems import KINDS
from snello.evaluation.tasks.bundled import FRESH_SEEDS, judge, pose_fresh
from snello.evaluation.tasks.registry import open_task


def test_the_same_seed_gives_the_same_problems_and_more_adds_at_the_end():
    few = pose_fresh(3, kinds=["ledger"], levels=[1], seed=5)
    many = pose_fresh(6, kinds=["ledger"], levels=[1], seed=5)
    assert few == many[:3]
    assert few != pose_fresh(3, kinds=["ledger"], levels=[1], seed=6)


def test_problems_are_fresh_and_differ():
    problems = pose_fresh(50, kinds=["ledger"], levels=[1], seed=0)
    assert all(problem.seed in FRESH_SEEDS for problem in problems)
    assert len({problem.question for problem in problems}) == 50


def test_kinds_and_levels_take_turns():
    problems = pose_fresh(5, kinds=["ledger", "chain_sum"], levels=[1, 2], seed=0)
    assert [(p.kind, p.level) for p in problems] == [
        ("ledger", 1),
        ("chain_sum", 1),
        ("ledger", 2),
        ("chain_sum", 2),
        ("ledger", 1),
    ]


@pytest.mark.parametrize(
    ("kinds", "levels", "expected"),
    [
        (["riddle"], [1], "unknown kind of problem 'riddle'; known: ledger"),
        (["ledger"], [7], "level is 7; it must be one of 1, 2"),
        ([], [1], "no level or no kind of problem; name one of ledger"),
        (["ledger"], [], "no level or no kind"),
    ],
)
def test_an_unknown_or_missing_choice_is_refused(kinds, levels, expected):
    with pytest.raises(ValueError, match=expected):
        pose_fresh(1, kinds=kinds, levels=levels, seed=0)


def test_only_a_right_answer_after_the_thought_counts():
    problem = pose_fresh(1, kinds=["ledger"], levels=[1], seed=0)[0]
    wrong = str((int(problem.answer) + 1) % 10)
    assert judge(problem, problem.reply)
    assert not judge(problem, f"{problem.thought}</think> {wrong}")
    assert not judge(problem, problem.thought)
    assert not judge(problem, "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_a_task_and_its_own_replies_are_right(kind):
    task = open_task(kind, level=(1, 2))
    questions = task.pose(4, 5)
    problems = pose_fresh(4, kinds=[kind], levels=[1, 2], seed=5)
    assert [question.reference for question in questions] == problems
    assert [list(question.messages) for question in questions] == [p.messages for p in problems]
    assert len({question.name for question in questions}) == 4
    for question, problem in zip(questions, problems, strict=True):
        assert task.judge(question, task.read(question, problem.reply)) == 1.0
        assert task.judge(question, task.read(question, f"</think> {problem.answer}1")) == 0.0
        assert task.read(question, problem.thought) is None
        assert task.read(question, "</think>") is None
        assert task.judge(question, None) == 0.0
        assert question.most_new_tokens > len(problem.reply.split())


def test_the_same_question_is_the_same_whatever_the_count():
    task = open_task("ledger", problems=7)
    assert list(task.pose(5, seed=1)[:2]) == list(task.pose(2, seed=1))
    assert len(task.pose(None, seed=1)) == 7
    with pytest.raises(ValueError, match="0 problems of ledger were asked for"):
        task.pose(0, 0)
