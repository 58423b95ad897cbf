"""Variable tracking: chains in order, apart from each other, scored by the share that is found."""

import random
import re

import pytest

from snello.evaluation.tasks.registry import open_task
from snello.evaluation.tasks.tracking import draw_chains, share_found


def ask(**options):
    return open_task("variable-tracking", encode=str.split, **options)


def test_following_the_text_gives_the_reference():
    (question,) = ask(lengths=(900,), samples=1, chains=3, hops=4).pose(None, 0)
    prompt = question.messages[0]["content"]
    assert 870 <= len(prompt.split()) <= 900
    value = re.search(r"the value (\d+) in the text", prompt).group(1)
    holds = {}
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", prompt):
        holds[name] = holds.get(source, source)  # each line follows the one that it needs
    assert {name for name, held in holds.items() if held == value} == set(question.reference)
    assert len(set(holds.values())) == 3
    assert len(question.reference) == 5


def test_the_score_is_the_share_that_was_found():
    task = ask(lengths=(400,), samples=1, hops=3)
    (question,) = task.pose(None, 0)
    names = question.reference
    assert task.judge(question, task.read(question, f"They are {', '.join(names)}.")) == 1.0
    assert task.judge(question, task.read(question, f"<think>x</think>{names[0]} QQQQQ")) == 0.25
    assert task.judge(question, task.read(question, f"<think>{names[0]}")) == 0.0
    assert task.read(question, " ".join(names)) == task.read(question, " ".join(reversed(names)))
    assert share_found(("A", "B"), None) == 0.0


def test_names_are_used_once():
    chains = draw_chains(random.Random(0), 4, 5)
    assert [len(chain) for chain in chains] == [6] * 4
    assert len({name for chain in chains for name in chain}) == 24


def test_base_models_continue_an_answer():
    (question,) = ask(lengths=(400,), samples=1, form="text").pose(None, 0)
    assert re.search(r"5 variables are assigned the value \d+, they are: $", question.text)
    assert question.most_new_tokens == 30


def test_a_chain_needs_a_hop():
    with pytest.raises(ValueError, match="1 chains of 0 hops"):
        ask(hops=0).pose(1, 0)
