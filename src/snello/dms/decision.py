"""From an eviction logit to a decision about a token, and the shift between the two.

Knows nothing of noise, of loss or of storage: this is the one place where the shift lives.
"""

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def marks(logits: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Turn logits into hard decisions: a positive logit says evict.

    Source: DMS, arXiv:2506.05345; the threshold as in the authors' released code.
    """
    return logits > 0


def announced(positions: Int[Tensor, "*shape"], shift: int) -> Int[Tensor, "*shape"]:
    """Tell whose fate the tokens at `positions` announce; -1 is before the text: nobody's.

    Source: the authors' released code, where the logit of token t+1 decides about token t.
    """
    return positions - shift


def shift_decisions(
    decisions: Shaped[Tensor, "B T K"], segments: Int[Tensor, "B T"], shift: int
) -> Shaped[Tensor, "B T K"]:
    """Move what each token announced to the token it is about, document by document.

    The last `shift` tokens of a document have no successor that speaks for them and are kept. Kept
    is zero in every representation this is called with: a mark (False), a soft probability of
    eviction (0) and the logarithm of keeping (0).

    Args:
        decisions: row t holds what token t announced.
        segments: the document of each token; documents are contiguous within a row.
        shift: how many tokens later a fate is announced; 0 returns `decisions` themselves.
    """
    if shift == 0:
        return decisions
    num_tokens = decisions.shape[1]
    speakers = decisions[:, shift:]
    same = (segments[:, shift:] == segments[:, : num_tokens - shift])[:, :, None]
    about = decisions.new_zeros(decisions.shape)
    about[:, : num_tokens - shift] = speakers.where(same, speakers.new_zeros(()))
    return about
