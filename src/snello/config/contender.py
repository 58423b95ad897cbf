"""Who takes part in a sweep, as one writes it: `MODEL[@POLICY][+FORMAT=VALUE...]`.

Knows nothing of what a policy does or of how a model is loaded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from snello.config.engine import KvDtype, MemoryKind, SurvivorFormat, WeightFormat
from snello.config.policy import (
    MATCH,
    MEMORIES,
    PolicyConfig,
    name_policy,
    parse_policy,
    read_policy,
)

LEARNED = ("learned", "dms")
"""Methods of models that decide for themselves what to forget."""

_FORMAT = re.compile(r"\+(weights|survivors|kv_dtype)=([^+@]*)$")


@dataclass(frozen=True, slots=True)
class Contender:
    """A model, what decides which tokens it forgets, and what its numbers are stored in.

    Invariant: two contenders are the same exactly when their `name` is.
    """

    name: str
    """As it was written; outputs say this."""

    model: str
    """A Hugging Face folder, an adapter folder, or `bundled`."""

    policy: str | None
    """`dense`, `dms`, `window:tokens=64`, `h2o:budget=64`; None: what the model itself has learned,
    or dense."""

    weights: WeightFormat | None = None
    survivors: SurvivorFormat = "same"
    kv_dtype: KvDtype = "auto"

    @property
    def method(self) -> str:
        """The policy without its settings; contenders of one method may share a frontier."""
        return "learned" if self.policy is None else name_policy(self.policy)

    @property
    def is_matched(self) -> bool:
        """Whether its size is that of another contender, and not known before that one ended."""
        return self.policy is not None and f"={MATCH}" in self.policy

    def resolve(self, num_tokens: int) -> "Contender":
        """Return the same contender, by the same name, with its size filled in."""
        assert self.policy is not None, "only a policy can be matched"
        return replace(self, policy=self.policy.replace(f"={MATCH}", f"={num_tokens}"))

    @property
    def memory(self) -> tuple[MemoryKind | None, int | None]:
        """The kind of memory and its window, as an engine is told; None: its `rule` decides.

        Raises:
            ValueError: an unknown policy, or settings that do not fit it.
        """
        if self.policy is None:
            return None, None
        settings = read_policy(self.policy, self.name)
        if self.method not in MEMORIES:
            return None, None
        window = settings.get("tokens", settings.get("window"))
        return MEMORIES[self.method], None if window is None else int(window)

    @property
    def rule(self) -> PolicyConfig | None:
        """The rule it forgets by, where that is no kind of memory.

        Raises:
            ValueError: as `memory`.
        """
        return None if self.policy is None else parse_policy(self.policy, self.name)


def parse_contender(name: str) -> Contender:
    """Read one contender.

    Raises:
        ValueError: an unknown format, an unknown policy or settings that do not fit it.
    """
    rest, formats = name, dict[str, str]()
    while found := _FORMAT.search(rest):
        formats.setdefault(found[1], found[2])
        rest = rest[: found.start()]
    model, mark, policy = rest.rpartition("@")
    if not mark or "/" in name_policy(policy):
        model, policy = rest, ""
    if not model or (mark and not policy and rest.endswith("@")):
        raise ValueError(
            f"{name!r} is no contender; write MODEL, MODEL@POLICY or "
            "MODEL@POLICY+weights=int8+survivors=int8+kv_dtype=bfloat16."
        )
    contender = Contender(
        name=name,
        model=model,
        policy=policy or None,
        weights=cast(
            WeightFormat | None,
            _choose(name, "weights", formats.get("weights"), get_args(WeightFormat)),
        ),
        survivors=cast(
            SurvivorFormat,
            _choose(name, "survivors", formats.get("survivors"), get_args(SurvivorFormat))
            or "same",
        ),
        kv_dtype=cast(
            KvDtype,
            _choose(name, "kv_dtype", formats.get("kv_dtype"), get_args(KvDtype)) or "auto",
        ),
    )
    _ = contender.memory
    return contender


def parse_contenders(names: tuple[str, ...]) -> tuple[Contender, ...]:
    """Read several contenders.

    Raises:
        ValueError: as `parse_contender`, one is named twice, or matches nobody.
    """
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise ValueError(f"{twice[0]} takes part twice; name each contender once.")
    contenders = tuple(parse_contender(name) for name in names)
    for place, contender in enumerate(contenders):
        if contender.is_matched and find_matched(contenders, place) is None:
            raise ValueError(
                f"{contender.name} is to match a contender that has learned to forget; name one "
                "before it, such as slim@dms."
            )
    return contenders


def find_matched(contenders: Sequence[Contender], place: int) -> Contender | None:
    """Return whom the contender at a place matches: the nearest learned one before it."""
    before = [c for c in contenders[:place] if c.method in LEARNED]
    return before[-1] if before else None


def _choose(owner: str, key: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise ValueError(f"{owner} has {key}={value}; allowed: {', '.join(allowed)}.")
    return value
