"""Slim memory for reasoning language models: learn what to forget, then really forget it.

What is named here is loaded when it is first used, so that `import snello` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snello.config.sampling import SamplingConfig, SamplingParams
    from snello.engine.async_llm import AsyncLLM
    from snello.engine.llm import LLM
    from snello.engine.outputs import Piece, RequestOutput, SampleOutput

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "Piece",
    "RequestOutput",
    "SampleOutput",
    "SamplingConfig",
    "SamplingParams",
]

_PLACES = {
    "LLM": "snello.engine.llm",
    "AsyncLLM": "snello.engine.async_llm",
    "Piece": "snello.engine.outputs",
    "RequestOutput": "snello.engine.outputs",
    "SampleOutput": "snello.engine.outputs",
    "SamplingConfig": "snello.config.sampling",
    "SamplingParams": "snello.config.sampling",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"snello has no {name!r}; known: {', '.join(__all__)}.")
    return getattr(import_module(_PLACES[name]), name)
