"""The families of models that can be loaded: one entry each, `model_type` of config.json to Family.

Knows nothing of tensors. To add a family: write its reader, name it here, and add its parity test
to tests/models/test_parity.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from snello.config.model import ModelConfig
from snello.models.hf_values import Values, read_values
from snello.models.names import Names

LLAMA_NAMES = Names()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Which function reads a family's config.json, and how its tensors are called on disk."""

    reader: str
    names: Names = LLAMA_NAMES


FAMILIES = {
    "llama": Family(reader="snello.models.hf_dense:read_llama"),
    "mistral": Family(reader="snello.models.hf_dense:read_mistral"),
    "qwen2": Family(reader="snello.models.hf_dense:read_qwen2"),
    "qwen3": Family(reader="snello.models.hf_dense:read_qwen3"),
    "nemotron": Family(reader="snello.models.hf_dense:read_nemotron"),
    "mixtral": Family(
        reader="snello.models.hf_routed:read_mixtral",
        names=Names(block="block_sparse_moe", matrices=("w1", "w3", "w2")),
    ),
    "qwen3_moe": Family(reader="snello.models.hf_routed:read_qwen3_moe"),
    "llama4_text": Family(
        reader="snello.models.hf_routed:read_llama4_text",
        names=Names(block="feed_forward", router="router", shared="shared_expert", fused=True),
    ),
    "llama4": Family(
        reader="snello.models.hf_routed:read_llama4",
        names=Names(
            prefix="language_model.",
            block="feed_forward",
            router="router",
            shared="shared_expert",
            fused=True,
            others=("vision_model.", "multi_modal_projector."),
        ),
    ),
    "deepseek_v2": Family(reader="snello.models.hf_latent:read_deepseek_v2"),
    "deepseek_v3": Family(reader="snello.models.hf_latent:read_deepseek_v3"),
}


def find_family(name: str) -> Family:
    """Return the entry for the `model_type` of a config.json.

    Raises:
        ValueError: there is none.
    """
    if name not in FAMILIES:
        raise ValueError(
            f"config.json says the model_type is {name!r}; known: {', '.join(sorted(FAMILIES))}. "
            "To add one, write one entry in snello/models/families.py and its parity test."
        )
    return FAMILIES[name]


def read_model_config(folder: Path) -> ModelConfig:
    """Read what a model folder's config.json says the decoder is made of.

    Raises:
        ValueError: the file is missing or damaged, the family unknown, or a value is wrong.
    """
    values = read_values(folder)
    name = values.text("model_type", "missing")
    module, function = find_family(name).reader.split(":")
    read: Callable[[Values, str], ModelConfig] = getattr(import_module(module), function)
    return read(values, name)
