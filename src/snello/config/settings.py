"""Settings behind a name, as one writes them: `window:tokens=64`, `random:keep=0.125,window=16`.

Knows nothing of what is named.
"""

COUNTS = "write KEY=COUNT with a count of at least 1, such as tokens=64."


def split_settings(name: str, owner: str, form: str = COUNTS) -> dict[str, str]:
    """Return what is written for each key behind a name.

    Args:
        name: All that was written, the name included.
        owner: Whose settings they are, for messages.
        form: What a message tells to write instead.

    Raises:
        ValueError: a part without a key or without a value, or one key twice.
    """
    _, mark, text = name.partition(":")
    settings: dict[str, str] = {}
    for part in text.split(",") if mark else ():
        key, _, value = part.partition("=")
        if not key or not value:
            raise ValueError(f"{owner} has the setting {part!r}; {form}")
        if key in settings:
            raise ValueError(f"{owner} sets {key!r} twice; set it once.")
        settings[key] = value
    return settings


def parse_count(key: str, value: str, owner: str) -> int:
    """Read a count.

    Raises:
        ValueError: it is none, or below 1.
    """
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{owner} has the setting '{key}={value}'; {COUNTS}")
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
