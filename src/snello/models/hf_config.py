"""From config.json keys that all families share to a ModelConfig: the Llama reading, and the parts.

Knows nothing of single families: those are in families.py.
"""

from dataclasses import replace
from typing import cast, get_args

from snello.config.model import Activation, Horizon, LayerConfig, ModelConfig
from snello.models.compressed import read_scheme
from snello.models.hf_rope import read_rope
from snello.models.hf_values import Values


def read_plain(
    values: Values,
    family: str,
    *,
    theta: float = 10_000.0,
    head_size: int | None = None,
    rotated_fraction: float = 1.0,
    rotated_size: int | None = None,
) -> ModelConfig:
    """Read a decoder in the manner of Llama; a family replaces what it does differently.

    `head_size` is the family's own default where it does not follow from hidden size and heads;
    `rotated_size` how much of a head RoPE sees, where that is not the head size's affair.
    """
    read_scheme(values)  # refuses what cannot be read; who fills the decoder reads it again
    num_heads = values.integer("num_attention_heads")
    if num_heads < 1:
        raise ValueError("config.json says 'num_attention_heads' is 0; it must be at least 1.")
    hidden_size = values.integer("hidden_size")
    head_size = values.integer("head_dim", head_size or hidden_size // num_heads)
    return ModelConfig(
        family=family,
        vocab_size=values.integer("vocab_size"),
        hidden_size=hidden_size,
        mlp_size=values.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=values.integer("num_key_value_heads", num_heads),
        head_size=head_size,
        layers=tuple(LayerConfig() for _ in range(values.integer("num_hidden_layers"))),
        rope=read_rope(
            values, rotated_size or head_size, theta=theta, rotated_fraction=rotated_fraction
        ),
        max_positions=values.integer("max_position_embeddings", 2048),
        activation=read_activation(values),
        norm_eps=values.number("rms_norm_eps", 1e-6),
        attention_scale=head_size**-0.5,
        qkv_bias=values.flag("attention_bias", False),
        output_bias=values.flag("attention_bias", False),
        mlp_bias=values.flag("mlp_bias", False),
        tied=values.flag("tie_word_embeddings", False),
    )


def read_activation(values: Values, default: str = "silu") -> Activation:
    """Read the feed-forward activation."""
    return cast(Activation, values.word("hidden_act", get_args(Activation), default))


def slide(values: Values, config: ModelConfig, *, first_layer: int = 0) -> ModelConfig:
    """Give the layers from `first_layer` on the sliding window of config.json, if it has one."""
    if not values.has("sliding_window"):
        return config
    near = Horizon(kind="sliding", span_tokens=values.integer("sliding_window"))
    layers = tuple(
        replace(layer, horizon=near) if index >= first_layer else layer
        for index, layer in enumerate(config.layers)
    )
    return replace(config, layers=layers)


def slide_where_told(values: Values, config: ModelConfig) -> ModelConfig:
    """Qwen's rule: the window counts if `use_sliding_window`, on the layers that are told.

    They are told by `layer_types`, or in older files are those from `max_window_layers` on.
    """
    if not values.flag("use_sliding_window", False) or not values.has("sliding_window"):
        return config
    kinds = read_layer_types(values, config.num_layers, ("full_attention", "sliding_attention"))
    if not kinds:
        return slide(values, config, first_layer=values.integer("max_window_layers", 28))
    near = Horizon(kind="sliding", span_tokens=values.integer("sliding_window"))
    layers = tuple(
        replace(layer, horizon=near if kind == "sliding_attention" else Horizon())
        for layer, kind in zip(config.layers, kinds, strict=True)
    )
    return replace(config, layers=layers)


def read_layer_types(values: Values, num_layers: int, allowed: tuple[str, ...]) -> list[str]:
    """Read `layer_types`; absent means an empty list.

    Raises:
        ValueError: there is not one for each layer.
    """
    kinds = values.words("layer_types", allowed)
    if kinds and len(kinds) != num_layers:
        raise ValueError(
            f"config.json names {len(kinds)} layer_types for {num_layers} layers; "
            "it must name one for each layer. Correct config.json."
        )
    return kinds


def route(config: ModelConfig, routed: list[int]) -> ModelConfig:
    """Make the listed layers' feed-forward part the experts."""
    layers = tuple(
        replace(layer, routed=index in routed) for index, layer in enumerate(config.layers)
    )
    return replace(config, layers=layers)
