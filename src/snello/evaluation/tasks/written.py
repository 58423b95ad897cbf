"""A task as one writes it, `NAME[:KEY=VALUE,...]`: from that to the task, setting by setting.

Knows nothing of what settings mean; their types stand in the signature of what makes the task.
Lists are written `512/1024`, pairs `problem:question/answer:final`: a shell leaves both alone.
"""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from snello.config.settings import split_settings
from snello.evaluation.task import Task
from snello.evaluation.tasks.registry import Encode, find_setting, list_settings, open_task

_TRUTHS = {"true": True, "false": False}
_MEANINGS = {int: "a whole number", float: "a number", bool: "true or false"}


def open_written(
    names: Sequence[str], encode: Encode, otherwise: Mapping[str, Any]
) -> dict[str, Task]:
    """Return the tasks of these names, each under what was written.

    Args:
        names: As in `ledger:level=3`, `needle:lengths=512/1024,depths=0/50/100`.
        encode: The tokenizer, for tasks whose questions have a length in tokens.
        otherwise: Settings of those tasks that have them and were not told otherwise.

    Raises:
        ValueError: there is no such task or setting, a value is none of its setting's, or a task is
            named twice.
    """
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise ValueError(f"the task {twice[0]} is named twice; name each task once.")
    return {name: _open(name, encode, otherwise) for name in names}


def _open(written: str, encode: Encode, otherwise: Mapping[str, Any]) -> Task:
    name = written.partition(":")[0]
    known = list_settings(name)
    form = (
        "write KEY=VALUE, with commas between settings and slashes within lists, and KEY one of "
        f"{', '.join(known)}."
    )
    options = {key: value for key, value in otherwise.items() if key in known}
    for key, value in split_settings(written, f"the task {written}", form).items():
        options[key] = _read(value, find_setting(name, key), f"{written}: {key}")
    return open_task(name, encode=encode, **options)


def _read(text: str, wanted: Any, where: str) -> Any:
    """Return what a text says, as the wanted type.

    Raises:
        ValueError: it is no such thing.
    """
    choices = [choice for choice in get_args(wanted) if choice is not NoneType]
    if get_origin(wanted) is Literal:
        if text not in choices:
            raise ValueError(f"{where} is {text!r}; allowed: {', '.join(choices)}.")
        return text
    if get_origin(wanted) is Sequence:
        return tuple(_read(item, choices[0], where) for item in text.split("/"))
    if get_origin(wanted) is Mapping:
        return dict(_read_pair(pair, where) for pair in text.split("/"))
    if choices:  # a type, or None
        return _read(text, choices[0], where)
    return _read_plain(text, wanted, where)


def _read_plain(text: str, wanted: type, where: str) -> Any:
    try:
        return _TRUTHS[text] if wanted is bool else wanted(text)
    except (KeyError, ValueError):
        raise ValueError(f"{where} is {text!r}; it must be {_MEANINGS[wanted]}.") from None


def _read_pair(text: str, where: str) -> tuple[str, str]:
    name, mark, column = text.partition(":")
    if not (name and mark and column):
        raise ValueError(f"{where} has {text!r}; write NAME:COLUMN, with slashes between pairs.")
    return name, column
