"""Rules of forgetting that need no training, and the trained one, by name.

A `Policy` marks tokens as they come; a `Rule` keeps heads within a budget, by what was looked at;
`Quest` keeps all and reads a part.
"""

from snello.policies.learned import Learned
from snello.policies.named import RULES, build_policy, build_quest, build_rule
from snello.policies.never import Never
from snello.policies.policy import Policy
from snello.policies.quest import Quest
from snello.policies.random import Random
from snello.policies.rule import Rule, Sight, Verdict
from snello.policies.streaming import Streaming
from snello.policies.trigonometric import Centres, Trigonometric
from snello.policies.window import Window

__all__ = [
    "RULES",
    "Centres",
    "Learned",
    "Never",
    "Policy",
    "Quest",
    "Random",
    "Rule",
    "Sight",
    "Streaming",
    "Trigonometric",
    "Verdict",
    "Window",
    "build_policy",
    "build_quest",
    "build_rule",
]
