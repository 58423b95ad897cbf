"""What one chain of thought said and cost, at every length of a sweep; and that as a line of JSON.

Knows nothing of how chains are computed, or of files.
"""

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """Which chain it is; every chain of a sweep has a key of its own."""

    contender: str
    task: str
    question: str
    chain: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A chain as it is, or would have been, where replies may have this length.

    A reply that ended earlier is the same at every length. One that is longer is cut: its tokens up
    to there are those of a run with that limit, because what is drawn depends on the seed and on
    what was drawn before, and its costs were read off the memory at that very token.
    """

    length_tokens: int
    generated_tokens: int
    is_cut: bool
    """Whether the reply would have gone on."""

    answer: str | None
    score: float
    stored_tokens: int
    """Prompt and reply, the last sampled token left aside: what dense memory would hold."""

    reply_kv_reads: float
    """Live tokens attended, summed over the reply's tokens, mean over layers and heads."""

    reply_kv_bytes: float
    """What those tokens take in their pages' formats, in all layers and heads."""

    peak_live_tokens: float
    """The most tokens alive after a step, mean over layers and heads; the prompt's among them."""

    peak_bytes: int
    """The most bytes of pages that the chain held after a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One chain, whole."""

    key: Key
    session: int
    """Which start of the sweep computed it; the sessions' own lines tell command and commit."""

    seed: int
    """The chain's dice."""

    finish_reason: str
    text: str
    prompt_tokens: int
    prompt_kv_reads: float
    """What reading the prompt cost, once for all chains of the question."""

    prompt_kv_bytes: float

    cuts: tuple[Cut, ...]
    """One for each length of the sweep, ascending."""


def write_line(record: Record) -> str:
    """Return the record as one line, without its end."""
    figures = asdict(record)
    return json.dumps(record.key._asdict() | {k: v for k, v in figures.items() if k != "key"})


def read_line(line: str) -> Record:
    """Return the record of a line.

    Raises:
        ValueError: the line is torn, or not of this version.
    """
    try:
        raw = json.loads(line)
        key = Key(*(raw.pop(name) for name in Key._fields))
        cuts = tuple(Cut(**cut) for cut in raw.pop("cuts"))
        return Record(key=key, cuts=cuts, **raw)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"this is no record of a chain ({reason}): {line[:80]!r}") from None
