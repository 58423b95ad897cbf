"""Layers whose products read packed weights, with norms and sums inside the products.

Knows nothing of how a weight is rounded or where it came from: that is packing.py's.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.cache.memory import Step
from snello.models.attention import Angles, Attention
from snello.models.decision import AdapterDecision
from snello.models.decoder import read_logits
from snello.models.layers import RMSNorm
from snello.ops.experts.reference import sum_answers
from snello.ops.matmul.packing import Packed

Multiply = Callable[..., Tensor]
"""`multiply` of ops/matmul, of some backend."""


class PackedLinear(nn.Module):
    """A product with a packed weight, after a norm if it was given one.

    Invariant: a row's result depends on that row alone, bit for bit.
    """

    bias: Tensor | None

    def __init__(
        self, packed: Packed, bias: Tensor | None, norm: nn.Module | None, multiply: Multiply
    ) -> None:
        super().__init__()
        self.packed = packed
        self.multiply = multiply
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.norm: tuple[Tensor, float] | None = None
        self.before = None if isinstance(norm, RMSNorm) else norm
        if isinstance(norm, RMSNorm):
            self.norm = norm.weight.detach().float(), norm.eps

    def forward(
        self, x: Float[Tensor, "T C"], residual: Float[Tensor, "T N"] | None = None
    ) -> Float[Tensor, "T N"]:
        """Norm, multiply, and add to `residual` where there is one."""
        x = x if self.before is None else self.before(x)
        added = None if residual is None else residual.float()
        out = self.multiply(x.float(), self.packed, bias=self.bias, residual=added, norm=self.norm)
        return out.to(x.dtype)


class PackedEmbedding(nn.Module):
    """Rows of a packed weight, which the output product reads as well."""

    def __init__(
        self, packed: Packed, dtype: torch.dtype, look_up: Callable[[Packed, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.packed = packed
        self.dtype = dtype
        self.look_up = look_up

    def forward(self, tokens: Int[Tensor, " T"]) -> Float[Tensor, "T C"]:
        """Look rows up."""
        return self.look_up(self.packed, tokens).to(self.dtype)


class PackedNorm(nn.Module):
    """The norm after the last layer, through a kernel."""

    def __init__(self, norm: RMSNorm, rms_norm: Callable[[Tensor, Tensor, float], Tensor]) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps
        self.rms_norm = rms_norm

    def forward(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Norm each row."""
        return self.rms_norm(x, self.weight, self.eps)


class PackedExperts(nn.Module):
    """A layer's experts, each packed; stands where `StackedExperts` stood."""

    def __init__(
        self,
        gate_up: list[Packed],
        down: list[Packed],
        *,
        act: Callable[[Tensor], Tensor],
        weigh_input: bool,
        multiply: Multiply,
    ) -> None:
        super().__init__()
        self.gate_up = gate_up
        self.down = down
        self.act = act
        self.weigh_input = weigh_input
        self.multiply = multiply

    def forward(
        self, x: Float[Tensor, "T C"], chosen: Int[Tensor, "T A"], weights: Float[Tensor, "T A"]
    ) -> Float[Tensor, "T C"]:
        """Sum, for each token, the weighted answers of its experts."""
        out = sum_answers(
            x.float(),
            chosen,
            weights,
            len(self.down),
            self.answer,
            weigh_input=self.weigh_input,
        )
        return out.to(x.dtype)

    def answer(self, expert: int, rows: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """What one expert makes of some rows."""
        inner = self.multiply(rows, self.gate_up[expert])
        if not self.gate_up[expert].gated:
            gate, up = inner.chunk(2, dim=-1)
            inner = self.act(gate) * up
        return self.multiply(inner, self.down[expert])


class Added(nn.Module):
    """`x + inner(norm(x), ...)`, for what has no fused form."""

    def __init__(self, norm: nn.Module, inner: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.inner = inner

    def forward(self, x: Float[Tensor, "T C"], *others: object) -> Float[Tensor, "T C"]:
        """Norm, run, add."""
        out: Tensor = x + self.inner(self.norm(x), *others)
        return out


class PackedAttention(nn.Module):
    """`x + attention(norm(x))`: queries, keys and values are one product, the sum another's end."""

    def __init__(self, attention: Attention, qkv: PackedLinear, output: PackedLinear) -> None:
        super().__init__()
        self.attention = attention
        self.qkv = qkv
        self.output = output
        config = attention.config
        kv_size = config.num_kv_heads * config.head_size
        self.sizes = [config.num_heads * config.head_size, kv_size, kv_size]

    def forward(
        self,
        x: Float[Tensor, "T C"],
        logits: Float[Tensor, "T K"] | None,
        angles: Angles,
        step: Step,
    ) -> Float[Tensor, "T C"]:
        """Attend, and add to the stream."""
        q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        out: Tensor = self.output(self.attention.mix(q, k, v, logits, angles, step), x)
        return out


class PackedFeedForward(nn.Module):
    """`x + down(silu(gate(norm(x))) * up(norm(x)))` in two products."""

    def __init__(self, gate_up: PackedLinear, down: PackedLinear) -> None:
        super().__init__()
        self.gate_up = gate_up
        self.down = down

    def forward(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Transform each row on its own, and add to the stream."""
        out: Tensor = self.down(self.gate_up(x), x)
        return out


class PackedLayer(nn.Module):
    """A decoder layer of two parts, each of which adds itself to the stream."""

    def __init__(
        self, decision: AdapterDecision | None, attention: nn.Module, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.decision = decision
        self.attention = attention
        self.mlp = mlp

    def forward(self, x: Float[Tensor, "T C"], angles: Angles, step: Step) -> Float[Tensor, "T C"]:
        """Run one layer; eviction logits are read from the stream before its norm."""
        logits = read_logits(self.decision, x, step)
        x = self.attention(x, logits, angles, step)
        out: Tensor = self.mlp(x)
        return out
