"""One step on the device: from a scheduled batch to the sampled tokens.

Knows nothing of waiting requests, stopping or text.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.paged import PagedMemory
from snello.engine.replay import choose_compute
from snello.engine.sampler import Ask, sample
from snello.engine.scheduler import Batch, Share
from snello.engine.scores import TokenLogprobs, score_tokens
from snello.models.decoder import Decoder


class Choice(NamedTuple):
    """The next token of one request, and its scores if they were asked for."""

    token_id: int
    logprobs: TokenLogprobs | None


class Runner:
    """A decoder and the memory it runs on."""

    def __init__(self, decoder: Decoder, memory: PagedMemory, device: torch.device) -> None:
        self._decoder = decoder
        self._compute = choose_compute(decoder, memory)
        self._memory = memory
        self._device = device

    def run(self, batch: Batch) -> list[Choice]:
        """Compute a batch and return one choice for each asker of each last share.

        Threads are told what has been stored; logits exist only for rows that are sampled.
        """
        hidden = self._compute(self._gather_tokens(batch.shares), batch.step)
        self._memory.commit(batch.step)
        spoiled = batch.step.promise.spoiled
        ends = accumulate(share.num_tokens for share in batch.shares)
        asking = [
            (end - 1, asker.ask)
            for end, share in zip(ends, batch.shares, strict=True)
            if share.is_last and share.request.thread.memory_sequence not in spoiled
            for asker in share.askers
        ]
        for share in batch.shares:
            share.request.thread.num_stored += share.num_tokens
        if not asking:
            return []
        rows = torch.tensor([row for row, _ in asking], device=self._device)
        logits = self._decoder.project(hidden[rows])
        return _choose(logits, [ask for _, ask in asking])

    def _gather_tokens(self, shares: list[Share]) -> Int[Tensor, " T"]:
        token_ids: list[int] = []
        for request, num_tokens in shares:
            thread = request.thread
            token_ids += thread.token_ids[thread.num_stored : thread.num_stored + num_tokens]
        return torch.tensor(token_ids, device=self._device)


def _choose(logits: Float[Tensor, "B V"], asks: Sequence[Ask]) -> list[Choice]:
    token_ids = sample(logits, asks)
    scores: list[TokenLogprobs | None] = [None] * len(asks)
    scored = [row for row, ask in enumerate(asks) if ask.num_top_logprobs is not None]
    if scored:
        rows = torch.tensor(scored, device=logits.device)
        num_top = [asks[row].num_top_logprobs or 0 for row in scored]
        found = score_tokens(logits[rows], token_ids[rows], num_top)
        for row, logprobs in zip(scored, found, strict=True):
            scores[row] = logprobs
    return [Choice(*pair) for pair in zip(token_ids.tolist(), scores, strict=True)]
