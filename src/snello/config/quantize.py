"""What `snello quantize` is told. Knows nothing of models or of tensors."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from snello.config.engine import Group, WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeConfig:
    """Write a model with its weights rounded to int8 or int4, in a layout that vLLM reads too."""

    model: tyro.conf.Positional[str]
    """A Hugging Face folder, an adapter folder (it becomes part of the weights), or `bundled`."""

    out: Path
    """The folder to write; it must be new or empty."""

    weights: WeightFormat = "int8"

    group: Group = 64
    """How many inputs share a scale: fewer is closer to the original and reads more bytes."""

    base: Path | None = None
    """The base model's folder, if the adapter's own note of it no longer holds."""

    json: Path | None = None
    """Also write the figures here, as one object."""
