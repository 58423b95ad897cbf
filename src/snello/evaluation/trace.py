"""What every head did with every token of one text: kept it, or forgot it, and when.

Knows nothing of pages or of the eviction rule: it watches a memory while the text is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTrace:
    """One head's memory of the text.

    `gone_at[position]` is how many tokens had been read when the token was first found missing;
    None if it was alive to the end.
    """

    layer: int
    head: int
    gone_at: tuple[int | None, ...]

    def num_alive(self, num_read: int) -> int:
        """How many tokens are alive once `num_read` have been read."""
        return sum(gone is None or gone > num_read for gone in self.gone_at[:num_read])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One text with what became of its tokens in each head.

    Invariant: every head has one entry for each token, and nothing is gone before it was read.
    """

    tokens: tuple[str, ...]
    num_prompt_tokens: int
    window_tokens: int
    """Tokens at most this far behind the last one read are recent: no head forgets them."""

    heads: tuple[HeadTrace, ...]

    def check(self) -> None:
        """Raise if the heads and the tokens do not belong together.

        Raises:
            ValueError: no heads, a head of another length, or a token gone before it was read.
        """
        if not self.heads or not self.tokens:
            raise ValueError("a trace needs at least one token and one head; this one has none.")
        for head in self.heads:
            name = f"layer {head.layer}, head {head.head}"
            if len(head.gone_at) != len(self.tokens):
                raise ValueError(
                    f"{name} tells of {len(head.gone_at)} tokens, the text has {len(self.tokens)}; "
                    "both must come from the same run."
                )
            early = [p for p, gone in enumerate(head.gone_at) if gone is not None and gone <= p]
            if early:
                raise ValueError(f"{name} forgot token {early[0]} before it was read.")

    @property
    def factor(self) -> float:
        """All tokens over live tokens at the end, mean over heads of the latter."""
        alive = sum(head.num_alive(len(self.tokens)) for head in self.heads)
        return len(self.tokens) * len(self.heads) / alive


def gather_trace(
    tokens: Sequence[str],
    num_prompt_tokens: int,
    window_tokens: int,
    portraits: Mapping[int, Sequence[Sequence[Sequence[int]]]],
) -> Trace:
    """Return the trace of a text that was read step by step.

    Args:
        tokens: The text of each token.
        num_prompt_tokens: How many of them were given; the model wrote the others.
        window_tokens: How far back no head forgets.
        portraits: After how many tokens read, for each layer and head, the live positions.
    """
    last = portraits[len(tokens)]
    heads = []
    for layer, layer_heads in enumerate(last):
        for head in range(len(layer_heads)):
            gone_at: list[int | None] = [None] * len(tokens)
            alive_before: set[int] = set()
            num_read_before = 0
            for num_read, portrait in sorted(portraits.items()):
                alive = set(portrait[layer][head])
                for position in (alive_before | {*range(num_read_before, num_read)}) - alive:
                    gone_at[position] = num_read
                alive_before, num_read_before = alive, num_read
            heads.append(HeadTrace(layer=layer, head=head, gone_at=tuple(gone_at)))
    trace = Trace(
        tokens=tuple(tokens),
        num_prompt_tokens=num_prompt_tokens,
        window_tokens=window_tokens,
        heads=tuple(heads),
    )
    trace.check()
    return trace
