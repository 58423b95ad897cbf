"""What is done to logits before any choice: a bias, penalties on what was said, banned ends.

Knows nothing of drawing or of requests. Only the logits of named tokens are touched, so a row
costs as much as it has different tokens, not as much as the vocabulary is large.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from snello.config.sampling import SamplingConfig

_FIRST_ROOM = 64


class TokenCounts:
    """Which tokens a request has, and how often each stands in its reply; a token costs O(1).

    Invariant: `token_ids` are different from each other, and `counts[i]` is how often
    `token_ids[i]` was given to `add`; tokens of the prompt alone count 0.
    """

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self._places = {token_id: i for i, token_id in enumerate(dict.fromkeys(prompt_ids))}
        room = max(_FIRST_ROOM, 2 * len(self._places))
        self._token_ids = np.zeros(room, dtype=np.int64)
        self._counts = np.zeros(room, dtype=np.int64)
        self._token_ids[: len(self._places)] = list(self._places)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """The different tokens, in the order they came."""
        return self._token_ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `token_ids` stands in the reply."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        """Count one token of the reply."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._counts):
            self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._token_ids[place] = token_id
        self._counts[place] += 1


class Edits:
    """One request's changes to its logits.

    Invariant: `seen` has had every token of the prompt if repetition is penalised, and every
    token of the reply so far.
    """

    def __init__(
        self, wish: SamplingConfig, prompt_ids: Sequence[int], end_ids: Iterable[int]
    ) -> None:
        """Prepare a request's changes.

        Args:
            wish: What was asked for.
            prompt_ids: All tokens before the reply, earlier turns included.
            end_ids: The tokens that end the reply; banned until `min_new_tokens` are there.
        """
        self.repetition = wish.repetition_penalty
        self.presence = wish.presence_penalty
        self.frequency = wish.frequency_penalty
        self.bias_ids = np.array(list(wish.logit_bias), dtype=np.int64)
        self.bias = np.array(list(wish.logit_bias.values()), dtype=np.float32)
        self.end_ids = np.array(sorted(set(end_ids)), dtype=np.int64)
        self.min_new_tokens = wish.min_new_tokens
        self.num_new_tokens = 0
        self.seen = TokenCounts(prompt_ids if self.repetition != 1.0 else ())
        self._is_counting = self.repetition != 1.0 or self.presence != 0 or self.frequency != 0

    def accept(self, token_id: int) -> None:
        """Count one token of the reply."""
        self.num_new_tokens += 1
        if self._is_counting:
            self.seen.add(token_id)

    @property
    def banned_ids(self) -> NDArray[np.int64]:
        """The tokens that cannot be chosen now."""
        return self.end_ids if self.num_new_tokens < self.min_new_tokens else self.end_ids[:0]


def edit_logits(logits: Float[Tensor, "B V"], rows: Sequence[tuple[int, Edits]]) -> None:
    """Change the logits of some rows in place: bias, then penalties, then bans.

    A row's result does not depend on the other rows. Repetition comes before frequency and
    presence, as in vLLM.

    Args:
        logits: In float32, so that a penalty is not rounded away.
        rows: Each row that is to be changed, once, with its changes.

    Source: repetition from CTRL, arXiv:1909.05858, section 4.1, with logits of 0 and below
    multiplied, as `transformers` and vLLM do; presence and frequency from OpenAI's API reference.
    """
    device = logits.device
    places, ids, bias = _gather(rows, lambda e: (e.bias_ids, e.bias), device)
    if len(ids):
        logits[places, ids] += bias
    places, ids, counts = _gather(rows, lambda e: (e.seen.token_ids, e.seen.counts), device)
    if len(ids):
        of_row = torch.zeros(len(logits), 3, device=device)  # (B, 3)
        for row, edits in rows:
            strengths = (edits.repetition, edits.frequency, edits.presence)
            of_row[row] = torch.tensor(strengths, device=device)
        repetition, frequency, presence = of_row[places].unbind(-1)
        values = logits[places, ids]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[places, ids] = values - frequency * counts - presence * (counts > 0)
    places, ids, _ = _gather(rows, lambda e: (e.banned_ids, e.banned_ids), device)
    if len(ids):
        logits[places, ids] = -torch.inf


def _gather(
    rows: Sequence[tuple[int, Edits]],
    read: Callable[[Edits], tuple[NDArray[np.int64], NDArray[np.generic]]],
    device: torch.device,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Tensor]:
    """Return row, token id and value of everything that `read` finds, one after the other."""
    found = [(row, *read(edits)) for row, edits in rows]
    places = np.repeat([row for row, _, _ in found], [len(ids) for _, ids, _ in found])
    ids = np.concatenate([ids for _, ids, _ in found])
    values = np.concatenate([values for _, _, values in found])
    return (
        torch.from_numpy(places).to(device),
        torch.from_numpy(ids).to(device),
        torch.from_numpy(values).to(device),
    )
