"""What every question is told: which model, which formats, which peers, where lines are written.

Knows nothing of engines or of measuring.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from benchmarks.model import name_adapter
from benchmarks.record import Place
from snello.config.engine import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Place):
    """The common part of all questions."""

    models: Path
    """The folder that `python -m benchmarks.model --out` filled."""

    weights: Literal["float32", "int8", "int4"] = "float32"
    """Format of our weights."""

    window: int = 256
    """Window of the forced adapter."""

    cores: int = 2
    """How many processor threads everybody may use."""

    peers: Path | None = None
    """The folder that `benchmarks/peers/install.sh` filled; without it, we run alone."""

    against: tuple[str, ...] = ()
    """Labels of peers, see `benchmarks/peer.py`, such as openvino-int8 llama-q8_0."""

    engine: tuple[tuple[str, str], ...] = ()
    """Other fields of our EngineConfig, by name and value, such as `dtype bfloat16`."""

    @property
    def label(self) -> str:
        """Name our engine with its formats, so that lines of different ones are told apart."""
        return "/".join([f"snello-{self.weights}", *(value for _, value in self.engine)])

    def find_adapter(self, factor: int, *, is_uneven: bool = False) -> Path:
        """Return the folder of the adapter with this factor and the setting's window.

        Raises:
            ValueError: it was not made.
        """
        folder = self.models / name_adapter(factor, self.window, is_uneven=is_uneven)
        if not folder.is_dir():
            raise ValueError(
                f"there is no {folder}; make it with `python -m benchmarks.model --out "
                f"{self.models} --factors {factor} --windows {self.window}`."
            )
        return folder

    def build_config(self, **wishes: Any) -> EngineConfig:
        """Return an engine's config with this setting's formats and `wishes`.

        Raises:
            ValueError: this engine has no such field, or not such weights yet.
        """
        kinds = {field.name: field.type for field in fields(EngineConfig)}
        wishes |= {name: int(value) if value.isdigit() else value for name, value in self.engine}
        if self.weights != "float32":
            wishes["weights"] = self.weights
        unknown = sorted(set(wishes) - set(kinds))
        if unknown:
            raise ValueError(
                f"EngineConfig has no {', '.join(unknown)}; it has {', '.join(sorted(kinds))}."
            )
        return EngineConfig(**wishes)
