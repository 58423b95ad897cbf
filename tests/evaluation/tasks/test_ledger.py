"""The bundled language: needles and trails of a set length, which its model can read."""

import re

import pytest

from snello.bundled.tokenizer import build_tokenizer
from snello.evaluation.tasks.registry import open_task

TOKENIZER = build_tokenizer()


def encode(text):
    return TOKENIZER.encode(text).ids


def follow(prompt):
    """Solve a ledger by reading it."""
    notes = {name: (int(digit), after) for name, digit, after in re.findall(NOTE, prompt)}
    name, total = re.search(r"from (\w+) to home\?$", prompt).group(1), 0
    while name != "home":
        digit, name = notes[name]
        total += digit
    return str(total % 10)


NOTE = r"\b([a-z]+) (\d)>([a-z]+)\."


@pytest.mark.parametrize("name", ["ledger-needle", "ledger-tracking"])
def test_questions_are_as_long_as_asked_for_and_can_be_solved(name):
    task = open_task(name, encode=encode, lengths=(300, 500), samples=2)
    for question in task.pose(6 if name == "ledger-needle" else None, 0):
        prompt = question.messages[0]["content"]
        length = int(question.name.split("/")[1])
        assert length - 14 <= len(encode(prompt)) <= length
        assert "<|unk|>" not in [TOKENIZER.id_to_token(i) for i in encode(prompt)]
        assert follow(prompt) == question.reference
        reply = f" a thought,</think> {question.reference}"
        assert task.judge(question, task.read(question, reply)) == 1.0
        assert task.judge(question, task.read(question, question.reference)) == 0.0


@pytest.mark.parametrize("depth", [0, 50, 100])
def test_the_needle_stands_at_its_depth(depth):
    task = open_task("ledger-needle", encode=encode, lengths=(800,), depths=(depth,), samples=1)
    (question,) = task.pose(None, 3)
    prompt = question.messages[0]["content"]
    name = prompt.rpartition("from ")[2].split()[0]
    text = prompt.partition(" what is the sum")[0]
    assert abs(text.index(f"{name} ") / len(text) - depth / 100) < 0.06
    assert len(re.findall(NOTE, text)) == 12


def test_a_ledger_larger_than_its_names_is_refused():
    with pytest.raises(ValueError, match="a ledger of 5 steps and 4 notes was asked for"):
        open_task("ledger-tracking", encode=encode, steps=5, notes=4).pose(1, 0)
    with pytest.raises(ValueError, match="at most 64 notes"):
        open_task("ledger-tracking", encode=encode, notes=65).pose(1, 0)
