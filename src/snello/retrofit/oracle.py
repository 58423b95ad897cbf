"""How much each token of a text is worth to a model that is about to repeat the text.

Knows nothing of who predicts it. Source: KVzip, arXiv:2505.23416, as KVzap's training uses it
(KVzip+): the largest share of attention that a token gets from any query of the repetition, times
how much it then adds to the stream (the length of its value after the output projection), over the
length of what the query's layer was given; in logarithms.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from snello.cache.weighing import weigh
from snello.models.decoder import Decoder
from snello.retrofit.overhear import Overheard, overhear

LEAST = 1e-12
"""Scores below are as good as none; the logarithm must end somewhere."""


def score_tokens(
    decoder: Decoder, text: Sequence[int], bridge: Sequence[int]
) -> tuple[Float[Tensor, "L K N"], list[Overheard]]:
    """Let a model read a text, a bridge that asks for it again, and the text once more.

    Returns:
        The logarithm of what each of the N tokens of the text is worth in each head, and what the
        layers computed for them.

    Raises:
        ValueError: a model whose attention has no output projection for each head.
    """
    if decoder.config.latent is not None:
        raise ValueError(
            "scores are wanted of a model with latent attention; they are defined for heads with "
            "values of their own. Choose another model."
        )
    N = len(text)
    heard = overhear(decoder, [*text, *bridge, *text])
    scores = []
    for layer, own in zip(decoder.model.layers, heard, strict=True):
        projection = layer.get_submodule("self_attn").get_submodule("o_proj").weight
        assert isinstance(projection, Tensor), "a product that was packed has no weight"
        scores.append(score_layer(own, projection, N))
    return torch.stack(scores).clamp_min(LEAST).log(), heard


@torch.no_grad()
def score_layer(
    own: Overheard, projection: Float[Tensor, "C HE"], num_tokens: int
) -> Float[Tensor, "K N"]:
    """Score the first tokens by the queries of as many last ones."""
    total, K = own.keys.shape[0], own.keys.shape[1]
    positions = torch.arange(total, device=own.keys.device)
    asking = positions[-num_tokens:]
    visible = (positions <= asking[:, None]).expand(1, K, -1, -1)
    keys = own.keys.transpose(0, 1)[None]
    _, weights = weigh(own.queries[-num_tokens:][None], keys, visible, own.scale)
    shares = weights[0].view(K, -1, num_tokens, total)[..., :num_tokens]  # (K, g, N, N)
    lengths = own.normed[-num_tokens:].float().norm(dim=-1)
    per_head = projection.float().view(projection.shape[0], K, -1, own.values.shape[-1])
    values = own.values[:num_tokens].float()  # (N, K, E)
    added = torch.einsum("ckge,nke->kgnc", per_head, values).norm(dim=-1)  # (K, g, N)
    worth: Tensor = (shares / lengths[:, None]).amax(2) * added  # (K, g, N)
    return worth.amax(1)
