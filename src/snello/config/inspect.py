"""What `snello inspect` is told. Knows nothing of models or of tokens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from snello.config.engine import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectConfig:
    """Show how much of a text each layer and head keeps once the model has read it."""

    model: tyro.conf.Positional[str]
    """A Hugging Face folder, an adapter folder, or `bundled`."""

    text: str | None = None
    """The text itself."""

    file: Path | None = None
    """A file with the text."""

    problem: bool = False
    """Take a problem of the bundled model, with the reply that solves it."""

    kind: str = "ledger"
    """Kind of the problem: `ledger`, `leg_counting` or `chain_sum`."""

    level: int = 1
    """Difficulty of the problem, 1 (easy) to 6 (hard)."""

    seed: int = 0
    """Which problem."""

    base: Path | None = None
    """The base model's folder, if the adapter's own note of it no longer holds."""

    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: EngineConfig(max_sequences=1)
    )

    json: Path | None = None
    """Also write the figures and the live positions of every layer and head here."""

    def __post_init__(self) -> None:
        sources = [self.text is not None, self.file is not None, self.problem]
        if sum(sources) != 1:
            raise ValueError(
                f"InspectConfig has {sum(sources)} sources of text; give exactly one of "
                "--text TEXT, --file FILE, --problem."
            )
