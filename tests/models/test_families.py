"""What the published configs of each family become, in the spelling they are published in."""

import json

import pytest

from snello.config.model import ExpertsConfig, Horizon, LatentConfig, TemperatureConfig
from snello.models.families import FAMILIES, read_model_config
from snello.models.rope import compute_frequencies
from tests.models.tiny import CASES

LLAMA31 = {
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
R1_DISTIL = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
SCOUT = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": 4,
        "floor_scale": 8192,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "max_position_embeddings": 10485760,
        "no_rope_layers": [],
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 1.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "use_qk_norm": True,
        "vocab_size": 202048,
    },
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(raw):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return read_model_config(tmp_path)

    return write_and_read


def test_every_family_has_its_parity_test():
    tested = {CASES[name]()[1].model_type for name in CASES}
    assert tested == set(FAMILIES) - {"llama4"}  # that one is in test_checkpoint.py


def test_llama_31(read):
    config = read(LLAMA31)
    assert (config.num_layers, config.head_size, config.num_kv_heads) == (32, 128, 8)
    assert config.rope.scaling == "llama3"
    assert config.rope.original_positions == 8192
    assert config.rope.theta == 500_000.0
    assert config.cache_shapes[0].numbers_per_slot == 256


def test_an_r1_distil_has_biases_and_no_window(read):
    config = read(R1_DISTIL)
    assert config.qkv_bias
    assert not config.output_bias
    assert {layer.horizon for layer in config.layers} == {Horizon()}
    assert config.rope.theta == 10_000.0


def test_deepseek_v3(read):
    config = read(DEEPSEEK_V3)
    assert config.latent == LatentConfig(
        q_rank=1536, kv_rank=512, nope_size=128, rope_size=64, value_size=128
    )
    assert config.experts == ExpertsConfig(
        num_experts=256,
        num_active=8,
        size=2048,
        shared_size=2048,
        score="sigmoid",
        normalize=True,
        scaling=2.5,
        correction_bias=True,
        num_groups=8,
        num_groups_kept=4,
        group_rank="top2",
    )
    assert [layer.routed for layer in config.layers] == [False] * 3 + [True] * 58
    assert config.num_extra_layers == 1
    assert config.rope.attention_factor == 1.0  # equal mscales cancel
    mscale = 0.1 * 3.6888794541139363 + 1.0
    assert config.attention_scale == pytest.approx(192**-0.5 * mscale**2)
    assert config.cache_shapes[0].numbers_per_slot == 576


def test_llama_4_scout(read):
    config = read(SCOUT)
    chunk = Horizon(kind="chunked", span_tokens=8192)
    assert [layer.rotates for layer in config.layers[:5]] == [True, True, True, False, True]
    assert [layer.horizon for layer in config.layers[2:4]] == [chunk, Horizon()]
    assert all(layer.routed for layer in config.layers)
    assert config.temperature == TemperatureConfig(floor_tokens=8192.0, strength=0.1)
    assert config.rope.interleaved
    assert config.rope.scaling == "llama3"
    assert config.qk_norm == "l2"
    assert compute_frequencies(config.rope).isfinite().all()


def test_what_the_decoder_cannot_do_is_refused(read):
    for changes, pattern in [
        ({"moe_layer_freq": 2}, r"'moe_layer_freq' is 2; only 1"),
        ({"scoring_func": "softmax"}, r"'scoring_func' is 'softmax'; it must be one of sigmoid"),
        ({"topk_method": "greedy"}, r"'topk_method' is 'greedy'; it must be one of noaux_tc"),
        ({"n_group": 7}, r"256 experts in 7 groups"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            read(DEEPSEEK_V3 | changes)
    second = DEEPSEEK_V3 | {"model_type": "deepseek_v2", "scoring_func": "softmax"}
    with pytest.raises(ValueError, match=r"'norm_topk_prob' is true for DeepSeek-V2"):
        read(second)


def test_as_many_layer_types_as_layers_are_needed(read):
    raw = R1_DISTIL | {"use_sliding_window": True, "layer_types": ["full_attention"]}
    with pytest.raises(ValueError, match=r"names 1 layer_types for 28 layers"):
        read(raw)


@pytest.mark.parametrize("case", ["qwen2 sliding in its later layers", "qwen3", "llama4"])
def test_lists_that_older_folders_lack_are_derived(case, read):
    raw = json.loads(CASES[case]()[1].to_json_string())
    lists = ("layer_types", "moe_layers", "no_rope_layers")
    assert any(raw.get(name) for name in lists)
    assert read({key: value for key, value in raw.items() if key not in lists}) == read(raw)
