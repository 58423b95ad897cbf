"""Amounts of memory as people write them. Knows nothing of what they are for."""

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(amount: int | str) -> int:
    """Return bytes, from their number or from a text such as "2GiB", "1.5 GiB" or "512MB".

    Raises:
        ValueError: no such amount, or not even one byte.
    """
    match = _PATTERN.fullmatch(str(amount))
    unit = None if match is None else _UNITS.get(match[2].lower())
    num_bytes = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if num_bytes < 1:
        raise ValueError(
            f"{amount!r} is no amount of memory; give bytes as a number, or a text such as "
            "'2GiB' or '512MiB'."
        )
    return num_bytes
