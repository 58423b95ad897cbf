"""Rows of a data set, from a file on this machine or from the hub by name, in a seeded order.

Knows nothing of prompts or of scoring: a task says which fields it needs, and under which column
names the public data sets have them.
"""

import csv
import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Formats of files; all but .parquet may end in .gz as well."""

LONGEST_CSV_FIELD = 2**27


def load_rows(
    place: str,
    fields: Mapping[str, Sequence[str]],
    *,
    split: str = "test",
    config: str | None = None,
) -> list[Row]:
    """Return all rows, each with the wanted fields alone.

    Args:
        place: A file (.jsonl, .json, .csv, .parquet; .gz behind the first three), the name of a hub
            data set, or a file on the hub as `hf://datasets/OWNER/NAME/FILE`.
        fields: For each field, the columns that may hold it, the first one that a row has counts.
            `reward_model.ground_truth` or `prompt.0.content` reach into a column.
        split: The part of a hub data set.
        config: The configuration of a hub data set, if it has several.

    Raises:
        ValueError: nothing there, another format, no rows, or a row without a field.
    """
    rows = _read_file(Path(place)) if _is_file(place) else _read_hub(place, config, split)
    if not rows:
        raise ValueError(f"{place} holds no rows; give a file or a data set that has some.")
    return [_pick_fields(row, fields, f"{place}, row {i}") for i, row in enumerate(rows, start=1)]


def arrange(items: Sequence[T], count: int | None, seed: int) -> list[T]:
    """Return the first `count` items (all: None) in the order of the seed.

    Raises:
        ValueError: a count below one, or above what there is.
    """
    if count is not None and not 1 <= count <= len(items):
        raise ValueError(
            f"{count} questions were asked for; the task has {len(items)}. Ask for fewer, or for "
            "all of them by naming no number."
        )
    order = list(range(len(items)))
    random.Random(f"order/{seed}").shuffle(order)
    return [items[index] for index in order[:count]]


def _is_file(place: str) -> bool:
    if place.startswith("hf://"):
        return False
    return Path(place).exists() or place.removesuffix(".gz").endswith(SUFFIXES)


def _read_file(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a file, or the name of a hub data set.")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            return _read_parquet(path)
        if name.endswith((".jsonl", ".json")):
            return _read_json(_read_text(path), path)
        if name.endswith(".csv"):
            csv.field_size_limit(LONGEST_CSV_FIELD)
            return list(csv.DictReader(_read_text(path).splitlines(keepends=True)))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); is it damaged?") from None
    raise ValueError(
        f"{path} is of no known format; give {', '.join(SUFFIXES)}, the text formats also as .gz."
    )


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def _read_json(text: str, path: Path) -> list[Any]:
    """Read a list, or one object a line, whatever the file's name promises."""
    if text.lstrip().startswith("["):
        try:
            rows: list[Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON list ({error}); mend it.") from None
        return rows
    rows = []
    # splitlines() would also break at line separators that stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not a JSON object ({error}); mend or remove the line."
            ) from None
    return rows


def _read_parquet(path: Path) -> list[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise ValueError(
            "reading .parquet needs the package pyarrow; pip install 'snello[lab]'."
        ) from None
    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole parquet file ({reason}).") from None
    return rows


def _read_hub(place: str, config: str | None, split: str) -> list[Any]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ValueError(
            f"{place} is no file, and hub data sets need the package datasets; "
            "pip install 'snello[lab]', or give a file."
        ) from None
    try:
        if place.startswith("hf://"):
            kind = "parquet" if place.endswith(".parquet") else "json"
            return list(load_dataset(kind, data_files=place, split="train"))
        return list(load_dataset(place, config, split=split))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ValueError(
            f"{place} is no file, and the hub did not give a data set of that name ({reason}); "
            "check the name and the network, or give a file."
        ) from None


def _pick_fields(row: Any, fields: Mapping[str, Sequence[str]], where: str) -> Row:
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise ValueError(f"{where}: a row is {kind}; it must be an object.")  # noqa: TRY004
    return {field: _pick(row, columns, where) for field, columns in fields.items()}


def _pick(row: Row, columns: Sequence[str], where: str) -> Any:
    for column in columns:
        value: Any = row.get(column)
        if value is None and "." in column:
            value = _reach(row, column.split("."))
        if value is not None:
            return value
    had = ", ".join(map(repr, row)) or "none"
    wanted = " or ".join(map(repr, columns))
    raise ValueError(
        f"{where}: the columns are {had}; the task needs {wanted}. Name the column that holds it, "
        "or give the data set as it was published."
    )


def _reach(value: Any, path: Sequence[str]) -> Any:
    """Follow keys of objects and numbers of lists; None where the path breaks off."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
