"""From a policy's name and settings to the rule itself. Knows nothing of memories."""

from collections.abc import Callable
from typing import Any

from snello.config.engine import PolicyName
from snello.config.policy import PolicyConfig
from snello.policies.h2o import H2o
from snello.policies.policy import Policy
from snello.policies.quest import Quest
from snello.policies.random import Random
from snello.policies.rkv import Rkv
from snello.policies.rule import Rule
from snello.policies.snapkv import SnapKv
from snello.policies.streaming import Streaming
from snello.policies.tova import Tova
from snello.policies.trigonometric import Trigonometric

RULES: dict[PolicyName, Callable[..., Rule]] = {
    "h2o": H2o,
    "tova": Tova,
    "snapkv": SnapKv,
    "rkv": Rkv,
    "tri": Trigonometric.open,
}
"""Rules of a budget, which see attention."""


def build_rule(config: PolicyConfig) -> Rule:
    """Build a rule of a budget.

    Raises:
        ValueError: settings that do not go together, or a file that is not there.
    """
    settings: dict[str, Any] = config.numbers | dict(config.files)
    return RULES[config.name](**settings)


def build_quest(config: PolicyConfig) -> Quest:
    """Build the rule that forgets nothing and reads a part."""
    assert config.name == "quest", f"{config.name} reads all that it keeps"
    settings: dict[str, Any] = config.numbers
    return Quest(**settings)


def build_policy(config: PolicyConfig, shift: int) -> Policy:
    """Build a rule that marks tokens, for a memory in which rows speak of `shift` tokens before."""
    numbers: dict[str, Any] = config.numbers
    del numbers["window"]  # the memory's
    if config.name == "streaming":
        return Streaming(shift=shift, **numbers)
    assert config.name == "random", f"{config.name} marks no tokens"
    return Random(1.0 - numbers.pop("keep"), **numbers)
