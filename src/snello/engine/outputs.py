"""What users get back: replies with their text and what they cost, and the pieces of a stream.

Knows nothing of engines, tokenizers or how a reply came about.
"""

from dataclasses import dataclass

from snello.engine.request import Completion, FinishReason
from snello.engine.scores import TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOutput:
    """One reply to a prompt."""

    index: int
    """Which of the prompt's `SamplingConfig.n` replies it is, from 0."""

    text: str
    """Without special tokens, and cut before the stop string if one ended it."""

    stop_reason: str | int | None
    """The stop string, or the stop token's id, if `finish_reason` is `stop`."""

    completion: Completion
    """The engine's own report: ids, costs, and the handle of a kept sequence."""

    @property
    def token_ids(self) -> list[int]:
        """The generated tokens, those of the end or of a stop string included."""
        return self.completion.token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended; see `Completion.finish_reason`. OpenAI calls `eos` and `stop` `stop`."""
        return self.completion.finish_reason

    @property
    def refusal(self) -> str | None:
        """One line that says why nothing could be written, if `finish_reason` is `refused`."""
        return self.completion.refusal

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        """One for each of `token_ids`, if they were asked for."""
        return self.completion.logprobs

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum of the chosen tokens' logprobs, if they were asked for."""
        return None if self.logprobs is None else sum(place.logprob for place in self.logprobs)

    @property
    def kv_reads(self) -> float:
        """Live tokens read, summed over the turn's tokens; see `Completion.kv_reads`."""
        return self.completion.kv_reads

    @property
    def peak_live_tokens(self) -> float:
        """The most tokens that were alive; see `Completion.peak_live_tokens`."""
        return self.completion.peak_live_tokens

    @property
    def factor(self) -> float:
        """The measured factor; see `Completion.factor`."""
        return self.completion.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """A prompt with its replies."""

    prompt: str | None
    """As it was given, or as the chat template wrote it; None if it came as token ids."""

    prompt_token_ids: list[int]

    outputs: list[SampleOutput]
    """`SamplingConfig.n` of them, in the order of their index."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to a reply."""

    request: int
    """Whose reply it is: the number that `TextEngine.add` gave."""

    index: int
    """Which of the request's replies."""

    text: str
    """What may be shown now and was not before; empty while a character or a stop string may
    still be completed."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    """One for each of `token_ids`, if they were asked for; else empty."""

    output: SampleOutput | None
    """The whole reply, in its last piece."""
