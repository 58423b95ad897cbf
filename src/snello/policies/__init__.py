"""Rules of forgetting that need no training, and the trained one, by name."""

from snello.policies.learned import Learned
from snello.policies.never import Never
from snello.policies.policy import Policy
from snello.policies.random import Random
from snello.policies.window import Window

__all__ = ["Learned", "Never", "Policy", "Random", "Window"]
