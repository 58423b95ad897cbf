"""What memories count: tokens read, tokens alive, pages. Knows nothing of how they are stored."""

import torch
from jaxtyping import Int, Num
from torch import Tensor


class Meters:
    """Counters of one memory, per sequence; those of a sequence are cleared when it is opened.

    `kv_reads` adds, for every token that was processed (prompt or generated), the number of tokens
    its query saw, itself included, averaged over all key-value heads of all layers.
    `peak_live_tokens` is the largest number of tokens stored after any step, averaged likewise.
    """

    def __init__(self, num_heads: int, max_sequences: int, device: torch.device) -> None:
        self._num_heads = num_heads
        self._reads = torch.zeros(max_sequences, dtype=torch.float64, device=device)
        self._peaks = torch.zeros(max_sequences, dtype=torch.float64, device=device)
        self._peak_pages = torch.zeros(max_sequences, dtype=torch.int64, device=device)
        self.peak_bytes = 0

    def clear(self, sequence: int) -> None:
        """Start counting anew for a sequence."""
        self._reads[sequence] = 0
        self._peaks[sequence] = 0
        self._peak_pages[sequence] = 0

    def count_reads(self, sequences: Int[Tensor, " B"], num_seen: Int[Tensor, " B"]) -> None:
        """Add what the queries of one layer saw, summed over its heads."""
        self._reads[sequences] += num_seen.to(torch.float64)

    def count_live(
        self, sequences: Int[Tensor, " B"], num_live: Num[Tensor, " B"], num_bytes: int
    ) -> None:
        """Note how many tokens are alive after a step, summed over heads and layers."""
        self._peaks[sequences] = self._peaks[sequences].maximum(num_live.to(torch.float64))
        self.peak_bytes = max(self.peak_bytes, num_bytes)

    def count_pages(self, sequences: Int[Tensor, " B"], num_pages: Int[Tensor, " B"]) -> None:
        """Note how many pages each sequence holds after a step."""
        self._peak_pages[sequences] = self._peak_pages[sequences].maximum(num_pages)

    def kv_reads(self, sequence: int) -> float:
        """Tokens read so far by a sequence, a mean over heads and layers."""
        return float(self._reads[sequence]) / self._num_heads

    def peak_live_tokens(self, sequence: int) -> float:
        """Most tokens stored for a sequence after any step, a mean over heads and layers."""
        return float(self._peaks[sequence]) / self._num_heads

    def peak_pages(self, sequence: int) -> int:
        """Most pages held by a sequence after any step."""
        return int(self._peak_pages[sequence])
