"""The policies that can be named, and which settings each has.

Knows nothing of what they do: the rules themselves are in `snello.policies`.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

from snello.config.engine import MemoryKind, PolicyName
from snello.config.settings import parse_count, parse_share, split_settings

MATCH = "match"
"""In place of a count: as many tokens as the learned contender before it held at its peak."""

_ANY_SIZE = 2**20


class Setting(NamedTuple):
    """One key that a policy knows."""

    key: str
    is_needed: bool = False
    is_share: bool = False
    is_file: bool = False

    @property
    def form(self) -> str:
        """How it is written."""
        if self.is_file:
            return f"{self.key}=FILE"
        return f"{self.key}={'SHARE' if self.is_share else 'COUNT'}"


class Known(NamedTuple):
    """What can be set of one policy."""

    settings: tuple[Setting, ...] = ()
    size: str | None = None
    """The setting that may match the live tokens of another contender."""


_BUDGET = Setting("budget", is_needed=True)
_WINDOW = Setting("window", is_needed=True)

MEMORIES: dict[str, MemoryKind] = {"dense": "dense", "dms": "sparse", "window": "window"}
"""Policies that are a kind of memory, and which."""

POLICIES: dict[str, Known] = {
    "dense": Known(),
    "dms": Known((Setting("window"),)),
    "window": Known((Setting("tokens", is_needed=True),), "tokens"),
    "streaming": Known((_WINDOW, Setting("sinks")), "window"),
    "random": Known((_WINDOW, Setting("keep", is_needed=True, is_share=True), Setting("seed"))),
    "h2o": Known((_BUDGET, Setting("recent")), "budget"),
    "tova": Known((_BUDGET,), "budget"),
    "snapkv": Known(
        (_BUDGET, Setting("window"), Setting("kernel"), Setting("slide")),
        "budget",
    ),
    "rkv": Known(
        (
            _BUDGET,
            Setting("every"),
            Setting("window"),
            Setting("kernel"),
            Setting("mix", is_share=True),
        ),
        "budget",
    ),
    "tri": Known(
        (
            _BUDGET,
            Setting("centres", is_needed=True, is_file=True),
            Setting("every"),
            Setting("recent"),
        ),
        "budget",
    ),
    "quest": Known((_BUDGET,), "budget"),
    "offload": Known((Setting("window"),)),
}
"""Short names, in the order in which they are listed; defaults stand with the rules."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """A policy that is no kind of memory by itself, with what was set."""

    name: PolicyName
    settings: tuple[tuple[str, float], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Settings that name a file; a name with a comma or an @ cannot be written."""

    @property
    def numbers(self) -> dict[str, float]:
        """The settings by key, files left out."""
        return dict(self.settings)


def name_policy(written: str) -> str:
    """Return a policy's name without its settings."""
    return written.partition(":")[0]


def read_policy(written: str, owner: str) -> dict[str, float | str]:
    """Return the settings of a policy; a size that matches somebody counts as a large one.

    Args:
        written: Such as `h2o:budget=64`.
        owner: Who says so, for messages.

    Raises:
        ValueError: an unknown policy, or settings that do not fit it.
    """
    name = name_policy(written)
    if name not in POLICIES:
        raise ValueError(f"{owner} names the policy {name!r}; known: {', '.join(POLICIES)}.")
    known = {setting.key: setting for setting in POLICIES[name].settings}
    settings: dict[str, float | str] = {}
    for key, value in split_settings(written, owner).items():
        if key not in known:
            forms = ", ".join(setting.form for setting in known.values()) or "none"
            raise ValueError(f"{owner} sets {key!r}; settings of {name}: {forms}.")
        if value == MATCH and key == POLICIES[name].size:
            settings[key] = _ANY_SIZE
        elif known[key].is_file:
            settings[key] = value
        elif known[key].is_share:
            settings[key] = parse_share(key, value, owner)
        else:
            settings[key] = parse_count(key, value, owner)
    missing = [s for s in known.values() if s.is_needed and s.key not in settings]
    if missing:
        given = [setting.form for setting in known.values() if setting.is_needed]
        raise ValueError(f"{owner} names no {missing[0].key}; write {name}:{','.join(given)}.")
    return settings


def parse_policy(written: str, owner: str) -> PolicyConfig | None:
    """Read a policy; None if it is a kind of memory.

    Raises:
        ValueError: as `read_policy`.
    """
    settings = read_policy(written, owner)
    name = name_policy(written)
    if name in MEMORIES:
        return None
    numbers = {key: value for key, value in settings.items() if not isinstance(value, str)}
    files = {key: value for key, value in settings.items() if isinstance(value, str)}
    return PolicyConfig(cast(PolicyName, name), tuple(numbers.items()), tuple(files.items()))
