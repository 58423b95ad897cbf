"""The one decoder of all families: tokens of a flat batch to hidden states, and those to logits.

Knows nothing of files, sampling or training, nor whether anything is forgotten: the memory that it
is handed is the mode.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from snello.cache.memory import Step
from snello.config.dms import DecisionConfig
from snello.config.model import CacheShape, ModelConfig
from snello.models.attention import Angles, Attention
from snello.models.decision import AdapterDecision, BorrowedDecision
from snello.models.experts import ExpertBlock, Router
from snello.models.latent import LatentAttention
from snello.models.layers import FeedForward, build_norm
from snello.models.rope import Rotary
from snello.quant.rounding import Stored


class DecoderLayer(nn.Module):
    """Attention, then the feed-forward block, each normed before and added to the stream after."""

    def __init__(self, config: ModelConfig, layer: int, decision: DecisionConfig | None) -> None:
        super().__init__()
        num_heads = config.cache_shapes[layer].num_heads
        self.decision: AdapterDecision | None = None
        borrowed: BorrowedDecision | None = None
        if decision is not None and decision.variant == "adapter":
            self.decision = AdapterDecision(
                decision, config.hidden_size, num_heads, eps=config.norm_eps
            )
        elif decision is not None:
            borrowed = BorrowedDecision(decision, config.num_heads, num_heads)
        attention = Attention if config.latent is None else LatentAttention
        routed = config.layers[layer].routed
        self.self_attn = attention(config, layer, borrowed)
        self.mlp = ExpertBlock(config) if routed else FeedForward(config, config.mlp_size)
        self.input_layernorm = build_norm(config)
        self.post_attention_layernorm = build_norm(config)

    def forward(self, x: Float[Tensor, "T C"], angles: Angles, step: Step) -> Float[Tensor, "T C"]:
        """Run one layer; eviction logits are read from the stream before its norm."""
        logits = read_logits(self.decision, x, step)
        x = x + self.self_attn(self.input_layernorm(x), logits, angles, step)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def read_logits(
    decision: AdapterDecision | None, x: Float[Tensor, "T C"], step: Step
) -> Float[Tensor, "T K"] | None:
    """A layer's eviction logits, where it has a decision of its own and the memory asks for it."""
    if decision is None or not step.wants_decisions:
        return None
    logits: Tensor = decision(x)
    return logits


class DecoderBody(nn.Module):
    """Embedding, layers and final norm, under the names that Hugging Face gives them."""

    def __init__(self, config: ModelConfig, decision: DecisionConfig | None) -> None:
        super().__init__()
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer, decision) for layer in range(config.num_layers)
        )
        self.norm = build_norm(config)
        self.rotary = Rotary(config.rope)


class Decoder(nn.Module):
    """A decoder-only language model over a flat, ragged batch.

    Invariant: a row's hidden state depends on its own sequence alone; which rows share the batch,
    and in which chunks a sequence came, changes nothing but rounding (with dynamic RoPE, chunks
    matter: there a row's angles follow its sequence's length so far).

    `checkpoint_layers`: recompute each layer in the backward pass instead of keeping activations.
    `set_aside`: tensors of the checkpoint that are kept but not run (multi-token prediction layers,
    a vision tower), under their names on disk.
    `stored`: where the folder's weights were quantized, the scales they had; the weights here are
    plain floats all the same, until models/packing.py packs them.
    """

    def __init__(self, config: ModelConfig, decision: DecisionConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.decision = decision
        self.checkpoint_layers = False
        self.set_aside: dict[str, Tensor] = {}
        self.stored: Stored | None = None
        self.model = DecoderBody(config, decision)
        tied = config.tied
        self.lm_head: nn.Module | None = (
            None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def cache_shapes(self) -> tuple[CacheShape, ...]:
        """What each layer stores for a token: what a memory needs to know of this decoder."""
        return self.config.cache_shapes

    def forward(self, tokens: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T C"]:
        """Run the new tokens of a step; return their hidden states after the final norm."""
        x: Tensor = self.model.embed_tokens(tokens)  # (T, C)
        angles = self.model.rotary(step.positions, step.lengths)
        recompute = self.checkpoint_layers and torch.is_grad_enabled()
        for layer in self.model.layers:
            if recompute:
                x = checkpoint(layer, x, angles, step, use_reentrant=False)
            else:
                x = layer(x, angles, step)
        normed: Tensor = self.model.norm(x)
        return normed

    def project(self, hidden: Float[Tensor, "T C"]) -> Float[Tensor, "T V"]:
        """Turn hidden states into logits over the vocabulary."""
        if self.lm_head is None:
            return functional.linear(hidden, cast(Tensor, self.model.embed_tokens.weight))
        logits: Tensor = self.lm_head(hidden)
        return logits

    def cast(self, dtype: torch.dtype) -> None:
        """Change the dtype of all weights but those that must stay float32 to be exact."""
        self.to(dtype)
        for module in self.modules():
            if isinstance(module, Rotary | AdapterDecision):
                module.float()
            elif isinstance(module, Router):
                module.restore_float32()

    def set_fade(self, fade: float) -> None:
        """Set how much of the borrowed neurons is left: 1.0 untouched, 0.0 (at inference) none."""
        for module in self.modules():
            if isinstance(module, BorrowedDecision):
                module.fade = fade

    def reset_derived(self) -> None:
        """Fill what no base checkpoint holds, after new memory: frequencies and the decision."""
        for module in self.modules():
            if isinstance(module, Rotary | AdapterDecision):
                module.reset()
