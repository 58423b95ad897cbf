"""Every task by its name: it can be opened, and is what the interface says."""

from importlib import import_module

import pytest

from snello.evaluation.task import Task
from snello.evaluation.tasks.registry import TASKS, open_task


@pytest.mark.parametrize("name", TASKS)
def test_every_task_opens_under_its_name(name):
    task = open_task(name, encode=str.split)
    assert isinstance(task, Task)
    assert task.name == name


@pytest.mark.parametrize("entry", TASKS.values())
def test_every_entry_leads_to_something(entry):
    module, _, maker = entry.partition(":")
    assert callable(getattr(import_module(module), maker))


def test_settings_reach_the_task():
    assert open_task("needle", encode=str.split, lengths=(9,)).lengths == (9,)
    assert open_task("aime24", source="rows.jsonl").source == "rows.jsonl"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("riddles", {}, "unknown task 'riddles'; known: aime24, aime25, chain_sum"),
        ("needle", {}, "'needle' measures its questions in tokens; hand over"),
        ("gsm8k", {"shots": 8}, "'gsm8k' has no setting 'shots'; it has columns, config, source"),
    ],
)
def test_a_wrong_wish_is_refused(name, options, expected):
    with pytest.raises(ValueError, match=expected):
        open_task(name, **options)
