"""What `snello demo` does. Knows nothing of models or of training."""

from dataclasses import dataclass
from pathlib import Path

from snello.config.evaluate import check_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Retrofit the bundled model, let three memories answer the same problems, write a report."""

    base: str = "bundled"
    """The model to retrofit; another one must know the same problems."""

    problems: int = 200
    """How many fresh problems each memory answers."""

    level: tuple[int, ...] = (1,)
    """Difficulty of the problems, 1 (easy) to 6 (hard); with several, they take turns."""

    steps: int = 150
    """Training steps of the retrofit; fewer is quicker, and forgets less well."""

    factor: float = 8.0
    """Dense cache size over sparse cache size that the retrofit aims at."""

    window_tokens: int = 16
    """How long a token stays readable after it was marked; short, as the problems are short."""

    seed: int = 0
    """Chooses the problems, the samples and the training noise."""

    out: Path = Path("snello-demo")
    """The folder for the adapted model, results.json and report.html."""

    json: Path | None = None
    """Write the results here too, as one object."""

    def __post_init__(self) -> None:
        check_positive("DemoConfig", problems=self.problems, steps=self.steps)
        check_positive("DemoConfig", window_tokens=self.window_tokens)
        if self.factor < 1:
            raise ValueError(
                f"DemoConfig.factor is {self.factor}; it must be at least 1. It is dense size over "
                "sparse size: for 'keep one in eight' write 8, not 0.125."
            )
