"""All that decides what the bundled model learns: its shape, its first weights, its optimizers.

Knows nothing of problems or of files.
"""

from dataclasses import dataclass

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of the recipe."""

    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    rope_theta: float = 10000.0
    look_back_norm: float = 2.0
    """First weight of the norms of queries and keys in the first layer, whose heads start sharp."""

    tokens_per_step: int = 2048
    learning_rate: float = 2e-3
    """Of embedding and norms (AdamW)."""

    matrix_rate: float = 5e-3
    """Of the matrices inside the layers (Muon)."""

    warmup_steps: int = 100
    decay_share: float = 0.4
    """The rate is constant, then falls linearly to zero over this share of the steps."""

    prompt_weight: float = 0.05
    """What a token of the prompt counts in the loss; one of the reply counts 1."""

    first_reach: float = 0.1
    """Where each kind's curriculum starts: 0 is its smallest problem and no filler, 1 its hardest
    level."""

    curriculum_step: float = 0.005
    curriculum_bar: float = 0.4
    """After each step with a smoothed reply loss of its kind below the bar, the kind's reach grows
    by one step."""

    puzzles_from: float = 1.0
    """The ledger's reach from which on reasoning-gym's puzzles are mixed in."""

    puzzle_share: float = 0.8
    """How many of the steps are then about puzzles, the kinds in equal parts."""

    seed: int = 0


def build_model(recipe: Recipe, vocab_size: int) -> Qwen3ForCausalLM:
    """A Qwen3 of bundled size with fresh weights."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=2048,
        rope_theta=recipe.rope_theta,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    look_back(model, recipe)
    return model


@torch.no_grad()
def look_back(model: Qwen3ForCausalLM, recipe: Recipe, gain: float = 1.8) -> None:
    """Start the heads of the first layer as lookers back by 1, 2, 3 ... tokens, in place.

    Finding a name's digit takes two heads in a row, one that tells each token what stood before it
    and one that searches for that; neither is worth learning before the other is there. So the
    first is given. All embeddings get a constant first number, from which queries and keys take a
    fixed direction in the fastest rotary pairs, queries turned back by the head's distance.
    """
    model.model.embed_tokens.weight[:, 0] = 0.25
    half, pairs = recipe.head_dim // 2, 4
    angles = recipe.rope_theta ** (-torch.arange(pairs) / half)
    attention = model.model.layers[0].self_attn
    for norm in (attention.q_norm, attention.k_norm):
        torch.nn.init.constant_(norm.weight, recipe.look_back_norm)
    keys = attention.k_proj.weight.view(recipe.num_kv_heads, recipe.head_dim, -1)
    keys[:, :pairs, 0] += gain / pairs**0.5
    queries = attention.q_proj.weight.view(recipe.num_heads, recipe.head_dim, -1)
    distance = torch.arange(1, recipe.num_heads + 1)[:, None]
    queries[:, :pairs, 0] += gain / pairs**0.5 * torch.cos(distance * angles)
    queries[:, half : half + pairs, 0] -= gain / pairs**0.5 * torch.sin(distance * angles)


def build_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_rates(
    optimizers: list[torch.optim.Optimizer], recipe: Recipe, step: int, num_steps: int
) -> None:
    """Set the learning rates of a step: up over the warm-up, constant, down at the end."""
    rise = (step + 1) / recipe.warmup_steps
    fall = (num_steps - step) / (recipe.decay_share * num_steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * min(1.0, rise, fall)
