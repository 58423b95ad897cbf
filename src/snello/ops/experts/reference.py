"""Experts in plain torch: tokens sorted by expert, one product for each expert that has any.

Knows nothing of how the experts were chosen.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def apply_experts(
    x: Float[Tensor, "T C"],
    chosen: Int[Tensor, "T A"],
    weights: Float[Tensor, "T A"],
    gate_up: Float[Tensor, "E I2 C"],
    down: Float[Tensor, "E C I"],
    activation: Callable[[Tensor], Tensor],
    *,
    weigh_input: bool = False,
) -> Float[Tensor, "T C"]:
    """Sum, for each token, the answers of its A chosen experts, weighted.

    `gate_up[e]` holds the gate's rows, then the up-projection's. With `weigh_input` the weight
    multiplies what enters an expert (Llama 4) instead of what leaves it.
    """

    def answer(expert: int, rows: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        gate, up = functional.linear(rows, gate_up[expert]).chunk(2, dim=-1)
        return functional.linear(activation(gate) * up, down[expert])

    return sum_answers(x, chosen, weights, len(gate_up), answer, weigh_input=weigh_input)


def sum_answers(
    x: Float[Tensor, "T C"],
    chosen: Int[Tensor, "T A"],
    weights: Float[Tensor, "T A"],
    num_experts: int,
    answer: Callable[[int, Tensor], Tensor],
    *,
    weigh_input: bool,
) -> Float[Tensor, "T C"]:
    """Ask each expert once, about all rows that chose it, and sum what comes back, weighted."""
    num_tokens, num_chosen = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # (T * A): pairs, grouped by expert
    weight = weights.flatten()[order, None].to(x.dtype)
    rows = x[order // num_chosen]  # (T * A, C)
    rows = rows * weight if weigh_input else rows
    counts = torch.bincount(chosen.flatten(), minlength=num_experts).tolist()
    parts = enumerate(torch.split(rows, counts))
    answered = torch.cat([answer(expert, part) for expert, part in parts if len(part)])
    answered = answered if weigh_input else answered * weight
    back = order.argsort()  # where each (token, choice) pair went
    return answered[back].view(num_tokens, num_chosen, -1).sum(dim=1)
