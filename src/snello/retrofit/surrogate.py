"""A predictor that is trained to tell an oracle's scores, in the place of a learned decision.

Knows nothing of how the model fares with it: that is what it is compared for. The machine at
inference is the one of any retrofit, with a window and a threshold; only the training is another.
Source: KVzap, arXiv:2601.07891, in its linear form. We deviate in what our decision cannot hold:
one intercept serves all heads; and the stream is read before the layer's norm, through its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from snello.config.dms import DecisionConfig
from snello.models.adapter import Card, write_adapter
from snello.models.decoder import Decoder
from snello.ops.norm.reference import rms_norm
from snello.retrofit.oracle import score_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """A decision for every layer, and how well it knows the oracle's scores of its texts."""

    decision: DecisionConfig
    projections: Float[Tensor, "L K C"]
    explained: Float[Tensor, " L"]
    """Share of the scores' variance that each layer's prediction explains, over all its heads."""

    def name_weights(self) -> dict[str, Tensor]:
        """Return the weights under the names of an adapter."""
        weights = {}
        for layer, projection in enumerate(self.projections):
            prefix = f"model.layers.{layer}.decision"
            weights[f"{prefix}.norm.weight"] = torch.ones(projection.shape[1])
            weights[f"{prefix}.proj.weight"] = projection
        return weights


def fit_surrogate(
    decoder: Decoder,
    texts: Iterable[Sequence[int]],
    bridge: Sequence[int],
    *,
    factor: float,
    window_tokens: int = 128,
    ridge: float = 1.0,
) -> Surrogate:
    """Fit a linear predictor of each layer's scores, and set the threshold for a factor.

    Args:
        decoder: The model, with plain weights.
        texts: Token ids; each is read twice, with the bridge between.
        bridge: What asks for the text once more.
        factor: On these texts, one in so many tokens is kept.
        window_tokens: What is always kept, at inference.
        ridge: How much large weights are shunned, in tokens.

    Raises:
        ValueError: no texts, or a factor below 1.
    """
    if factor < 1.0:
        raise ValueError(f"factor is {factor}; it must be at least 1.0, dense over kept.")
    normed, scores = gather_scores(decoder, texts, bridge)
    middle = float(scores.mean())
    weights = fit_ridge(normed, scores - middle, ridge)  # (L, C, K)
    predicted = normed @ weights
    left = (scores - middle - predicted).square().mean((1, 2))
    threshold = float(torch.quantile(_thin(predicted), 1.0 - 1.0 / factor))
    # Evict where the prediction is below the threshold: threshold - prediction is above 0.
    decision = DecisionConfig(window_tokens=window_tokens, shift=0, scale=1.0, offset=-threshold)
    return Surrogate(
        decision=decision,
        projections=-weights.transpose(1, 2),
        explained=1.0 - left / scores.var(dim=(1, 2), correction=0),
    )


def save_surrogate(surrogate: Surrogate, folder: Path, *, base: str, factor: float) -> None:
    """Write an adapter folder that any command reads, with the base it belongs to."""
    explained = [round(float(share), 4) for share in surrogate.explained]
    provenance = {"trained": "to predict an oracle's scores", "explained_variance": explained}
    card = Card(base_model=base, decision=surrogate.decision, factor=factor, provenance=provenance)
    write_adapter(folder, card, surrogate.name_weights())


def gather_scores(
    decoder: Decoder, texts: Iterable[Sequence[int]], bridge: Sequence[int]
) -> tuple[Float[Tensor, "L N C"], Float[Tensor, "L N K"]]:
    """Read all texts; return what a decision reads of each token, and what it is worth.

    Raises:
        ValueError: no texts.
    """
    read, worth, eps = [], [], decoder.config.norm_eps
    for text in texts:
        scores, heard = score_tokens(decoder, text, bridge)
        streams = torch.stack([own.stream[: len(text)].float() for own in heard])
        read.append(rms_norm(streams, torch.ones_like(streams[0, 0]), eps))
        worth.append(scores.transpose(1, 2))
    if not read:
        raise ValueError("no texts were given to fit a predictor to; give at least one.")
    return torch.cat(read, dim=1), torch.cat(worth, dim=1)


def fit_ridge(
    inputs: Float[Tensor, "L N C"], targets: Float[Tensor, "L N K"], ridge: float
) -> Float[Tensor, "L C K"]:
    """Return the weights of least squared error, layer by layer, without an intercept."""
    wide = inputs.double()
    moments = wide.transpose(1, 2) @ wide
    moments += ridge * torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
    weights: Tensor = torch.linalg.solve(moments, wide.transpose(1, 2) @ targets.double())
    return weights.float()


def _thin(numbers: Tensor, most: int = 2**24) -> Float[Tensor, " n"]:
    """Every so many of the numbers: a quantile is not taken of more than torch allows."""
    flat = numbers.flatten()
    return flat[:: -(-len(flat) // most)]
