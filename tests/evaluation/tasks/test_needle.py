"""The needle: at its depth, in a prompt of its length, found or not."""

import re

import pytest

from snello.evaluation.tasks.registry import open_task


def encode(text):
    return re.findall(r"\w+|[^\w\s]", text)


def ask(name="needle", **options):
    return open_task(name, encode=encode, **options)


def test_the_grid_has_a_question_for_each_place():
    questions = ask(lengths=(200, 400), depths=(0, 50, 100), samples=2).pose(None, 0)
    assert len({question.name for question in questions}) == 12
    assert sum(question.name.startswith("needle/400/50/") for question in questions) == 2


@pytest.mark.parametrize("depth", [0, 25, 100])
def test_length_and_depth_are_as_asked_for(depth):
    (question,) = ask(lengths=(1000,), depths=(depth,)).pose(None, 7)
    prompt = question.messages[0]["content"]
    assert 985 <= len(encode(prompt)) <= 1000
    text = prompt.split("\n")[1]
    before, _, after = text.partition("One of the special magic numbers for")
    assert question.reference in after.split(".")[0]
    share = len(before) / len(text.replace(after.split(".")[0], ""))
    assert abs(share - depth / 100) < 0.05
    assert question.messages[0]["content"].count(question.reference) == 1


def test_other_needles_look_the_same():
    (question,) = ask("multi-key-needle", lengths=(600,), depths=(50,)).pose(None, 0)
    found = re.findall(r"numbers for ([\w-]+) is: (\d{7})\.", question.messages[0]["content"])
    assert len(dict(found)) == 4
    key = question.messages[0]["content"].rpartition("number for ")[2].split()[0]
    assert dict(found)[key] == question.reference


def test_the_same_seed_gives_the_same_questions():
    task = ask(lengths=(300,), depths=(0, 100), samples=3)
    assert task.pose(None, 1) == task.pose(None, 1)
    assert task.pose(2, 1) == task.pose(None, 1)[:2]
    assert {q.reference for q in task.pose(None, 1)} != {q.reference for q in task.pose(None, 2)}


def test_base_models_continue_a_text(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("It was a night. " * 9)
    (question,) = ask(lengths=(200,), depths=(50,), form="text", text=book).pose(None, 0)
    assert question.messages == ()
    assert "It was a night. One of the special" in question.text
    assert question.text.endswith("mentioned in the provided text is")
    assert question.most_new_tokens == 128


def test_the_last_number_after_the_thought_counts():
    task = ask(lengths=(200,), depths=(0,))
    (question,) = task.pose(None, 0)
    right = question.reference
    wrong = str(int(right) % 9_000_000 + 1_000_000)
    spaced = f"{int(right):,}"
    for reply, score in (
        (f"It is {right}.", 1.0),
        (f"It is {spaced}.", 1.0),
        (f"<think>{wrong}</think>{right}", 1.0),
        (f"<think>{right}</think>{wrong}", 0.0),
        (f"{right}0", 0.0),
        ("none", 0.0),
    ):
        assert task.judge(question, task.read(question, reply)) == score


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lengths": (20,)}, "a prompt of 20 tokens was asked for"),
        ({"lengths": (0,)}, r"the grid has lengths \[0\]"),
        ({"lengths": ()}, r"lengths are tokens"),
        ({"depths": (101,)}, r"depths \[101\]"),
        ({"samples": 0}, "0 samples"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        ask(**{"lengths": (300,), **options}).pose(1, 0)
