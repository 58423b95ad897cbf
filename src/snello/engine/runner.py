"""One step on the device: from a scheduled batch to the sampled tokens.

Knows nothing of waiting requests, stopping or text.
"""

from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.engine.replay import choose_compute
from snello.engine.sampler import sample
from snello.engine.scheduler import Batch, Share
from snello.models.decoder import Decoder


class Runner:
    """A decoder and the memory it runs on."""

    def __init__(
        self, decoder: Decoder, memory: DenseMemory | SparseMemory, device: torch.device
    ) -> None:
        self._decoder = decoder
        self._compute = choose_compute(decoder, memory)
        self._memory = memory
        self._device = device

    def run(self, batch: Batch) -> list[int]:
        """Compute a batch and return one token for each share that is its request's last.

        Threads are told what has been stored; logits exist only for rows that are sampled.
        """
        hidden = self._compute(self._gather_tokens(batch.shares), batch.step)
        self._memory.commit(batch.step)
        ends = accumulate(share.num_tokens for share in batch.shares)
        asking = [
            (end - 1, share.request.ask)
            for end, share in zip(ends, batch.shares, strict=True)
            if share.is_last
        ]
        for share in batch.shares:
            share.request.thread.num_stored += share.num_tokens
        if not asking:
            return []
        rows = torch.tensor([row for row, _ in asking], device=self._device)
        logits = self._decoder.project(hidden[rows])
        return sample(logits, [ask for _, ask in asking]).tolist()

    def _gather_tokens(self, shares: list[Share]) -> Int[Tensor, " T"]:
        token_ids: list[int] = []
        for request, num_tokens in shares:
            thread = request.thread
            token_ids += thread.token_ids[thread.num_stored : thread.num_stored + num_tokens]
        return torch.tensor(token_ids, device=self._device)
