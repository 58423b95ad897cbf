"""Multi-head latent attention (MLA): all heads read one stored latent through absorbed projections.

Knows nothing of masks or storage. Keys and values are never expanded to heads: the up-projection of
keys is applied to the queries, that of values to the attended latent.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snello.cache.memory import Step
from snello.config.model import LatentConfig, ModelConfig
from snello.models.attention import Angles
from snello.models.decision import BorrowedDecision
from snello.models.layers import RMSNorm
from snello.ops.place.reference import rotate

LATENT_EPS = 1e-6  # DeepSeek's inner norms do not follow rms_norm_eps


class LatentAttention(nn.Module):
    """MLA of one layer: stores `[latent, rotated part]` as one key head whose value is the latent.

    `kv_b_proj` is read as a matrix, not called: an adapter (LoRA) on it must be merged first.
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
    """

    def __init__(self, config: ModelConfig, layer: int, borrowed: BorrowedDecision | None) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.borrowed = borrowed
        self.latent = cast(LatentConfig, config.latent)
        hidden, bias, latent = config.hidden_size, config.qkv_bias, self.latent
        query_size = config.num_heads * (latent.nope_size + latent.rope_size)
        if latent.q_rank is None:
            self.q_proj = nn.Linear(hidden, query_size, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, latent.q_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(latent.q_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(latent.q_rank, query_size, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, latent.kv_rank + latent.rope_size, bias=bias)
        self.kv_a_layernorm = RMSNorm(latent.kv_rank, LATENT_EPS)
        expanded_size = config.num_heads * (latent.nope_size + latent.value_size)
        self.kv_b_proj = nn.Linear(latent.kv_rank, expanded_size, bias=False)
        value_size = config.num_heads * latent.value_size
        self.o_proj = nn.Linear(value_size, hidden, bias=config.output_bias)

    def forward(
        self,
        x: Float[Tensor, "T C"],
        logits: Float[Tensor, "T K"] | None,
        angles: Angles,
        step: Step,
    ) -> Float[Tensor, "T C"]:
        """Attend; `logits` are the layer's eviction logits, unless a neuron is borrowed."""
        q = self.project_queries(x)  # (T, H, N + R)
        if self.borrowed is not None:
            logits = self.borrowed.read(q) if step.wants_decisions else None
            q = self.borrowed.hide(q)
        keys_up, values_up = self.split_expansion()
        q = self.absorb(q, keys_up, angles)  # (T, H, kv_rank + R)
        k = self.compress(x, angles)  # (T, 1, kv_rank + R)
        scale = self.config.attention_scale
        out = step.attend(self.layer, q, k, None, logits, scale=scale)  # (T, H, kv_rank)
        values = torch.einsum("thr,hvr->thv", out, values_up)
        projected: Tensor = self.o_proj(values.flatten(1))
        return projected

    def project_queries(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T H D"]:
        """Queries of every head, `[unrotated, to be rotated]`."""
        if self.latent.q_rank is None:
            q: Tensor = self.q_proj(x)
        else:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        return q.view(len(x), self.config.num_heads, -1)

    def split_expansion(self) -> tuple[Float[Tensor, "H N R"], Float[Tensor, "H V R"]]:
        """The matrices that would expand a latent to each head's key and value."""
        expansion = self.kv_b_proj.weight.view(self.config.num_heads, -1, self.latent.kv_rank)
        keys_up, values_up = torch.split(
            expansion, [self.latent.nope_size, self.latent.value_size], dim=1
        )
        return keys_up, values_up

    def absorb(
        self, q: Float[Tensor, "T H D"], keys_up: Float[Tensor, "H N R"], angles: Angles
    ) -> Float[Tensor, "T H W"]:
        """Carry the queries over to where the latents live, and rotate their last part."""
        plain, turned = torch.split(q, [self.latent.nope_size, self.latent.rope_size], dim=-1)
        turned = rotate(turned, *angles, interleaved=self.config.rope.interleaved)
        if self.borrowed is not None:
            turned = self.borrowed.hide(turned)
        absorbed = torch.einsum("thn,hnr->thr", plain, keys_up)
        return torch.cat((absorbed, turned), dim=-1)

    def compress(self, x: Float[Tensor, "T C"], angles: Angles) -> Float[Tensor, "T 1 W"]:
        """The one key head of each token: the normed latent and the rotated part."""
        both = self.kv_a_proj_with_mqa(x)[:, None, :]
        latent, turned = torch.split(both, [self.latent.kv_rank, self.latent.rope_size], dim=-1)
        turned = rotate(turned, *angles, interleaved=self.config.rope.interleaved)
        return torch.cat((self.kv_a_layernorm(latent), turned), dim=-1)
