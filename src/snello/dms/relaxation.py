"""The differentiable stand-in for a hard eviction decision: logistic noise and a soft threshold.

Knows nothing of attention, of schedules or of which module emitted the logit.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def draw_gumbel(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Float[Tensor, "..."]:
    """Draw standard Gumbel noise: minus the logarithm of an exponential draw."""
    draw = torch.empty(shape, dtype=torch.float32, device=device).exponential_(generator=generator)
    return -draw.clamp_min(torch.finfo(torch.float32).tiny).log()


def draw_logistic(
    shape: tuple[int, ...], key: tuple[int, ...], device: torch.device
) -> Float[Tensor, "..."]:
    """Draw standard logistic noise: the difference of two Gumbel draws.

    One Gumbel alone has mean 0.577 and would push every decision towards eviction.

    Args:
        shape: of the result.
        key: whatever names this draw (seed, step, row, layer ...): the same key gives the same
            draw, whether a layer is computed again for activation checkpointing or a run resumed.
        device: where to draw; the same key gives other numbers on another kind of device.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
    return draw_gumbel(shape, generator, device) - draw_gumbel(shape, generator, device)


def relax(
    logits: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], tau: float
) -> Float[Tensor, "*shape"]:
    """Give z, the logit of the soft decision, whose probability of eviction is sigmoid(z)."""
    return (logits + noise) / tau


def log_keep(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Give log(1 - alpha), what a soft eviction adds to an attention score; never -inf."""
    return functional.logsigmoid(-z)


def straight_through(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Give 1 where eviction is the likelier outcome and 0 elsewhere, with the gradient of alpha."""
    alpha = z.sigmoid()
    hard = (z > 0).to(alpha.dtype)  # alpha > 0.5, without its rounding
    return hard + (alpha - alpha.detach())
