"""Perplexity of a text: how many nats a token, and a byte, cost the model in its memory.

Knows nothing of memories. A text longer than the window is read in overlapping pieces, of which
only what is new is scored.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snello.engine.engine import Engine


class Piece(NamedTuple):
    """What the model is shown at once, and how many of its last tokens are scored."""

    start: int
    end: int
    num_scored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """The cost of a text; the first token, which nothing stands before, is not counted."""

    num_tokens: int
    """Tokens that were scored."""

    num_bytes: int
    """Bytes of the whole text, in UTF-8."""

    nats: float
    """Sum of negative logarithms over all scored tokens."""

    @property
    def nats_per_token(self) -> float:
        """The mean over scored tokens."""
        return self.nats / self.num_tokens

    @property
    def nats_per_byte(self) -> float:
        """Compares models with different tokenizers."""
        return self.nats / self.num_bytes

    @property
    def perplexity(self) -> float:
        """The exponential of nats per token."""
        return math.exp(self.nats_per_token)


def measure_perplexity(
    engine: Engine,
    token_ids: Sequence[int],
    num_bytes: int,
    *,
    window_tokens: int | None = None,
    stride_tokens: int | None = None,
) -> Perplexity:
    """Score a text that was tokenized as a whole.

    Args:
        engine: The model in its memory, with nothing under way.
        token_ids: The text, with the start token that the tokenizer adds.
        num_bytes: Its length in UTF-8.
        window_tokens: How much is shown at once; without it, what the context holds.
        stride_tokens: How far one window is behind the next: each but the first scores so many
            tokens. Without it, half a window.

    Raises:
        ValueError: fewer than two tokens, a window longer than the context, or a stride that
            leaves tokens out.
    """
    window = window_tokens or engine.context_tokens
    stride = stride_tokens or max(1, window // 2)
    if not 2 <= window <= engine.context_tokens or not 1 <= stride < window:
        raise ValueError(
            f"the window is {window} tokens and the stride {stride}; the window must be from 2 to "
            f"the model's context of {engine.context_tokens}, and the stride from 1 to one less "
            "than the window."
        )
    if len(token_ids) < 2 or num_bytes < 1:
        raise ValueError(f"the text has {len(token_ids)} tokens; two are needed to score one.")
    pieces = list(cut(len(token_ids), window, stride))
    scores = engine.score([token_ids[piece.start : piece.end] for piece in pieces])
    nats = -math.fsum(
        score.logprob
        for piece, found in zip(pieces, scores, strict=True)
        for score in found[len(found) - piece.num_scored :]
    )
    return Perplexity(num_tokens=len(token_ids) - 1, num_bytes=num_bytes, nats=nats)


def cut(num_tokens: int, window: int, stride: int) -> Iterator[Piece]:
    """Yield pieces that score each token but the first once, with as much before it as possible.

    The last piece is as long as the others, if the text is.
    """
    end = min(window, num_tokens)
    yield Piece(0, end, end - 1)
    while end < num_tokens:
        next_end = min(end + stride, num_tokens)
        yield Piece(next_end - window, next_end, next_end - end)
        end = next_end


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: there is none, or it is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text ({error}).") from None
