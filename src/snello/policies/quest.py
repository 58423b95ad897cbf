"""Quest: everything is kept, and each query reads the pages that may matter most to it.

Knows nothing of where pages are. Dims: B sequences, K key-value heads, g query heads of each,
M pages, D key size.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

WHOLE_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Quest:
    """Pages whose bounds promise the largest product with the query, `budget` tokens in all.

    A page's bound is the largest product that any key between its smallest and its largest numbers
    could have. The newest page is always read, prompts read everything, and so do the first two
    layers.

    Source: Quest, arXiv:2406.10774, and its authors' code, in which each query head chooses for
    itself and the newest page must win its place. Here heads of a group share their pages, chosen
    by the largest bound of any of them, because what is read is counted for each key-value head.
    """

    budget: int

    def choose(
        self,
        q: Float[Tensor, "B K g D"],
        bounds: Float[Tensor, "B K M 2 D"],
        num_pages: Int[Tensor, " B"],
        page_tokens: int,
    ) -> Bool[Tensor, "B K M"]:
        """Tell which of each sequence's `num_pages` pages are read.

        Args:
            q: One query of each head.
            bounds: The smallest and the largest numbers of each page; the newest page's are not
                looked at.
            num_pages: How many pages each sequence has.
            page_tokens: How many tokens a page holds.
        """
        products = q[:, :, :, None, None] * bounds[:, :, None]  # (B, K, g, M, 2, D)
        most = products.amax(-2).sum(-1).amax(2)  # (B, K, M)
        columns = torch.arange(bounds.shape[2], device=q.device)
        behind = columns - num_pages[:, None, None]  # (B, 1, M)
        values = most.masked_fill(behind == -1, torch.inf).masked_fill(behind >= 0, -torch.inf)
        order = values.argsort(dim=-1, descending=True, stable=True)
        first = order[..., : max(1, self.budget // page_tokens)]
        chosen = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, first, value=True)
        return chosen & (behind < 0)
