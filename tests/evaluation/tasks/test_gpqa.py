"""GPQA on made-up rows: options in a drawn order, letters read from replies."""

import csv
import gzip

import pytest

from snello.evaluation.tasks.registry import open_task

ROWS = [
    {
        "Record ID": f"r{i}",
        "Question": f"Which sign stands for the made-up thing number {i}?\n",
        "Correct Answer": f" right {i}\n",
        "Incorrect Answer 1": f"wrong {i} a",
        "Incorrect Answer 2": f"wrong {i} b",
        "Incorrect Answer 3": f"wrong {i} c",
    }
    for i in range(20)
]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "gpqa_diamond.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    return open_task("gpqa-diamond", source=str(path))


def test_the_letter_is_where_the_right_option_stands(task):
    questions = task.pose(None, 0)
    assert {question.reference for question in questions} == set("ABCD")
    for question in questions:
        number = question.name.partition("/")[2]
        lines = question.messages[0]["content"].splitlines()
        assert lines[-4:][ord(question.reference) - ord("A")] == (
            f"{question.reference}) right {number}"
        )
        assert sorted(line[3:] for line in lines[-4:]) == sorted(
            [f"right {number}", *(f"wrong {number} {x}" for x in "abc")]
        )


def test_the_seed_decides_on_the_order_of_options(task):
    def ask(seed):
        return {question.name: question for question in task.pose(None, seed)}

    assert ask(3) == ask(3)
    assert ask(3).keys() == ask(4).keys()
    assert ask(3) != ask(4)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Since it shines.\n\nAnswer: B", "B"),
        ("answer: b.", "B"),
        ("**Answer: C**", "C"),
        ("Answer: **D**", "D"),
        ("Answer: $A$", "A"),
        (r"Answer: \boxed{B}", "B"),
        (r"Answer: $\text{C}$", "C"),
        (r"So it is \boxed{D}", "D"),
        (r"\boxed{\text{A}}", "A"),
        ("Answer: A\nNo.\nAnswer: B", "B"),
        ("<think>Answer: A</think> Answer: C", "C"),
        ("<think>Answer: A", None),
        ("Answer: Because of heat.", None),
        ("It is A.", None),
    ],
)
def test_letters_are_read(task, reply, letter):
    question = task.pose(1, 0)[0]
    assert task.read(question, reply) == letter
    assert task.judge(question, letter) == float(letter == question.reference)
