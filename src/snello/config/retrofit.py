"""What a retrofit is told: the base, the data, what is trained, and how fast the factor rises.

Knows nothing of tensors; every bad setting is refused here, before any work.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from snello.config.dms import DecisionConfig, Granularity, Variant

Trained = Literal["decision", "lora", "all"]


def _at_least(name: str, value: float, least: float, hint: str = "") -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.{hint and ' ' + hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Which products of the body get a low-rank companion; used with `train` lora."""

    rank: int = 16
    alpha: int = 32
    """The companion is scaled by `alpha / rank`."""

    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Module names as Hugging Face writes them."""

    def __post_init__(self) -> None:
        _at_least("LoraSettings.rank", self.rank, 1)
        if not self.targets:
            raise ValueError(
                "LoraSettings.targets is empty; name at least one module, such as q_proj."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """How the base writes its own replies; used with `replies` base."""

    replies_per_prompt: int = 1
    max_reply_tokens: int = 4096
    temperature: float = 0.8
    top_p: float = 1.0
    num_prompts: int = 1024
    """How many prompts are answered; for the source `bundled`, which never ends."""

    batch_sequences: int = 32

    def __post_init__(self) -> None:
        for name in ("replies_per_prompt", "max_reply_tokens", "num_prompts", "batch_sequences"):
            _at_least(f"TraceSettings.{name}", getattr(self, name), 1)
        _at_least("TraceSettings.temperature", self.temperature, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSettings:
    """Which problems the source `bundled` poses; repeat a kind to make it more frequent."""

    kinds: tuple[str, ...] = ("ledger", "leg_counting", "chain_sum")
    levels: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    first_seed: int = 1_000_000_000
    """The base was trained on seeds below this one."""

    def __post_init__(self) -> None:
        if not self.kinds or not self.levels:
            raise ValueError(
                "MixtureSettings needs at least one kind and one level; "
                f"it has kinds {self.kinds} and levels {self.levels}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrofitConfig:
    """A whole retrofit. The defaults follow the released recipe where the scale allows it.

    Source: DMS, arXiv:2506.05345 (the ramp), and the authors' released recipe (the optimizer).
    """

    base: tyro.conf.Positional[str]
    """Hugging Face folder of the base model, or `bundled`."""

    out: Path
    """Run folder; the adapter (or full weights) ends up in it. A stopped run goes on there."""

    data: str = "bundled"
    """A .jsonl or .parquet file, a hub dataset name, or `bundled`: fresh problems without end."""

    replies: Literal["data", "base"] = "data"
    """Train on the replies in the data, or on replies that the base writes to its prompts."""

    factor: float = 8.0
    """Dense cache size over sparse cache size at the end of the ramp, the window left aside."""

    window_tokens: Annotated[int, tyro.conf.arg(name="window")] = 256
    """A token stays visible this many positions, marked or not."""

    shift: Literal[0, 1] = 1
    """1: token t's fate is announced by token t+1; 0: a token decides for itself."""

    variant: Variant = "adapter"
    """The decision is read from a small linear, or from a borrowed query neuron."""

    granularity: Granularity = "head"
    """One decision for each key-value head, or one for the whole layer."""

    train: Trained = "decision"
    """The decision alone, LoRA companions with it, or all weights."""

    lora: LoraSettings = field(default_factory=LoraSettings)
    traces: TraceSettings = field(default_factory=TraceSettings)
    mixture: MixtureSettings = field(default_factory=MixtureSettings)

    steps: int = 1000
    ramp_steps: int | None = None
    """The factor rises linearly from 1 over these steps, then stays; None: 7 in 10 of the steps."""

    fade_steps: int | None = None
    """Borrowed neuron only: steps before the ramp in which it fades to zero, nothing evicted;
    None: 1 in 10 of the steps."""

    batching: Literal["packed", "padded"] = "packed"
    """Fill rows with document after document, or pad rows of similar length (cheaper on CPUs)."""

    rows: int = 1
    """Rows of one process in one forward pass."""

    sequence_tokens: int | None = None
    """Length of a row; None: the context of the model, at most 32768."""

    accumulation: int = 8
    """Forward passes summed into one step."""

    checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""

    learning_rate: float = 3e-5
    """Of the decision, and of everything else unless `body_learning_rate` is given."""

    body_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup_steps: int = 0
    """The learning rate rises linearly over the first steps."""

    cooldown_steps: int = 0
    """The learning rate falls linearly to zero over the last steps."""

    tau: float = 0.1
    """Temperature of the relaxed decision."""

    kl_direction: Literal["student", "teacher"] = "student"
    """Whose probabilities weigh: sum p_S (log p_S - log p_T), or sum p_T (log p_T - log p_S)."""

    kl_chunk_tokens: int | None = None
    """Tokens whose logits exist at once; None: as many as make 64 million numbers."""

    prompt_weight: float = 1.0
    """Weight of positions before the reply in the distillation; 0 leaves them out."""

    compression_weight: float = 1.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the products (autocast); weights that train are kept in float32."""

    body_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights that do not train."""

    device: str | None = None
    """None: cuda where there is one, else cpu."""

    parallel: Literal["auto", "replicate", "shard"] = "auto"
    """Several processes: copies (DDP) or shards (FSDP2); auto shards on GPUs."""

    seed: int = 0
    log_every_steps: int = 10
    save_every_steps: int = 50
    """How often the state to go on from is saved."""

    json: Path | None = None
    """Write the figures of the finished run here too, as one object."""

    def __post_init__(self) -> None:
        least = {
            "steps": 1, "num_ramp_steps": 1, "num_fade_steps": 0, "rows": 1, "accumulation": 1,
            "warmup_steps": 0, "cooldown_steps": 0, "log_every_steps": 1,
            "save_every_steps": 1, "prompt_weight": 0.0, "compression_weight": 0.0,
            "weight_decay": 0.0, "seed": 0,
        }  # fmt: skip
        for name, bound in least.items():
            _at_least(f"RetrofitConfig.{name}", getattr(self, name), bound)
        _at_least(
            "RetrofitConfig.factor", self.factor, 1.0,
            "It is dense size over sparse size: for 'keep one in eight' write 8, not 0.125.",
        )  # fmt: skip
        self._check_rates()
        self._check_lengths()
        self._check_targets()
        _ = self.decision

    @property
    def decision(self) -> DecisionConfig:
        """Where the logit is read and what it means."""
        return DecisionConfig(
            variant=self.variant,
            granularity=self.granularity,
            window_tokens=self.window_tokens,
            shift=self.shift,
        )

    @property
    def num_fade_steps(self) -> int:
        """Steps before the ramp: none for the adapter, which disturbs nothing."""
        if self.variant == "adapter":
            return 0
        return self.steps // 10 if self.fade_steps is None else self.fade_steps

    @property
    def num_ramp_steps(self) -> int:
        """Steps over which the factor rises: given, or seven tenths of all."""
        return max(1, self.steps * 7 // 10) if self.ramp_steps is None else self.ramp_steps

    def _check_rates(self) -> None:
        for name in ("learning_rate", "body_learning_rate", "clip_norm", "tau", "kl_chunk_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"RetrofitConfig.{name} is {value}; it must be above 0.")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(
                f"RetrofitConfig.betas is {self.betas}; both must be at least 0 and below 1."
            )

    def _check_targets(self) -> None:
        targets = self.lora.targets
        if self.variant != "borrowed" or self.train != "lora":
            return
        if "q_proj" not in targets and "q_b_proj" not in targets:
            raise ValueError(
                f"LoraSettings.targets is {targets}; a borrowed neuron is part of the queries, "
                "so name q_proj (or q_b_proj) too."
            )

    def _check_lengths(self) -> None:
        if self.sequence_tokens is not None:
            _at_least("RetrofitConfig.sequence_tokens", self.sequence_tokens, 2)
            if self.window_tokens >= self.sequence_tokens:
                raise ValueError(
                    f"RetrofitConfig.window_tokens is {self.window_tokens} and sequence_tokens "
                    f"{self.sequence_tokens}; nothing would ever leave the window. "
                    "Choose a smaller window or longer rows."
                )
        needed = self.num_fade_steps + self.num_ramp_steps
        if needed > self.steps:
            raise ValueError(
                f"RetrofitConfig.steps is {self.steps}, but fading and ramp take {needed}; "
                f"give --steps {needed} or more, or a shorter --ramp-steps."
            )
