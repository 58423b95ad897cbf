"""Settings behind a name, as one writes them: `window:tokens=64`, `random:keep=0.125,window=16`.

Knows nothing of what is named.
"""


def split_settings(name: str, owner: str) -> dict[str, str]:
    """Return what is written for each key behind a name.

    Raises:
        ValueError: a part without a key or without a value, or one key twice.
    """
    _, mark, text = name.partition(":")
    settings: dict[str, str] = {}
    for part in text.split(",") if mark else ():
        key, _, value = part.partition("=")
        if not key or not value:
            raise _no_count(owner, part)
        if key in settings:
            raise ValueError(f"{owner} sets {key!r} twice; set it once.")
        settings[key] = value
    return settings


def parse_settings(name: str, owner: str) -> dict[str, int]:
    """Return the counts behind a name: `window:tokens=64` gives `{"tokens": 64}`.

    Raises:
        ValueError: a setting that is no count of at least 1.
    """
    written = split_settings(name, owner)
    return {key: parse_count(key, value, owner) for key, value in written.items()}


def parse_count(key: str, value: str, owner: str) -> int:
    """Read a count.

    Raises:
        ValueError: it is none, or below 1.
    """
    if not value.isdecimal() or int(value) < 1:
        raise _no_count(owner, f"{key}={value}")
    return int(value)


def parse_share(key: str, value: str, owner: str) -> float:
    """Read a share above 0 and below 1.

    Raises:
        ValueError: it is none.
    """
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise ValueError(
            f"{owner} has the setting '{key}={value}'; write {key}=SHARE with a share above 0 and "
            f"below 1, such as {key}=0.125."
        )
    return share


def _no_count(owner: str, part: str) -> ValueError:
    return ValueError(
        f"{owner} has the setting {part!r}; write KEY=COUNT with a count of at least 1, such as "
        "tokens=64."
    )
