"""Common words: as often as asked for, scored by the share that is found."""

import re
from collections import Counter

import pytest

from snello.evaluation.tasks.registry import open_task


def ask(**options):
    return open_task("common-words", encode=str.split, **options)


def test_the_reference_is_what_comes_most_often():
    (question,) = ask(lengths=(1200,), samples=1).pose(None, 0)
    prompt = question.messages[0]["content"]
    assert 1190 <= len(prompt.split()) <= 1200
    listed = re.findall(r"(\d+)\. ([a-z]+)", prompt)
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    times = Counter(word for _, word in listed)
    assert set(times.values()) == {30, 3}
    assert {word for word, count in times.items() if count == 30} == set(question.reference)
    assert len(question.reference) == 10


def test_the_score_is_the_share_that_was_found():
    task = ask(lengths=(800,), samples=1, num_common=4)
    (question,) = task.pose(None, 0)
    words = question.reference
    listed = "\n".join(f"{i}. {word.title()}" for i, word in enumerate(words, start=1))
    assert task.judge(question, task.read(question, f"The top 4 are:\n{listed}")) == 1.0
    assert task.judge(question, task.read(question, words[0])) == 0.25
    assert task.judge(question, task.read(question, f"<think>{listed}")) == 0.0


def test_short_lists_need_smaller_counts():
    with pytest.raises(ValueError, match="a prompt of 300 tokens was asked for"):
        ask(lengths=(300,)).pose(1, 0)
    assert ask(lengths=(300,), common_times=6, rare_times=1).pose(1, 0)
    with pytest.raises(ValueError, match="come 3 times and others 3 times"):
        ask(common_times=3).pose(1, 0)
