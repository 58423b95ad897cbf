"""Tiny random models of every family, made by transformers: the other side of each parity test."""

import torch
import transformers as hf

COMMON = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_implementation": "eager",
}
LATENT = COMMON | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
DEEPSEEK_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
    "original_max_position_embeddings": 32,
}
QWEN3 = COMMON | {"head_dim": 12}
EXPERTS = {"moe_intermediate_size": 20, "num_experts_per_tok": 2}
LLAMA4 = QWEN3 | {
    "num_hidden_layers": 4,
    "intermediate_size_mlp": 40,
    "num_local_experts": 4,
    "attention_chunk_size": 16,
    "floor_scale": 8,
    "attn_scale": 0.3,
}
V3 = LATENT | {
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 16,
    "num_nextn_predict_layers": 0,
    "routed_scaling_factor": 1.7,
}

CASES = {
    "llama": lambda: (hf.LlamaForCausalLM, hf.LlamaConfig(**COMMON)),
    "llama with biases, tied, one group": lambda: (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(
            **COMMON
            | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}
            | {"tie_word_embeddings": True}
        ),
    ),
    "llama with its own head size": lambda: (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**COMMON | {"head_dim": 10, "num_key_value_heads": 1}),
    ),
    "mistral without a window": lambda: (
        hf.MistralForCausalLM,
        hf.MistralConfig(**COMMON, sliding_window=None),
    ),
    "mistral with a window": lambda: (
        hf.MistralForCausalLM,
        hf.MistralConfig(**COMMON, sliding_window=9),
    ),
    "qwen2": lambda: (hf.Qwen2ForCausalLM, hf.Qwen2Config(**COMMON)),
    "qwen2 sliding in its later layers": lambda: (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=11, max_window_layers=1),
    ),
    "qwen3": lambda: (hf.Qwen3ForCausalLM, hf.Qwen3Config(**QWEN3)),
    "qwen3 tied with layer types": lambda: (
        hf.Qwen3ForCausalLM,
        hf.Qwen3Config(
            **QWEN3 | {"tie_word_embeddings": True, "num_hidden_layers": 3},
            use_sliding_window=True,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "nemotron": lambda: (
        hf.NemotronForCausalLM,
        hf.NemotronConfig(**COMMON | {"attention_bias": True, "mlp_bias": True}),
    ),
    "mixtral": lambda: (
        hf.MixtralForCausalLM,
        hf.MixtralConfig(**COMMON, num_local_experts=5, num_experts_per_tok=2),
    ),
    "qwen3_moe": lambda: (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig(**COMMON, **EXPERTS, num_experts=6, norm_topk_prob=True),
    ),
    "qwen3_moe with plain layers": lambda: (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig(
            **COMMON | {"num_hidden_layers": 4},
            **EXPERTS,
            num_experts=6,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
        ),
    ),
    "llama4": lambda: (
        hf.Llama4ForCausalLM,
        hf.Llama4TextConfig(**LLAMA4, interleave_moe_layer_step=2, num_experts_per_tok=2),
    ),
    "llama4 without norm and temperature": lambda: (
        hf.Llama4ForCausalLM,
        hf.Llama4TextConfig(
            **LLAMA4,
            use_qk_norm=False,
            attn_temperature_tuning=False,
            no_rope_layers=[0, 1, 1, 0],
        ),
    ),
    "deepseek_v2 greedy without query rank": lambda: (
        hf.DeepseekV2ForCausalLM,
        hf.DeepseekV2Config(
            **LATENT, q_lora_rank=None, topk_method="greedy", routed_scaling_factor=1.3
        ),
    ),
    "deepseek_v2 with groups, biases and yarn": lambda: (
        hf.DeepseekV2ForCausalLM,
        hf.DeepseekV2Config(
            **LATENT | {"attention_bias": True, "mlp_bias": True},
            q_lora_rank=16,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            rope_parameters=dict(DEEPSEEK_YARN),
        ),
    ),
    "deepseek_v3": lambda: (hf.DeepseekV3ForCausalLM, hf.DeepseekV3Config(**V3)),
    "deepseek_v3 with yarn, not interleaved": lambda: (
        hf.DeepseekV3ForCausalLM,
        hf.DeepseekV3Config(
            **V3 | {"q_lora_rank": None, "norm_topk_prob": False, "attention_bias": True},
            rope_interleave=False,
            rope_parameters=dict(DEEPSEEK_YARN),
        ),
    ),
}


def build_tiny(name, seed=0):
    """The model of a case, every parameter and buffer with a say in the logits at random."""
    make, config = CASES[name]()
    return randomize(make(config), seed)


@torch.no_grad()
def randomize(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensor.add_(0.3 * noise)  # around one, or around zero for layernorm1p
        elif tensor.ndim == 1:
            tensor.copy_(0.3 * noise)  # biases, the correction bias among them
        else:
            tensor.copy_(noise * tensor.shape[-1] ** -0.5)
    return model.eval()


def ragged_prompts(lengths=(37, 5, 64), vocab_size=61, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size, (n,), generator=generator) for n in lengths]
