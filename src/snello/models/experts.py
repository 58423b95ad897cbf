"""The feed-forward block made of routed experts: who is chosen, with which weight.

Knows nothing of how the products are computed (ops/experts) or how weights are named on disk.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from snello.config.model import ExpertsConfig, ModelConfig
from snello.models.layers import ACTIVATIONS, FeedForward
from snello.ops.experts import resolve


class Router(nn.Module):
    """Choose A of E experts for each token; everything in float32."""

    e_score_correction_bias: Tensor | None

    def __init__(self, config: ExpertsConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.num_experts, hidden_size))
        bias = torch.zeros(config.num_experts) if config.correction_bias else None
        self.register_buffer("e_score_correction_bias", bias)

    def restore_float32(self) -> None:
        """Keep the correction bias exact after the module was cast: it decides close races."""
        if self.e_score_correction_bias is not None:
            self.e_score_correction_bias = self.e_score_correction_bias.float()

    def forward(self, x: Float[Tensor, "T C"]) -> tuple[Int[Tensor, "T A"], Float[Tensor, "T A"]]:
        """Return the chosen experts and the weights of their answers."""
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.linear(x.float(), self.weight.float())
        scores = logits.softmax(dim=-1) if self.config.score == "softmax" else logits.sigmoid()
        bias = self.e_score_correction_bias
        ranking = logits if bias is None else scores + bias.float()
        ranking = keep_best_groups(self.config, ranking)
        chosen = ranking.topk(self.config.num_active, dim=-1).indices
        weights = scores.gather(1, chosen)
        if self.config.normalize:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return chosen, weights * self.config.scaling


def keep_best_groups(config: ExpertsConfig, ranking: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """Put the experts of all but the best groups out of the running.

    Source: DeepSeek-V2, arXiv:2405.04434 (best expert of a group); DeepSeek-V3, arXiv:2412.19437
    (sum of the best two).
    """
    if config.num_groups == 1:
        return ranking
    grouped = ranking.view(len(ranking), config.num_groups, -1)  # (T, groups, E / groups)
    best = grouped.topk(1 if config.group_rank == "max" else 2, dim=-1).values.sum(dim=-1)
    kept = best.topk(config.num_groups_kept, dim=-1).indices
    out = torch.ones_like(best, dtype=torch.bool).scatter(1, kept, value=False)
    return grouped.masked_fill(out[..., None], float("-inf")).flatten(1)


class StackedExperts(nn.Module):
    """A layer's experts, their weights stacked: `(E, 2I, C)` gate over up, `(E, C, I)` down."""

    def __init__(self, config: ModelConfig, experts: ExpertsConfig, backend: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.activation]
        self.apply_experts = resolve(backend)
        self.weigh_input = experts.weigh == "input"
        self.gate_up_proj = nn.Parameter(
            torch.zeros(experts.num_experts, 2 * experts.size, config.hidden_size)
        )
        self.down_proj = nn.Parameter(
            torch.zeros(experts.num_experts, config.hidden_size, experts.size)
        )

    def forward(
        self, x: Float[Tensor, "T C"], chosen: Int[Tensor, "T A"], weights: Float[Tensor, "T A"]
    ) -> Float[Tensor, "T C"]:
        """Sum, for each token, the weighted answers of its experts."""
        return self.apply_experts(
            x,
            chosen,
            weights,
            self.gate_up_proj,
            self.down_proj,
            self.act,
            weigh_input=self.weigh_input,
        )


class ExpertBlock(nn.Module):
    """Routed experts, and the shared expert that every token visits, if there is one."""

    def __init__(self, config: ModelConfig, *, backend: str = "reference") -> None:
        super().__init__()
        experts = cast(ExpertsConfig, config.experts)
        self.gate = Router(experts, config.hidden_size)
        self.experts: nn.Module = StackedExperts(config, experts, backend)
        shared = FeedForward(config, experts.shared_size) if experts.shared_size else None
        self.shared_experts = shared

    def forward(self, x: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Route each row, and add up what its experts answer."""
        chosen, weights = self.gate(x)
        out: Tensor = self.experts(x, chosen, weights)
        return out if self.shared_experts is None else out + self.shared_experts(x)
