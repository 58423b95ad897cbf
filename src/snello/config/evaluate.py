"""What `snello evaluate` compares, and on which problems. Knows nothing of models or of scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from snello.config.engine import (
    Device,
    Group,
    KvDtype,
    MemoryKind,
    SamplingConfig,
    SurvivorFormat,
    WeightFormat,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Let several memories answer the same problems, and set the results side by side."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A Hugging Face folder, an adapter folder, or `bundled`."""

    problems: int = 200
    """How many problems; every memory gets the same ones."""

    level: tuple[int, ...] = (1,)
    """Difficulty, 1 (easy) to 6 (hard); with several, problems take turns."""

    kinds: tuple[str, ...] = ("ledger",)
    """`ledger`, `leg_counting`, `chain_sum`; with several, problems take turns."""

    temperature: float = 0.8
    """0 always takes the likeliest token."""

    seed: int = 0
    """Chooses the problems and the samples."""

    memories: tuple[MemoryKind, ...] = ("dense", "sparse", "window")
    """`dense` keeps all, `sparse` forgets what the model marks, `window` is as wide as sparse is
    large. `window` needs `sparse` before it."""

    max_new_tokens: int | None = None
    """A reply that is longer is cut; without it, twice the longest one that solves a problem."""

    batch: int = 64
    """How many problems are answered at the same time."""

    baseline: str | None = None
    """Another model for `dense` and `window`, such as the base of a retrofit that trained all
    weights; without it, MODEL."""

    base: Path | None = None
    """The base model's folder, if the adapter's own note of it no longer holds."""

    device: Device = "cpu"

    weights: WeightFormat | None = None
    """Round the weights to `int8` or `int4` on loading (CPU only)."""

    weights_group: Group = 64
    """How many inputs share a scale of rounded weights."""

    kv_dtype: KvDtype = "auto"
    """What all memories store tokens in; `auto`: what is computed in."""

    survivors: SurvivorFormat = "same"
    """Let `sparse` store what left its window in `int8`, `fp8` or `int4`."""

    json: Path | None = None
    """Also write the results here, as one object."""

    def __post_init__(self) -> None:
        check_positive("EvaluateConfig", problems=self.problems, batch=self.batch)
        _ = self.sampling
        if "window" in self.memories and "sparse" not in self.memories:
            raise ValueError(
                "EvaluateConfig.memories has 'window' without 'sparse'; the window is made as wide "
                "as the sparse run's live tokens, so name both."
            )

    @property
    def sampling(self) -> SamplingConfig:
        """How tokens are chosen; problem i draws with the seed `seed + i`."""
        return SamplingConfig(
            temperature=self.temperature, seed=self.seed, max_new_tokens=self.max_new_tokens
        )


def check_positive(owner: str, **counts: int) -> None:
    """Refuse counts below one.

    Raises:
        ValueError: the first such count, by name.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{owner}.{name} is {count}; it must be at least 1.")
