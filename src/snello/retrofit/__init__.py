"""Teacher to student: the training that teaches a model what to forget."""

from snello.retrofit.trainer import Outcome, run

__all__ = ["Outcome", "run"]
