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
    num_tokens, num_chosen = chosen.shape
    order = chosen.flatten().argsort(stable=True)  # (T * A): pairs, grouped by expert
    weight = weights.flatten()[order, None].to(x.dtype)
    rows = x[order // num_chosen]  # (T * A, C)
    rows = rows * weight if weigh_input else rows
    counts = torch.bincount(chosen.flatten(), minlength=gate_up.shape[0]).tolist()
    answers = []
    for expert, part in enumerate(torch.split(rows, counts)):
        if len(part):
            gate, up = functional.linear(part, gate_up[expert]).chunk(2, dim=-1)
            answers.append(functional.linear(activation(gate) * up, down[expert]))
    answered = torch.cat(answers)
    answered = answered if weigh_input else answered * weight
    back = order.argsort()  # where each (token, choice) pair went
    return answered[back].view(num_tokens, num_chosen, -1).sum(dim=1)
