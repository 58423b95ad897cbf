"""Reading config.json of the families with experts: Mixtral, Qwen3-MoE, Llama 4.

Knows nothing of tensors.
"""

from dataclasses import replace

from snello.config.model import (
    ExpertsConfig,
    Horizon,
    LayerConfig,
    ModelConfig,
    TemperatureConfig,
)
from snello.models.compressed import read_scheme
from snello.models.hf_config import (
    read_layer_types,
    read_plain,
    route,
    slide,
)
from snello.models.hf_values import Values


def read_mixtral(values: Values, family: str) -> ModelConfig:
    """Mixtral: Mistral with experts in every layer."""
    config = replace(
        read_plain(values, family, theta=1_000_000.0),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        norm_eps=values.number("rms_norm_eps", 1e-5),
        experts=ExpertsConfig(
            num_experts=values.integer("num_local_experts", 8),
            num_active=values.integer("num_experts_per_tok", 2),
            size=values.integer("intermediate_size"),
            normalize=True,
        ),
    )
    return slide(values, route(config, list(range(config.num_layers))))


def read_qwen3_moe(values: Values, family: str) -> ModelConfig:
    """Qwen3 with experts, in all layers or in every so many."""
    plain = read_plain(values, family)
    config = replace(
        plain,
        qk_norm="rms",
        mlp_bias=False,
        experts=ExpertsConfig(
            num_experts=values.integer(
                "num_experts" if values.has("num_experts") else "num_local_experts", 128
            ),
            num_active=values.integer("num_experts_per_tok", 8),
            size=values.integer("moe_intermediate_size", 768),
            normalize=values.flag("norm_topk_prob", False),
        ),
    )
    every = max(values.integer("decoder_sparse_step", 1), 1)
    unrouted = values.integers("mlp_only_layers")
    layers = range(config.num_layers)
    routed = [layer for layer in layers if layer not in unrouted and (layer + 1) % every == 0]
    config = route(config, routed)
    return slide(values, config) if values.flag("use_sliding_window", False) else config


def read_llama4(values: Values, family: str) -> ModelConfig:
    """Llama 4 with its vision tower: only the text part is run."""
    read_scheme(values)
    return read_llama4_text(values.inner("text_config"), family)


def read_llama4_text(values: Values, family: str) -> ModelConfig:
    """Llama 4: chunked layers that rotate, among full ones that do not; experts in some."""
    plain = read_plain(values, family, theta=500_000.0, head_size=128)
    size = values.integer("intermediate_size")
    temperature = TemperatureConfig(
        floor_tokens=values.number("floor_scale", 8192.0),
        strength=values.number("attn_scale", 0.1),
    )
    config = replace(
        plain,
        norm_eps=values.number("rms_norm_eps", 1e-5),
        rope=replace(plain.rope, interleaved=True),
        mlp_size=values.integer("intermediate_size_mlp", 16384),
        mlp_bias=False,
        qk_norm="l2" if values.flag("use_qk_norm", True) else None,
        temperature=temperature if values.flag("attn_temperature_tuning", True) else None,
        experts=ExpertsConfig(
            num_experts=values.integer("num_local_experts", 16),
            num_active=values.integer("num_experts_per_tok", 1),
            size=size,
            shared_size=size,
            score="sigmoid",
            weigh="input",
        ),
    )
    return route(chunk_llama4(values, config), list_llama4_routed(values, config.num_layers))


def chunk_llama4(values: Values, config: ModelConfig) -> ModelConfig:
    """Tell which layers of Llama 4 rotate, and which of them look only into their chunk."""
    count, every = config.num_layers, values.integer("no_rope_layer_interval", 4)
    rotating = values.integers("no_rope_layers")  # one where a layer does rotate, despite its name
    rotating = rotating or [int((layer + 1) % max(every, 1) != 0) for layer in range(count)]
    if len(rotating) < count:
        raise ValueError(
            f"config.json names {len(rotating)} no_rope_layers for {count} layers; it must name "
            "one for each layer. Correct config.json."
        )
    kinds = read_layer_types(values, count, ("full_attention", "chunked_attention"))
    kinds = kinds or ["chunked_attention" if turns else "full_attention" for turns in rotating]
    span = values.integer("attention_chunk_size", 8192)
    chunk = Horizon(kind="chunked", span_tokens=span)
    layers = tuple(
        LayerConfig(
            horizon=chunk if kind == "chunked_attention" else Horizon(), rotates=bool(turns)
        )
        for kind, turns in zip(kinds, rotating[:count], strict=True)
    )
    return replace(config, layers=layers)


def list_llama4_routed(values: Values, num_layers: int) -> list[int]:
    """The layers of Llama 4 that have experts: listed, or every so many."""
    if values.has("moe_layers"):
        return values.integers("moe_layers")
    every = max(values.integer("interleave_moe_layer_step", 1), 1)
    return list(range(every - 1, num_layers, every))
