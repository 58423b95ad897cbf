"""How many bytes the tokens take that a chain read: what is in its window, and what is behind it.

Knows nothing of pages or formats: what a token of each kind takes, with its position, its mark and
its scales, the memory says.
"""

from dataclasses import dataclass

from snello.cache.paged import PagedMemory


@dataclass(frozen=True, slots=True)
class ReadPrice:
    """Bytes of one token that is read, in all heads of all layers."""

    token_bytes: float
    """In the window, or where there is none."""

    survivor_bytes: float
    """Behind the window."""

    window_tokens: int | None
    """None: there is no window."""

    def weigh(self, kv_reads: float, first: int, last: int) -> float:
        """Return the bytes of all that the queries at positions `first` to `last - 1` read.

        Which part of it lay in the window follows from the positions, for all of the window is
        always visible. A prompt that was read twice, its request having given way, counts as if
        the second reading were all survivors.

        Args:
            kv_reads: Tokens, a mean over all heads.
            first: The first query's position.
            last: One behind the last query's.
        """
        if self.window_tokens is None or self.token_bytes == self.survivor_bytes:
            return kv_reads * self.token_bytes
        recent = sum(min(position, self.window_tokens) + 1 for position in range(first, last))
        return recent * self.token_bytes + (kv_reads - recent) * self.survivor_bytes


def price_reads(memory: PagedMemory, window_tokens: int | None) -> ReadPrice:
    """Return what reading costs in a memory."""
    num_heads = sum(shape.num_heads for shape in memory.shapes)
    return ReadPrice(
        token_bytes=num_heads * memory.store.bytes_per_token,
        survivor_bytes=num_heads * memory.store.bytes_per_survivor,
        window_tokens=window_tokens,
    )
