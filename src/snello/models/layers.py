"""Norms and the plain feed-forward block. Knows nothing of attention, experts or memory."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from snello.config.model import Activation, ModelConfig


def relu_squared(x: Tensor) -> Tensor:
    """The square of the positive part."""
    return functional.relu(x).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "relu2": relu_squared,
}


class RMSNorm(nn.Module):
    """Divide by the root mean square, in float32, then scale by a learned weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """Normalise the last dimension."""
        return self.weight * normalize(x, self.eps)


class LayerNorm1P(nn.Module):
    """Nemotron's layer norm: the stored weight is the distance from one."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """Normalise the last dimension."""
        weight = self.weight.float() + 1.0
        out = functional.layer_norm(x.float(), weight.shape, weight, self.bias.float(), self.eps)
        return out.to(x.dtype)


def normalize(x: Float[Tensor, "*rows C"], eps: float) -> Float[Tensor, "*rows C"]:
    """Divide by the root mean square of the last dimension, computed in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def build_norm(config: ModelConfig) -> nn.Module:
    """The norm before attention, before the feed-forward block and at the end."""
    kind = RMSNorm if config.norm == "rms" else LayerNorm1P
    return kind(config.hidden_size, config.norm_eps)


class FeedForward(nn.Module):
    """Two or three matrices around an activation; three when it is gated."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        bias = config.mlp_bias
        self.act = ACTIVATIONS[config.activation]
        gate = nn.Linear(config.hidden_size, size, bias=bias) if config.mlp_gated else None
        self.gate_proj = gate
        self.up_proj = nn.Linear(config.hidden_size, size, bias=bias)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=bias)

    def forward(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Transform each row on its own."""
        up = self.up_proj(x)
        inner = self.act(up) if self.gate_proj is None else self.act(self.gate_proj(x)) * up
        out: Tensor = self.down_proj(inner)
        return out
