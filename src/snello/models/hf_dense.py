"""Reading config.json of the families without experts: Llama, Mistral, Qwen2, Qwen3, Nemotron.

Knows nothing of tensors.
"""

from dataclasses import replace

from snello.config.model import ModelConfig
from snello.models.hf_config import read_activation, read_plain, slide, slide_where_told
from snello.models.hf_values import Values


def read_llama(values: Values, family: str) -> ModelConfig:
    """Llama 2 and 3: the plain reading."""
    return read_plain(values, family)


def read_mistral(values: Values, family: str) -> ModelConfig:
    """Mistral: Llama without biases, all layers sliding if the config has a window."""
    config = replace(read_plain(values, family), qkv_bias=False, output_bias=False, mlp_bias=False)
    return slide(values, config)


def read_qwen2(values: Values, family: str) -> ModelConfig:
    """Qwen2, Qwen2.5 and the R1 distils of them: biases on queries, keys and values."""
    config = replace(read_plain(values, family), qkv_bias=True, output_bias=False, mlp_bias=False)
    return slide_where_told(values, config)


def read_qwen3(values: Values, family: str) -> ModelConfig:
    """Qwen3: queries and keys are normed; `head_dim` does not follow from the hidden size."""
    config = read_plain(values, family, head_size=128)
    return slide_where_told(values, replace(config, qk_norm="rms", mlp_bias=False))


def read_nemotron(values: Values, family: str) -> ModelConfig:
    """Nemotron: layer norm around one, squared ReLU without a gate, half of each head rotated."""
    config = read_plain(values, family, rotated_fraction=values.number("rope_percent", 0.5))
    return replace(
        config,
        norm="layernorm1p",
        norm_eps=values.number("norm_eps", 1e-5),
        activation=read_activation(values, "relu2"),
        mlp_gated=False,
    )
