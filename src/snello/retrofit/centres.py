"""Where a model's queries gather before they are rotated, measured on texts.

Knows nothing of what is done with it. Source: the calibration of TriAttention, arXiv:2604.04921,
with queries as attention sees them, their norm included.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from snello.models.decoder import Decoder
from snello.ops.place.reference import rotate
from snello.policies.trigonometric import Centres, measure_pairs
from snello.retrofit.overhear import overhear


def measure_centres(decoder: Decoder, texts: Sequence[Sequence[int]]) -> Centres:
    """Read texts, each from its beginning, and average the queries of every head.

    Raises:
        ValueError: no texts, or a model whose rotation depends on the text's length or comes in
            several kinds.
    """
    rope = decoder.config.rope
    if not any(texts):
        raise ValueError("no texts were given to measure queries on; give at least one token.")
    if rope.scaling == "dynamic" or decoder.config.latent is not None:
        raise ValueError(
            "the centres of queries are wanted of a model with dynamic RoPE or latent attention; "
            "the policy tri is not for it. Choose another one."
        )
    frequencies = decoder.model.rotary.frequencies
    pairs, means = len(frequencies), []
    for text in texts:
        queries = torch.stack([layer.queries.float() for layer in overhear(decoder, text)])
        plain = _turn_back(queries, frequencies, interleaved=rope.interleaved)
        lengths = measure_pairs(plain, pairs, interleaved=rope.interleaved)
        means.append((plain.sum(1), lengths.sum(1)))  # (L, H, D) and (L, H, R)
    count = sum(map(len, texts))
    mean, length = (torch.stack(part).sum(0) / count for part in zip(*means, strict=True))
    of_mean = measure_pairs(mean, pairs, interleaved=rope.interleaved)
    # Scaled rotations make queries and keys longer alike; that changes no order.
    return Centres(mean, length - of_mean, frequencies.clone(), rope.interleaved)


def _turn_back(
    queries: Float[Tensor, "L T H D"], frequencies: Float[Tensor, " R"], *, interleaved: bool
) -> Float[Tensor, "L T H D"]:
    """Undo the rotation of rows at positions 0, 1, 2 ..."""
    positions = torch.arange(queries.shape[1], device=queries.device)
    angles = positions[:, None].float() * frequencies
    turned = [
        rotate(layer, angles.cos(), -angles.sin(), interleaved=interleaved) for layer in queries
    ]
    return torch.stack(turned)
