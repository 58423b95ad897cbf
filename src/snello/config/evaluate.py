"""What `snello evaluate` compares, and on which problems. Knows nothing of models or of scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from snello.config.contender import Contender, parse_contenders
from snello.config.engine import (
    Device,
    Group,
    KvDtype,
    MemoryKind,
    SamplingConfig,
    SurvivorFormat,
    WeightFormat,
)

Metric = Literal["vote", "pass_all", "pass_k", "mean"]
DEFAULT_LENGTH_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Let several memories answer the same problems, and set the results side by side.

    With `--out FOLDER` it is a sweep: contenders, threads and lengths, every chain written down as
    it ends, so that the same command goes on after a stop.
    """

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

    out: Path | None = None
    """Make a sweep, and leave its records, tables (JSON, CSV) and report.html in this folder."""

    policies: tuple[str, ...] = ()
    """Of a sweep: MODEL with each of these, such as `dms dense window:tokens=64 h2o:budget=64`; a
    size of `match` holds as many tokens as the learned contender before it."""

    contenders: tuple[str, ...] = ()
    """Of a sweep: further ones, as MODEL@POLICY+FORMAT=VALUE, such as `bundled@dense` or
    `slim@dms+survivors=int8`; formats: weights, survivors, kv_dtype."""

    tasks: tuple[str, ...] = ()
    """Of a sweep: which tasks, such as `ledger`, `ledger:level=3`, `math500:source=rows.jsonl` or
    `needle:lengths=512/1024,depths=0/50/100`; without it, those that `--kinds` names."""

    questions: int | None = None
    """Of a sweep: how many of each task; without it, all of them, and as many as `--problems` says
    of problems that never end."""

    threads: tuple[int, ...] = (1,)
    """Of a sweep: how many chains to take together; the largest is how many are sampled."""

    lengths: tuple[int, ...] = ()
    """Of a sweep: the longest replies in tokens; the largest is computed, shorter ones are cut from
    it. Without it, `--max-new-tokens` or 512; a task may bound its replies itself."""

    metric: Metric = "vote"
    """Of a sweep: which score the frontiers show: `vote` (majority), `pass_all` (any thread is
    right), `pass_k` (the same, estimated from all threads), `mean`."""

    portraits: int = 3
    """Of a sweep: from how many solved questions to tell what each head keeps; 0: do not."""

    perplexity: Path | None = None
    """Instead of asking anything, tell what this text (UTF-8) costs each of `--policies` and
    `--contenders`, in nats per token and per byte."""

    perplexity_tokens: int | None = None
    """How many tokens of it are shown at once, the second half of them scored; without it, what the
    model's context holds."""

    def __post_init__(self) -> None:
        check_positive("EvaluateConfig", problems=self.problems, batch=self.batch)
        _ = self.sampling
        if self.out is not None:
            self._check_sweep()
            return
        of_both = () if self.perplexity is not None else ("policies", "contenders")
        given = [
            name for name in (*of_both, "tasks", "questions", "lengths") if getattr(self, name)
        ]
        if given or self.threads != (1,):
            raise ValueError(
                f"EvaluateConfig.{(given or ['threads'])[0]} is part of a sweep, and a sweep needs "
                "a folder for its records; add --out FOLDER."
            )
        if self.perplexity is not None:
            self._check_perplexity()
            return
        if "window" in self.memories and "sparse" not in self.memories:
            raise ValueError(
                "EvaluateConfig.memories has 'window' without 'sparse'; the window is made as wide "
                "as the sparse run's live tokens, so name both."
            )

    def _check_perplexity(self) -> None:
        self._refuse_baseline()
        matched = [contender.name for contender in self.parsed_contenders if contender.is_matched]
        if matched:
            raise ValueError(
                f"{matched[0]} is to match what another contender held while it answered; a text "
                "alone does not tell, so write how many tokens."
            )

    def _refuse_baseline(self) -> None:
        if self.baseline is not None:
            raise ValueError(
                f"EvaluateConfig.baseline is {self.baseline!r}, which is for neither a sweep nor "
                f"perplexity; name it as a contender: --contenders {self.baseline}@dense."
            )

    def _check_sweep(self) -> None:
        if self.perplexity is not None:
            raise ValueError(
                f"EvaluateConfig.perplexity is {self.perplexity}, which is no part of a sweep; "
                "leave --out away, and name a file with --json."
            )
        for name in ("threads", "lengths"):
            counts = getattr(self, name)
            if counts != tuple(sorted({*counts})) or (counts and counts[0] < 1):
                raise ValueError(
                    f"EvaluateConfig.{name} is {' '.join(map(str, counts))}; give counts of at "
                    "least 1, each once, the smallest first."
                )
        if not self.threads:
            raise ValueError("EvaluateConfig.threads is empty; give at least one count.")
        if self.questions is not None:
            check_positive("EvaluateConfig", questions=self.questions)
        if self.portraits < 0:
            raise ValueError(f"EvaluateConfig.portraits is {self.portraits}; it must be 0 or more.")
        self._refuse_baseline()
        _ = self.parsed_contenders

    @property
    def parsed_contenders(self) -> tuple[Contender, ...]:
        """Who takes part in a sweep: MODEL with each policy, then the others; MODEL alone if none.

        Raises:
            ValueError: one cannot be read, or comes twice.
        """
        own = tuple(f"{self.model}@{policy}" for policy in self.policies)
        return parse_contenders((*own, *self.contenders) or (self.model,))

    @property
    def lengths_tokens(self) -> tuple[int, ...]:
        """Of a sweep: the longest replies, ascending."""
        return self.lengths or (self.max_new_tokens or DEFAULT_LENGTH_TOKENS,)

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
