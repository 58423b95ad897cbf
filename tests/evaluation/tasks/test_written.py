"""Tasks as one writes them in a shell: settings with the types that the tasks want."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

from snello.evaluation.tasks.registry import TASKS, list_settings
from snello.evaluation.tasks.written import open_written


def open_one(name, **otherwise):
    ((written, task),) = open_written([name], str.split, otherwise).items()
    assert written == name
    return task


def test_each_value_has_the_type_of_its_setting():
    task = open_one("needle:lengths=512/1024,depths=0/50,samples=2,text=a/b.txt,form=text")
    assert (task.lengths, task.depths, task.samples) == ((512, 1024), (0, 50), 2)
    assert (task.text, task.form) == (Path("a/b.txt"), "text")
    task = open_one("gsm8k:source=a/rows.jsonl,config=none,columns=problem:q/answer:reward.0.x")
    assert (task.source, task.config) == ("a/rows.jsonl", "none")
    assert task.columns == {"problem": "q", "answer": "reward.0.x"}
    task = open_one("humaneval:wall_s=0.5,unprotected=true,source=hf://datasets/a/b/c.jsonl")
    assert (task.wall_s, task.unprotected, task.source) == (0.5, True, "hf://datasets/a/b/c.jsonl")


def test_levels_can_be_tasks_of_their_own_and_others_have_the_common_ones():
    names = ["ledger:level=1", "ledger:level=3/4", "ledger", "needle"]
    tasks = open_written(names, str.split, {"level": (2,), "problems": 9})
    assert list(tasks) == names
    assert [tasks[name].level for name in names[:3]] == [(1,), (3, 4), (2,)]
    assert [len(tasks[name].pose(None, 0)) for name in names[:3]] == [9, 9, 9]
    assert {task.name for task in tasks.values()} == {"ledger", "needle"}


@pytest.mark.parametrize("name", TASKS)
def test_every_setting_of_every_task_can_be_written(name):
    """Each one is read back from the text that stands for its own default."""
    module, _, maker = TASKS[name].partition(":")
    parameters = inspect.signature(getattr(import_module(module), maker)).parameters
    for key in list_settings(name):
        default = parameters[key].default
        if default is None or default == {}:
            continue
        is_list = isinstance(default, tuple)
        text = "/".join(map(str, default)) if is_list else str(default)
        task = open_one(f"{name}:{key}={text.lower() if isinstance(default, bool) else text}")
        assert getattr(task, key) == default


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("riddles:level=3", "unknown task 'riddles'"),
        ("ledger:size=3", "the task 'ledger' has no setting 'size'; it has level, problems"),
        ("needle:name=pin", "the task 'needle' has no setting 'name'; it has depths, form"),
        ("ledger:level=high", "ledger:level=high: level is 'high'; it must be a whole number"),
        ("ledger:level=1/", "level is ''; it must be a whole number"),
        ("ledger:", "the task ledger: has the setting ''; write KEY=VALUE, with commas"),
        ("ledger:level", "has the setting 'level'; write KEY=VALUE"),
        ("needle:form=poem", "form is 'poem'; allowed: chat, text"),
        ("humaneval:wall_s=soon", "wall_s is 'soon'; it must be a number"),
        ("humaneval:unprotected=yes", "unprotected is 'yes'; it must be true or false"),
        ("gsm8k:columns=problem", "columns has 'problem'; write NAME:COLUMN"),
    ],
)
def test_what_is_no_task_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        open_one(name)


def test_a_task_named_twice_is_refused():
    with pytest.raises(ValueError, match="the task ledger is named twice"):
        open_written(["ledger", "ledger"], str.split, {})
