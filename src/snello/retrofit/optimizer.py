"""AdamW over what trains, with one learning rate for the decision and one for the body.

Knows nothing of losses or models: it is given parameters by name.
"""

import torch
from torch import nn

from snello.config.retrofit import RetrofitConfig


def build_optimizer(
    config: RetrofitConfig, decision: list[nn.Parameter], body: list[nn.Parameter]
) -> torch.optim.AdamW:
    """Return the optimizer; an empty part gets no group.

    Source: the authors' released recipe (constant rate, betas, no decay).
    """
    body_rate = config.body_learning_rate or config.learning_rate
    groups = [
        {"params": parameters, "lr": rate, "peak": rate}
        for parameters, rate in ((decision, config.learning_rate), (body, body_rate))
        if parameters
    ]
    return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)


def rate_share(config: RetrofitConfig, step: int) -> float:
    """Which share of its peak the learning rate has at a step: warm-up, plateau, cool-down."""
    rising = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
    falling = (config.steps - step) / config.cooldown_steps if config.cooldown_steps else 1.0
    return min(1.0, rising, falling)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group its share of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
