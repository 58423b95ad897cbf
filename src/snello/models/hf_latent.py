"""Reading config.json of the families with latent attention: DeepSeek-V2, DeepSeek-V3 and R1.

Knows nothing of tensors.
"""

from dataclasses import replace

from snello.config.model import ExpertsConfig, LatentConfig, ModelConfig
from snello.models.hf_config import read_plain, route
from snello.models.hf_rope import read_latent_mscale
from snello.models.hf_values import Values


def read_latent(values: Values, family: str) -> ModelConfig:
    """What both generations share: the latent, its rotated part, and dense layers in front."""
    latent = LatentConfig(
        q_rank=values.integer("q_lora_rank") if values.has("q_lora_rank") else None,
        kv_rank=values.integer("kv_lora_rank", 512),
        nope_size=values.integer("qk_nope_head_dim", 128),
        rope_size=values.integer("qk_rope_head_dim", 64),
        value_size=values.integer("v_head_dim", 128),
    )
    plain = read_plain(values, family, rotated_size=latent.rope_size)
    head_size = latent.nope_size + latent.rope_size
    return replace(
        plain,
        head_size=head_size,
        latent=latent,
        attention_scale=head_size**-0.5 * read_latent_mscale(values),
    )


def read_experts(values: Values) -> ExpertsConfig:
    """The routed and shared experts, chosen as the first generation does at its simplest."""
    if values.integer("moe_layer_freq", 1) != 1:
        raise ValueError(
            f"config.json says 'moe_layer_freq' is {values.integer('moe_layer_freq')}; only 1 is "
            "supported (experts in every layer after the dense ones)."
        )
    size = values.integer("moe_intermediate_size")
    return ExpertsConfig(
        num_experts=values.integer("n_routed_experts"),
        num_active=values.integer("num_experts_per_tok"),
        size=size,
        shared_size=size * values.integer("n_shared_experts", 1),
        scaling=values.number("routed_scaling_factor", 1.0),
    )


def read_deepseek_v2(values: Values, family: str) -> ModelConfig:
    """DeepSeek-V2: softmax scores; the best experts of all, or of the best groups."""
    if values.flag("norm_topk_prob", False):
        raise ValueError(
            "config.json says 'norm_topk_prob' is true for DeepSeek-V2; it must be false, as in "
            "all published models (implementations disagree on what true means)."
        )
    values.word("scoring_func", ("softmax",), "softmax")
    method = values.word("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    experts = read_experts(values)
    if method == "group_limited_greedy":
        experts = replace(
            experts,
            num_groups=values.integer("n_group"),
            num_groups_kept=values.integer("topk_group"),
        )
    config = read_latent(values, family)
    config = replace(config, experts=experts, rope=replace(config.rope, interleaved=True))
    first = values.integer("first_k_dense_replace", 0)
    return route(config, list(range(first, config.num_layers)))


def read_deepseek_v3(values: Values, family: str) -> ModelConfig:
    """DeepSeek-V3 and R1: sigmoid scores, a bias that takes part in the choice, groups by two."""
    values.word("scoring_func", ("sigmoid",), "sigmoid")
    values.word("topk_method", ("noaux_tc",), "noaux_tc")
    experts = replace(
        read_experts(values),
        score="sigmoid",
        normalize=values.flag("norm_topk_prob", True),
        scaling=values.number("routed_scaling_factor", 2.5),
        correction_bias=True,
        num_groups=values.integer("n_group", 8),
        num_groups_kept=values.integer("topk_group", 4),
        group_rank="top2",
    )
    extra = "num_nextn_predict_layers"
    extra = extra if values.has(extra) else "num_mtp_layers"
    config = read_latent(values, family)
    config = replace(
        config,
        mlp_bias=False,
        experts=experts,
        rope=replace(config.rope, interleaved=values.flag("rope_interleave", True)),
        num_extra_layers=values.integer(extra, 1),
    )
    first = values.integer("first_k_dense_replace", 3)
    return route(config, list(range(first, config.num_layers)))
