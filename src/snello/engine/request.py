"""What travels through the engine: requests, the threads of tokens they extend, and their reports.

Knows nothing of tensors, models or pages; a thread's memory is a number that the memory gave.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from snello.cache.prefix import Checkpoint
from snello.config.engine import SamplingConfig
from snello.engine.edits import Edits
from snello.engine.sampler import Ask
from snello.engine.scores import TokenLogprobs

FinishReason = Literal["eos", "stop", "length", "context", "refused", "aborted"]


class Costs(NamedTuple):
    """What a thread has cost so far: its reads, and the most that it held after any step."""

    kv_reads: float = 0.0
    peak_live_tokens: float = 0.0
    peak_bytes: int = 0


NOTHING = Costs()


class Token(NamedTuple):
    """One token that a request has just been given."""

    request: int
    token_id: int
    logprobs: TokenLogprobs | None = None
    """How likely the model found it, if that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a request was given, why it ended, and what it cost."""

    request: int
    token_ids: list[int]
    """The generated tokens, the one that stopped it included."""

    finish_reason: FinishReason
    """`eos`: the model ended; `stop`: a stop token or a stop string; `length`: `max_new_tokens`;
    `context`: the model's context is full; `refused`: it can never fit in memory; `aborted`: by
    the caller."""

    num_prompt_tokens: int
    """Tokens of this turn's prompt."""

    num_seen_tokens: int
    """Tokens of the whole thread that the model was shown: earlier turns included, the last
    token of the reply not."""

    kv_reads: float
    """Sum over this turn's tokens, prompt and reply, of the live tokens that each attended, mean
    over layers and heads."""

    peak_live_tokens: float
    """The most tokens of the thread that were alive after a step, mean over layers and heads."""

    peak_bytes: int
    """The most bytes of pages that the thread held after a step."""

    sequence: int | None
    """The handle to continue the conversation with, if the request was to be kept."""

    refusal: str | None = None
    """One line that says why, if `finish_reason` is `refused`."""

    logprobs: list[TokenLogprobs] | None = None
    """One for each of `token_ids`, if they were asked for."""

    @property
    def num_generated_tokens(self) -> int:
        """How many tokens the model wrote."""
        return len(self.token_ids)

    @property
    def factor(self) -> float:
        """The measured factor: what dense memory would hold over the most that was alive."""
        return self.num_seen_tokens / self.peak_live_tokens if self.peak_live_tokens else 1.0


@dataclass(slots=True, eq=False)
class Thread:
    """All tokens of one conversation, and where the first `num_stored` of them live.

    Invariant: `memory_sequence` is None exactly when nothing is held, and then `num_stored` is 0.
    """

    token_ids: list[int] = field(default_factory=list)
    memory_sequence: int | None = None
    num_stored: int = 0
    costs_before: Costs = NOTHING
    """What it cost in memories that it no longer holds."""

    origin: Checkpoint | None = None
    """The state that it is to start from, shared with others."""

    is_cautious: bool = False
    """Whether it once kept more of a prompt than was expected, so that no more is left to luck."""

    cut_tokens: int | None = None
    """Where its prompt is to be cut, so that others can start from there."""

    @property
    def num_pending(self) -> int:
        """Tokens that the model has not been shown yet."""
        return len(self.token_ids) - self.num_stored


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One turn: a prompt at the end of a thread, and what may follow it."""

    number: int
    thread: Thread
    sampling: SamplingConfig
    seed: int
    eos_ids: frozenset[int]
    """The model's own end tokens; empty if they are to be ignored."""

    num_prompt_tokens: int
    length_limit_tokens: int
    """The thread never grows longer than this."""

    sequence: int | None = None
    """The handle of its thread, if it is kept afterwards."""

    num_generated: int = 0
    kv_reads_at_start: float = 0.0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    edits: Edits | None = None
    """What is done to its logits, made when it is first sampled; None if nothing is."""

    siblings: list["Request"] = field(default_factory=list)
    """Requests with the same prompt that wait for this one to compute it, for all of them."""

    leader: "Request | None" = None
    """The request in whose `siblings` this one is."""

    @property
    def is_decoding(self) -> bool:
        """Whether all but the newest token are in memory."""
        return self.num_generated > 0 and self.thread.num_pending == 1

    @property
    def ask(self) -> Ask:
        """How its next token is to be sampled."""
        wish = self.sampling
        if wish.edits_logits and self.edits is None:
            self.edits = Edits(wish, self.thread.token_ids, {*self.eos_ids, *wish.stop_token_ids})
        return Ask(
            wish.temperature,
            wish.top_k,
            wish.top_p,
            wish.min_p,
            self.seed,
            self.num_generated,
            self.edits,
            wish.top_logprobs if wish.logprobs else None,
        )

    def accept(self, token_id: int, logprobs: TokenLogprobs | None = None) -> FinishReason | None:
        """Take a sampled token; return why the request ends with it, or None if it goes on."""
        self.thread.token_ids.append(token_id)
        self.num_generated += 1
        if self.edits is not None:
            self.edits.accept(token_id)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token_id in self.eos_ids:
            return "eos"
        if token_id in self.sampling.stop_token_ids:
            return "stop"
        if self.num_generated == self.sampling.max_new_tokens:
            return "length"
        return "context" if len(self.thread.token_ids) >= self.length_limit_tokens else None
