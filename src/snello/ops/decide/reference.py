"""Eviction logits in plain torch. Knows nothing of layers."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from snello.ops.norm.reference import rms_norm


def decide(
    x: Float[Tensor, "T C"],
    norm: Float[Tensor, " C"],
    weight: Float[Tensor, "K C"],
    *,
    eps: float,
    scale: float,
    offset: float,
) -> Float[Tensor, "T K"]:
    """Return `scale * weight . rms_norm(x) - offset`: positive says evict.

    Source: DMS, arXiv:2506.05345, and the authors' released recipe.
    """
    return scale * functional.linear(rms_norm(x.float(), norm, eps), weight) - offset
