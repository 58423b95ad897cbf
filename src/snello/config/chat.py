"""What `snello chat` is told. Knows nothing of models or of tokens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from snello.config.engine import EngineConfig
from snello.config.sampling import SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """Talk with a model, turn after turn, in one slim memory. /reset forgets, /quit ends."""

    model: tyro.conf.Positional[str]
    """A Hugging Face folder, an adapter folder, or `bundled`."""

    system: str | None = None
    """What the model is told before the first turn."""

    base: Path | None = None
    """The base model's folder, if the adapter's own note of it no longer holds."""

    sampling: Annotated[SamplingConfig, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = (
        field(default_factory=lambda: SamplingConfig(max_new_tokens=None))
    )
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: EngineConfig(max_sequences=1)
    )

    def __post_init__(self) -> None:
        if self.sampling.n != 1:
            raise ValueError(
                f"ChatConfig.n is {self.sampling.n}; a turn has one reply. Leave it out, or use "
                "snello generate."
            )
