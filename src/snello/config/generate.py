"""What `snello generate` is told. Knows nothing of models or of tokens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from snello.config.engine import EngineConfig
from snello.config.sampling import SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """Continue or answer prompts, and say what it cost in memory."""

    model: tyro.conf.Positional[str]
    """A Hugging Face folder, an adapter folder, or `bundled`."""

    prompt: tuple[str, ...] = ()
    """One or more prompts."""

    prompts: Path | None = None
    """A JSONL file: each line a string, or an object with `prompt` (text) or `messages` (chat)."""

    chat: tyro.conf.FlagCreatePairsOff[bool] = False
    """Wrap prompts as a user's turn; without --chat and --raw, where the model has a template."""

    raw: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take prompts as they are."""

    base: Path | None = None
    """The base model's folder, if the adapter's own note of it no longer holds."""

    sampling: Annotated[SamplingConfig, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = (
        field(default_factory=SamplingConfig)
    )
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = field(default_factory=EngineConfig)

    json: Path | None = None
    """Also write texts and figures here, as one object."""

    def __post_init__(self) -> None:
        if not self.prompt and self.prompts is None:
            raise ValueError(
                "GenerateConfig has no prompt; give --prompt TEXT ... or --prompts FILE.jsonl."
            )
        if self.chat and self.raw:
            raise ValueError(
                "GenerateConfig has both chat and raw; prompts are wrapped (--chat) or taken as "
                "they are (--raw), not both."
            )
