"""Attention with grouped key-value heads: queries, keys and values of each row, handed to a memory.

Knows nothing of masks, storage or other rows: which keys a row sees is the memory's business.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.cache.memory import Step
from snello.config.model import ModelConfig, TemperatureConfig
from snello.models.decision import BorrowedDecision
from snello.models.layers import RMSNorm, normalize
from snello.ops.place.reference import place, rotate

Angles = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Grouped-query attention of one layer, parameters named as Hugging Face names them.

    `is_plain`: norm and rotation are all that happens to queries and keys; `place` does both, in
    plain torch, until packing puts a kernel there.
    """

    def __init__(self, config: ModelConfig, layer: int, borrowed: BorrowedDecision | None) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.rotates = config.layers[layer].rotates
        self.temperature = None if self.rotates else config.temperature
        self.l2 = self.rotates and config.qk_norm == "l2"
        self.borrowed = borrowed
        self.is_plain = self.rotates and not self.l2 and borrowed is None
        self.place: Callable[..., Tensor] = place
        size, hidden = config.head_size, config.hidden_size
        self.q_proj = nn.Linear(hidden, config.num_heads * size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, config.num_kv_heads * size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, config.num_kv_heads * size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * size, hidden, bias=config.output_bias)
        normed = config.qk_norm == "rms"
        self.q_norm = RMSNorm(size, config.norm_eps) if normed else None
        self.k_norm = RMSNorm(size, config.norm_eps) if normed else None

    def forward(
        self,
        x: Float[Tensor, "T C"],
        logits: Float[Tensor, "T K"] | None,
        angles: Angles,
        step: Step,
    ) -> Float[Tensor, "T C"]:
        """Attend; `logits` are the layer's eviction logits, unless a neuron is borrowed."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        projected: Tensor = self.o_proj(self.mix(q, k, v, logits, angles, step))
        return projected

    def mix(
        self,
        q: Float[Tensor, "T HD"],
        k: Float[Tensor, "T KD"],
        v: Float[Tensor, "T KD"],
        logits: Float[Tensor, "T K"] | None,
        angles: Angles,
        step: Step,
    ) -> Float[Tensor, "T HD"]:
        """What lies between the products: norms, rotation, and the memory's attention."""
        size = self.config.head_size
        q, k, v = (
            flat.view(len(flat), flat.shape[1] // size, size) for flat in (q, k, v)
        )  # (T, H or K, D)
        if self.is_plain:
            q, k = self._turn(q, self.q_norm, angles), self._turn(k, self.k_norm, angles)
        else:
            q, k, logits = self._prepare(q, k, logits, angles, step)
        out = step.attend(self.layer, q, k, v, logits, scale=self.config.attention_scale)
        return out.flatten(1)

    def _turn(
        self, x: Float[Tensor, "T N D"], norm: RMSNorm | None, angles: Angles
    ) -> Float[Tensor, "T N D"]:
        """Norm and rotate each head."""
        rule = {"eps": self.config.norm_eps, "interleaved": self.config.rope.interleaved}
        return self.place(x, None if norm is None else norm.weight, *angles, **rule)

    def _prepare(
        self,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        logits: Float[Tensor, "T K"] | None,
        angles: Angles,
        step: Step,
    ) -> tuple[Float[Tensor, "T H D"], Float[Tensor, "T K D"], Float[Tensor, "T K"] | None]:
        """Norm queries and keys and tell them where they stand, by any rule that a family has."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.borrowed is not None:
            logits = self.borrowed.read(q) if step.wants_decisions else None
            q = self.borrowed.hide(q)
        q, k = self._place_any(q, k, angles, step.positions)
        return q, k, logits

    def _place_any(
        self,
        q: Float[Tensor, "T H D"],
        k: Float[Tensor, "T K D"],
        angles: Angles,
        positions: Int[Tensor, " T"],
    ) -> tuple[Float[Tensor, "T H D"], Float[Tensor, "T K D"]]:
        """Tell queries and keys where they stand: by rotation, or by the temperature of queries."""
        if self.rotates:
            interleaved = self.config.rope.interleaved
            q = rotate(q, *angles, interleaved=interleaved)
            k = rotate(k, *angles, interleaved=interleaved)
        if self.borrowed is not None:
            q = self.borrowed.hide(q)
        if self.l2:
            q, k = normalize(q, self.config.norm_eps), normalize(k, self.config.norm_eps)
        if self.temperature is not None:
            q = (q * compute_temperature(self.temperature, positions)[:, None, None]).to(q.dtype)
        return q, k


def compute_temperature(
    config: TemperatureConfig, positions: Int[Tensor, " T"]
) -> Float[Tensor, " T"]:
    """How much sharper a query at each position attends.

    Source: scalable softmax, arXiv:2501.19399, as in Llama 4.
    """
    floors = torch.floor((positions.float() + 1.0) / config.floor_tokens)
    return torch.log1p(floors) * config.strength + 1.0
