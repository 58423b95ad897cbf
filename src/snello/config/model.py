"""What a decoder is made of, told once for all families. Knows nothing of tensors or of files."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2"]
RopeScaling = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far back a layer of the base model looks, before any eviction.

    `full` sees everything; `sliding` sees the last `span_tokens` positions, itself included;
    `chunked` sees its own chunk of `span_tokens` positions from the chunk's start.
    """

    kind: Literal["full", "sliding", "chunked"] = "full"
    span_tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "full") != (self.span_tokens is None):
            raise ValueError(
                f"Horizon is {self.kind!r} with span_tokens {self.span_tokens}; 'full' takes no "
                "span, 'sliding' and 'chunked' need one of at least 1."
            )
        if self.span_tokens is not None and self.span_tokens < 1:
            raise ValueError(f"Horizon.span_tokens is {self.span_tokens}; it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What one layer stores for each token: K heads of a key and a value.

    For latent attention (MLA) there is one head, whose value is the first `value_size` numbers of
    its key: `value_in_key` says so, and then only the key is stored.
    """

    num_heads: int
    key_size: int
    value_size: int
    value_in_key: bool = False
    horizon: Horizon = Horizon()

    @property
    def numbers_per_slot(self) -> int:
        """How many numbers one slot (one token of one head) takes."""
        return self.key_size + (0 if self.value_in_key else self.value_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: which dimensions turn, how fast, and how that was stretched."""

    size: int
    """How many dimensions of a head are rotated; the others pass."""

    theta: float = 10_000.0
    interleaved: bool = False
    """True: dimension 2i turns with 2i+1; False: dimension i turns with i + size/2."""

    scaling: RopeScaling = "default"
    factor: float = 1.0
    attention_factor: float = 1.0
    """Multiplies cosine and sine (YaRN)."""

    original_positions: int = 2048
    """The context the base was trained for; `dynamic` starts to stretch beyond it."""

    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """YaRN: round the edges of its ramp to whole dimensions."""

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise ValueError(
                f"RopeConfig.size is {self.size}; it must be even and at least 2 "
                "(the rotated part of head_dim)."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """Multi-head latent attention: a token is stored as one latent and one rotated key part."""

    q_rank: int | None
    """Rank of the query's own bottleneck; None: queries are projected directly."""

    kv_rank: int
    nope_size: int
    rope_size: int
    value_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """Routed experts: how many, how they are chosen, and how their answers are weighed."""

    num_experts: int
    num_active: int
    size: int
    """Inner width of one routed expert."""

    shared_size: int = 0
    """Inner width of the expert that every token visits; 0: there is none."""

    score: Literal["softmax", "sigmoid"] = "softmax"
    normalize: bool = False
    """Whether the chosen experts' weights are made to sum to one."""

    weigh: Literal["input", "output"] = "output"
    scaling: float = 1.0
    correction_bias: bool = False
    """Whether a stored bias takes part in the choice (not in the weights)."""

    num_groups: int = 1
    num_groups_kept: int = 1
    group_rank: Literal["max", "top2"] = "max"
    """What ranks a group: its best score, or the sum of its best two."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_active <= self.num_experts:
            raise ValueError(
                f"ExpertsConfig.num_active is {self.num_active}; it must be between 1 and the "
                f"number of experts, {self.num_experts}."
            )
        if self.num_experts % self.num_groups or not 1 <= self.num_groups_kept <= self.num_groups:
            raise ValueError(
                f"ExpertsConfig has {self.num_experts} experts in {self.num_groups} groups, "
                f"{self.num_groups_kept} kept; groups must divide the experts evenly, and between "
                "1 and all of them be kept."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureConfig:
    """Llama 4: layers without rotation scale their queries by the logarithm of the position."""

    floor_tokens: float = 8192.0
    strength: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """In what one layer differs from its neighbours."""

    horizon: Horizon = Horizon()
    rotates: bool = True
    routed: bool = False
    """Whether its feed-forward part is the experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder, whatever its family."""

    family: str
    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    layers: tuple[LayerConfig, ...]
    rope: RopeConfig
    max_positions: int
    activation: Activation = "silu"
    norm: Literal["rms", "layernorm1p"] = "rms"
    norm_eps: float = 1e-6
    attention_scale: float
    """What query-key products are multiplied by before the softmax."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    mlp_gated: bool = True
    qk_norm: Literal["rms", "l2"] | None = None
    """`rms`: learned, before RoPE, everywhere; `l2`: unlearned, after RoPE, where it rotates."""

    tied: bool = False
    """Whether the output matrix is the embedding."""

    latent: LatentConfig | None = None
    experts: ExpertsConfig | None = None
    temperature: TemperatureConfig | None = None
    num_extra_layers: int = 0
    """Multi-token prediction layers that stand in the checkpoint behind the last layer."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "mlp_size", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ModelConfig.{name} is {getattr(self, name)}; it must be at least 1."
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"ModelConfig has {self.num_heads} query heads and {self.num_kv_heads} key-value "
                "heads; the first must be a multiple of the second."
            )
        if not self.layers:
            raise ValueError("ModelConfig.layers is empty; a decoder needs at least one layer.")
        if self.experts is None and any(layer.routed for layer in self.layers):
            raise ValueError("ModelConfig.layers has routed layers but experts is None; give both.")

    @property
    def num_layers(self) -> int:
        """How many layers the decoder runs (extra prediction layers not counted)."""
        return len(self.layers)

    @property
    def cache_shapes(self) -> tuple[CacheShape, ...]:
        """What each layer stores for a token."""
        return tuple(self._cache_shape(layer.horizon) for layer in self.layers)

    def _cache_shape(self, horizon: Horizon) -> CacheShape:
        if self.latent is None:
            return CacheShape(
                num_heads=self.num_kv_heads,
                key_size=self.head_size,
                value_size=self.head_size,
                horizon=horizon,
            )
        return CacheShape(
            num_heads=1,
            key_size=self.latent.kv_rank + self.latent.rope_size,
            value_size=self.latent.kv_rank,
            value_in_key=True,
            horizon=horizon,
        )
