"""Which tasks there are, by the names users write. Knows nothing of what they ask."""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from snello.evaluation.task import Task

Encode = Callable[[str], Sequence[int]]
"""The tokens of a text, to count them: tasks with a length need the model's own tokenizer."""

TASKS = {
    "aime24": "snello.evaluation.tasks.mathematics:aime24",
    "aime25": "snello.evaluation.tasks.mathematics:aime25",
    "math500": "snello.evaluation.tasks.mathematics:math500",
    "gsm8k": "snello.evaluation.tasks.mathematics:gsm8k",
    "gpqa-diamond": "snello.evaluation.tasks.gpqa:Gpqa",
    "humaneval": "snello.evaluation.tasks.humaneval:HumanEval",
    "livecodebench": "snello.evaluation.tasks.livecodebench:LiveCodeBench",
    "needle": "snello.evaluation.tasks.needle:Needle",
    "multi-key-needle": "snello.evaluation.tasks.needle:MultiKeyNeedle",
    "variable-tracking": "snello.evaluation.tasks.tracking:VariableTracking",
    "common-words": "snello.evaluation.tasks.aggregation:CommonWords",
    "key-value": "snello.evaluation.tasks.keyvalue:KeyValue",
    "ledger": "snello.evaluation.tasks.bundled:Bundled",
    "leg_counting": "snello.evaluation.tasks.bundled:LegCounting",
    "chain_sum": "snello.evaluation.tasks.bundled:ChainSum",
    "ledger-needle": "snello.evaluation.tasks.ledger:LedgerNeedle",
    "ledger-tracking": "snello.evaluation.tasks.ledger:LedgerTracking",
}


def open_task(name: str, *, encode: Encode | None = None, **options: Any) -> Task:
    """Return the task of this name; rows are read when it poses its questions.

    Args:
        name: A key of `TASKS`.
        encode: The model's tokenizer, for tasks whose questions have a length in tokens.
        **options: Settings of the task, such as `source`, a file or a hub name.

    Raises:
        ValueError: no such task or setting, or no tokenizer where one is needed.
    """
    make = _find_maker(name)
    for key in options:
        find_setting(name, key)
    if "encode" in inspect.signature(make).parameters:
        if encode is None:
            raise ValueError(
                f"the task {name!r} measures its questions in tokens; hand over the model's "
                "tokenizer as `encode`."
            )
        options["encode"] = encode
    return make(**options)


def list_settings(name: str) -> dict[str, Any]:
    """Return the settings of a task, each with its type.

    Raises:
        ValueError: no such task.
    """
    parameters = inspect.signature(_find_maker(name)).parameters
    return {
        key: parameter.annotation
        for key, parameter in parameters.items()
        if key not in ("name", "encode")
    }


def find_setting(name: str, key: str) -> Any:
    """Return the type of a setting.

    Raises:
        ValueError: no such task or setting.
    """
    known = list_settings(name)
    if key not in known:
        raise ValueError(
            f"the task {name!r} has no setting {key!r}; it has "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return known[key]


def _find_maker(name: str) -> Callable[..., Task]:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(sorted(TASKS))}.")
    module, _, maker = TASKS[name].partition(":")
    make: Callable[..., Task] = getattr(import_module(module), maker)
    return make
