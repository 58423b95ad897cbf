"""How likely the model finds the tokens of texts that it is given, in the memory it has.

Knows nothing of requests or sampling: what a window or a decision forgets is forgotten here too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.paged import PagedMemory
from snello.cache.pages import OutOfPages
from snello.models.decoder import Decoder

ROWS_AT_ONCE = 256
"""So that no (tokens, vocabulary) tensor stands in memory whole."""


class TokenScore(NamedTuple):
    """One token of a text, given all before it."""

    logprob: float
    """Natural logarithm of its probability, by the model's own distribution."""

    is_likeliest: bool
    """Whether no other token was likelier."""


def score_texts(
    decoder: Decoder,
    memory: PagedMemory,
    texts: Sequence[Sequence[int]],
    *,
    max_batch_tokens: int,
) -> list[list[TokenScore]]:
    """Score each text's tokens but the first; several short texts share a step.

    The memory is left as it was.

    Raises:
        OutOfPages: a text does not fit, even alone.
    """
    scores: list[list[TokenScore]] = []
    for group in _group(texts, max_batch_tokens, memory.num_unused_sequences):
        try:
            scores += _score_group(decoder, memory, group, max_batch_tokens)
        except OutOfPages:
            if len(group) == 1:
                raise
            for text in group:
                scores += _score_group(decoder, memory, [text], max_batch_tokens)
    return scores


def _group(
    texts: Sequence[Sequence[int]], most_tokens: int, most_texts: int
) -> Iterator[list[Sequence[int]]]:
    """Cut the texts, in their order, into groups that one step can take; a long one is alone."""
    group: list[Sequence[int]] = []
    for text in texts:
        num_tokens = sum(map(len, group)) + len(text)
        if group and (num_tokens > most_tokens or len(group) == most_texts):
            yield group
            group = []
        group.append(text)
    if group:
        yield group


def _score_group(
    decoder: Decoder,
    memory: PagedMemory,
    texts: Sequence[Sequence[int]],
    max_batch_tokens: int,
) -> list[list[TokenScore]]:
    """Run texts through the memory, all in one step, or a single long one chunk by chunk."""
    scores: list[list[TokenScore]] = [[] for _ in texts]
    sequences: list[int] = []
    starts = range(0, max(map(len, texts)) - 1, max_batch_tokens)
    try:
        sequences += [memory.add() for _ in texts]
        for start in starts:
            parts = [text[start : start + max_batch_tokens + 1] for text in texts]
            # The last token is not shown: nothing behind it is asked for.
            shown = [(i, part[:-1]) for i, part in enumerate(parts) if len(part) > 1]
            step = memory.begin([sequences[i] for i, _ in shown], [len(ids) for _, ids in shown])
            tokens = torch.tensor([t for _, ids in shown for t in ids], device=memory.device)
            hidden = decoder(tokens, step)
            memory.commit(step)
            following = torch.tensor(
                [t for i, _ in shown for t in parts[i][1:]], device=memory.device
            )
            found = iter(_score_rows(decoder, hidden, following))
            for i, ids in shown:
                scores[i] += [next(found) for _ in ids]
    finally:
        for sequence in sequences:
            memory.release(sequence)
    return scores


def _score_rows(
    decoder: Decoder, hidden: Float[Tensor, "T C"], following: Int[Tensor, " T"]
) -> list[TokenScore]:
    scores: list[TokenScore] = []
    for rows, wanted in zip(
        torch.split(hidden, ROWS_AT_ONCE), torch.split(following, ROWS_AT_ONCE), strict=True
    ):
        logits = decoder.project(rows).float()
        chosen = logits.gather(-1, wanted[:, None])[:, 0]
        logprobs = (chosen - logits.logsumexp(dim=-1)).tolist()
        likeliest = (chosen == logits.amax(dim=-1)).tolist()
        scores += map(TokenScore, logprobs, likeliest)
    return scores
