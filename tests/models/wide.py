"""Tiny models whose inputs are whole groups of 32, so that their weights can be quantized."""

from tests.models.tiny import CASES, randomize

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "intermediate_size_mlp": 64,
    "moe_intermediate_size": 32,
    "head_dim": 16,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "v_head_dim": 16,
}


def save_wide(case, folder):
    """Write the model of a case, widened, as transformers writes a folder."""
    make, config = CASES[case]()
    latent = hasattr(config, "kv_lora_rank")
    for name, size in SIZES.items():
        if getattr(config, name, None) is not None and not (latent and name == "head_dim"):
            setattr(config, name, size)
    randomize(make(config)).save_pretrained(folder)
    return folder
