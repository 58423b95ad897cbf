"""Reading a Hugging Face config.json key by key, each wrong value told in one line.

Knows nothing of families or of tensors.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


class Values:
    """The raw keys of a config.json; each reader checks the type it promises.

    A key that is absent or null takes the default; without a default it is required.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw

    def has(self, key: str) -> bool:
        """Whether the key stands there with a value other than null."""
        return self._raw.get(key) is not None

    def names(self) -> list[str]:
        """The keys that stand there."""
        return list(self._raw)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 0."""
        value = self._take(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(key, value, "a whole number of at least 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Any finite number."""
        value = self._take(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool | int):  # Llama 4 folders write 4 for true
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def word(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of the allowed words."""
        value = self._take(key, default)
        if value not in allowed:
            raise self._wrong(key, value, "one of " + ", ".join(sorted(allowed)))
        return str(value)

    def text(self, key: str, default: str) -> str:
        """Whatever stands there, as text."""
        return str(self._take(key, default))

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers; absent means empty."""
        value = [] if self._raw.get(key) is None else self._raw[key]
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self._wrong(key, value, "a list of whole numbers")
        return [int(item) for item in value]

    def words(self, key: str, allowed: Collection[str]) -> list[str]:
        """A list of allowed words; absent means empty."""
        value = [] if self._raw.get(key) is None else self._raw[key]
        if not isinstance(value, list) or not all(item in allowed for item in value):
            raise self._wrong(key, value, "a list of " + ", ".join(sorted(allowed)))
        return [str(item) for item in value]

    def inner(self, key: str) -> "Values":
        """A JSON object inside this one; absent means empty."""
        value = {} if self._raw.get(key) is None else self._raw[key]
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a JSON object")
        return Values(value)

    def _take(self, key: str, default: object) -> object:
        value = self._raw.get(key)
        if value is None:
            value = default
        if value is None:
            raise ValueError(
                f"config.json has no {key!r}, which this family needs; "
                "compare it with the config.json of the original model and add the key."
            )
        return value

    def _wrong(self, key: str, value: object, allowed: str) -> ValueError:
        return ValueError(
            f"config.json says {key!r} is {value!r}; it must be {allowed}. Correct config.json."
        )


def read_values(folder: Path) -> Values:
    """Read `config.json` of a model folder.

    Raises:
        ValueError: there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no config.json; a model folder holds config.json and *.safetensors. "
            "Check the path."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); it is damaged: download the folder again."
        ) from None
    return Values({"config.json": raw}).inner("config.json")
