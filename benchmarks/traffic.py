"""The bytes that a decode step must read, whatever the program: weights once, live tokens once.

Knows nothing of any engine; activations, positions and marks are left out (below one percent).
"""

from dataclasses import dataclass

from snello.config.model import ModelConfig

SCALE_BYTES = 2
FORMAT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one step moves."""

    weight_bytes: float
    kv_bytes: float

    @property
    def total_bytes(self) -> float:
        """Weights and live tokens together."""
        return self.weight_bytes + self.kv_bytes

    def percent_of(self, bandwidth: float, seconds: float) -> float:
        """How near a step is to a machine that reads `bandwidth` bytes a second."""
        return 100.0 * self.total_bytes / (seconds * bandwidth)

    def as_figures(self, bandwidth: float, seconds: float) -> dict[str, float]:
        """The same for a line of evidence."""
        return {
            "weight_mb": round(self.weight_bytes / 1e6, 1),
            "kv_mb": round(self.kv_bytes / 1e6, 1),
            "read_gb_s": round(bandwidth / 1e9, 2),
            "percent_of_read": round(self.percent_of(bandwidth, seconds), 1),
        }


def count_weights(config: ModelConfig, *, has_output: bool = True) -> int:
    """Count the numbers of all matrices that a step multiplies by, with the output matrix or not.

    Raises:
        ValueError: a model with experts or latent attention, which read other amounts.
    """
    if config.experts is not None or config.latent is not None:
        raise ValueError("traffic is written for dense models with grouped heads; extend it first.")
    hidden, size = config.hidden_size, config.head_size
    attention = 2 * hidden * size * (config.num_heads + config.num_kv_heads)
    feed_forward = (3 if config.mlp_gated else 2) * hidden * config.mlp_size
    output = config.vocab_size * hidden if has_output else 0
    return config.num_layers * (attention + feed_forward) + output


def count_attention(config: ModelConfig, num_tokens: int) -> int:
    """Count the operations of dense causal attention over a whole text: scores and values."""
    pairs = num_tokens * (num_tokens + 1) // 2
    return 4 * pairs * config.num_layers * config.num_heads * config.head_size


def weight_bytes(config: ModelConfig, weights: str, group: int | None = None) -> float:
    """Return the bytes of all matrices in a format; rounded ones have a scale for each group."""
    scale = SCALE_BYTES / group if group is not None and weights.startswith("int") else 0.0
    return count_weights(config) * (FORMAT_BYTES[weights] + scale)


def token_bytes(config: ModelConfig, stored: str) -> float:
    """Return the bytes of one token of one head: key and value."""
    return 2 * config.head_size * FORMAT_BYTES[stored]


def dense_kv_bytes(config: ModelConfig, num_tokens: int, stored: str) -> float:
    """Return the bytes of `num_tokens` tokens of all heads of all layers."""
    num_heads = config.num_layers * config.num_kv_heads
    return num_tokens * num_heads * token_bytes(config, stored)
