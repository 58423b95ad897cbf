"""What must be saved for an exact resume: the weights that train and their optimizer, by name.

Knows nothing of files or losses. No random state is needed: noise and batches are named by the
seed, the step and the row, and nothing else draws.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

PREFIX = "decoder."
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def collect_trained(objective: nn.Module) -> dict[str, Tensor]:
    """Return the weights that train, whole, by their names in the decoder.

    All processes must call it; where weights are sharded only the first gets them.
    """
    state = get_model_state_dict(objective, options=_WHOLE)
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def collect_optimizer(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state, whole, by the names of the weights."""
    state: dict[str, Any] = get_optimizer_state_dict(objective, _bare(optimizer), options=_WHOLE)
    return state


def restore(objective: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a saved state back, in place.

    Raises:
        ValueError: the state is of other weights.
    """
    options = StateDictOptions(
        full_state_dict=True, ignore_frozen_params=True, strict=False, cpu_offload=True
    )
    trained = {PREFIX + name: tensor for name, tensor in state["trained"].items()}
    missing = {n for n, p in _named(objective) if p.requires_grad} ^ trained.keys()
    if missing:
        raise ValueError(
            f"the saved state does not fit this run ({min(missing)} is in one of them alone); "
            "choose another --out."
        )
    set_model_state_dict(objective, trained, options=options)
    set_optimizer_state_dict(
        objective, _bare(optimizer), optim_state_dict=state["optimizer"], options=options
    )


def _named(objective: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name.removeprefix("module."), p) for name, p in objective.named_parameters()]


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Accelerate wraps optimizers; the state is the inner one's."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner
