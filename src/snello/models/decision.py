"""Where a layer reads its eviction logits: a small adapter, or a borrowed neuron of the queries.

Knows nothing of what follows from a logit: the shift, the noise and the window are others' work.
Both give raw logits about the reading token's own row, positive meaning evict. Source: DMS,
arXiv:2506.05345, and the authors' released recipe for the adapter.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snello.config.dms import DecisionConfig
from snello.ops.decide.reference import decide


class AdapterDecision(nn.Module):
    """`scale * proj(norm(x)) - offset`, x the residual stream before the layer's input norm.

    Invariant: parameters and logits are float32 whatever the base is; at the start every logit is
    `-offset`, because `proj` is zero. `decide` is plain torch, until packing puts a kernel there.
    """

    def __init__(
        self, decision: DecisionConfig, hidden_size: int, num_heads: int, *, eps: float
    ) -> None:
        super().__init__()
        self.eps = eps
        self.num_heads = num_heads
        self.scale = decision.scale
        self.offset = decision.offset
        self.decide: Callable[..., Tensor] = decide
        columns = num_heads if decision.granularity == "head" else 1
        self.norm = Scale(hidden_size)
        self.proj = nn.Linear(hidden_size, columns, bias=False, dtype=torch.float32)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start again from "keep nearly all"."""
        self.norm.weight.fill_(1.0)
        self.proj.weight.zero_()

    def forward(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T K"]:
        """Read the logits of one layer; one decision for the layer is repeated for its heads."""
        rule = {"eps": self.eps, "scale": self.scale, "offset": self.offset}
        with torch.autocast(x.device.type, enabled=False):
            logits = self.decide(x.float(), self.norm.weight, self.proj.weight, **rule)
        return logits.expand(-1, self.num_heads)


class Scale(nn.Module):
    """The weight of the adapter's own norm, named as norms are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=torch.float32))


class BorrowedDecision(nn.Module):
    """The last dimension of the first query head of each group, read before RoPE and then hidden.

    Invariant: with `fade` 0 the borrowed dimensions reach no attention score. `fade` is lowered
    from 1 (untouched) to 0 by the trainer's warm-up, and is 0 at inference.
    """

    def __init__(self, decision: DecisionConfig, num_query_heads: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = decision.scale
        self.offset = decision.offset
        per_head = decision.granularity == "head"
        self.stride = num_query_heads // num_heads if per_head else num_query_heads
        self.fade = 0.0

    def read(self, q: Float[Tensor, "T H D"]) -> Float[Tensor, "T K"]:
        """Read the logits from queries that are normed but not yet rotated."""
        reading = q[:, :: self.stride, -1].float()
        return (self.scale * reading - self.offset).expand(-1, self.num_heads)

    def hide(self, q: Float[Tensor, "T H D"]) -> Float[Tensor, "T H D"]:
        """Fade the borrowed dimensions; needed before RoPE and again after it, which mixes them."""
        hidden = q.clone()
        hidden[:, :: self.stride, -1] *= self.fade
        return hidden
