"""Requests whose replies are text: an engine, a tokenizer, and stop strings between them.

Knows nothing of files, threads or terminals; which requests run is the engine's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from snello.config.sampling import SamplingConfig
from snello.engine.dice import split_seed
from snello.engine.engine import Engine
from snello.engine.interrupt import deferred_interrupts
from snello.engine.outputs import Piece, SampleOutput
from snello.engine.request import Completion, Token
from snello.engine.text import TextCodec
from snello.engine.writer import Writer


@dataclass(slots=True)
class _Reply:
    """One reply that is being written; without a writer, its text is made when it is done."""

    request: int
    index: int
    wish: SamplingConfig
    writer: Writer | None


class TextEngine:
    """The life of text requests: `add`, `step` until they are done, `abort` at any time.

    Invariant: `_replies` are exactly the engine's unfinished requests that came through `add`, by
    the engine's number; a request of this class has the number of its first reply.
    """

    def __init__(self, engine: Engine, codec: TextCodec) -> None:
        self.engine = engine
        self.codec = codec
        self._replies: dict[int, _Reply] = {}

    @property
    def is_busy(self) -> bool:
        """Whether `step` has work to do."""
        return self.engine.is_busy

    def add(
        self,
        prompt_ids: Sequence[int],
        wish: SamplingConfig,
        *,
        is_streamed: bool = False,
        sequence: int | None = None,
        keep: bool = False,
    ) -> int:
        """Take a request for `wish.n` replies and return its number.

        Args:
            prompt_ids: The tokens to continue.
            wish: How to choose, and when to end.
            is_streamed: Whether pieces carry text as it comes; else only the last one's output
                does.
            sequence: As in `Engine.add`; then `wish.n` is 1.
            keep: As in `Engine.add`.

        Raises:
            ValueError: as `Engine.add`; nothing has been taken.
        """
        if wish.n == 1:
            numbers = [self.engine.add(prompt_ids, wish, sequence=sequence, keep=keep)]
        else:
            assert sequence is None, "several replies cannot continue one sequence"
            assert not keep, "several replies cannot be kept as one sequence"
            numbers = add_samples(self.engine, prompt_ids, wish)
        for index, number in enumerate(numbers):
            writes = is_streamed or wish.stop
            writer = Writer(self.codec.decode, wish) if writes else None
            self._replies[number] = _Reply(numbers[0], index, wish, writer)
        return numbers[0]

    def step(self) -> list[Piece]:
        """Compute one batch and return what it added to each reply.

        A reply that reaches a stop string ends here, and its memory is given back.
        """
        events = self.engine.step()
        ended = {event.request: event for event in events if isinstance(event, Completion)}
        pieces = []
        for event in events:
            if isinstance(event, Token) and event.request in self._replies:
                pieces.append(self._write(event, ended.pop(event.request, None)))
        ours = [completion for number, completion in ended.items() if number in self._replies]
        return pieces + [self._end(completion) for completion in ours]

    def abort(self, request: int) -> list[Piece]:
        """End what is unfinished of a request, give its memory back, and return the last pieces."""
        numbers = [n for n, reply in self._replies.items() if reply.request == request]
        return [self._end(self.engine.abort(number)) for number in numbers]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        wishes: Sequence[SamplingConfig],
        *,
        on_finish: Callable[[SampleOutput], None] = lambda _: None,
    ) -> list[list[SampleOutput]]:
        """Complete all prompts, as many at a time as fit; the results stand in their order.

        Whatever ends it early, Ctrl-C too, leaves none of its requests behind.

        Args:
            prompts: Token ids, one list for each request.
            wishes: One for each prompt.
            on_finish: Called with each reply as it is done, for progress.

        Raises:
            ValueError: as `add`; then nothing has been computed.
        """
        for prompt_ids, wish in zip(prompts, wishes, strict=True):
            self.engine.check(prompt_ids, wish)
        outputs: dict[int, list[SampleOutput]] = {}
        # What has no chance to run yet stays here, so that the engine's queue stays short.
        num_wanted = 2 * self.engine.max_sequences
        num_left = sum(wish.n for wish in wishes)
        with deferred_interrupts() as raise_if_interrupted:
            try:
                while num_left:
                    raise_if_interrupted()
                    while len(outputs) < len(prompts) and len(self._replies) < num_wanted:
                        number = len(outputs)
                        outputs[self.add(prompts[number], wishes[number])] = []
                    for piece in self.step():
                        if piece.output is not None and piece.request in outputs:
                            outputs[piece.request].append(piece.output)
                            num_left -= 1
                            on_finish(piece.output)
            finally:
                for request in {reply.request for reply in self._replies.values()}:
                    if request in outputs:
                        self.abort(request)
        return [sorted(replies, key=lambda reply: reply.index) for replies in outputs.values()]

    def _write(self, token: Token, completion: Completion | None) -> Piece:
        """Write one token; the reply may end with it, by the engine's word or by its text."""
        reply, text = self._replies[token.request], ""
        writer = reply.writer
        is_hidden = completion is not None and _hides_last(completion, reply.wish)
        if writer is not None and not is_hidden:
            text = writer.push(token.token_id)
        if writer is not None and writer.found is not None:
            if completion is None:
                completion = self.engine.abort(token.request, "stop")
            completion = replace(completion, finish_reason="stop")
        logprobs = () if token.logprobs is None else (token.logprobs,)
        piece = Piece(reply.request, reply.index, text, (token.token_id,), logprobs, None)
        if completion is None:
            return piece
        last = self._end(completion)
        return replace(piece, text=text + last.text, output=last.output)

    def _end(self, completion: Completion) -> Piece:
        reply = self._replies.pop(completion.request)
        writer, rest, stop_reason = reply.writer, "", None
        if completion.finish_reason == "stop":
            found = None if writer is None else writer.found
            stop_reason = completion.token_ids[-1] if found is None else found
        if writer is not None:
            rest = writer.close()
            text = writer.text
        else:
            num_hidden = int(_hides_last(completion, reply.wish))
            num_shown = completion.num_generated_tokens - num_hidden
            text = self.codec.decode(completion.token_ids[:num_shown])
        output = SampleOutput(
            index=reply.index, text=text, stop_reason=stop_reason, completion=completion
        )
        return Piece(reply.request, reply.index, rest, (), (), output)


def add_samples(engine: Engine, prompt_ids: Sequence[int], wish: SamplingConfig) -> list[int]:
    """Ask an engine for several replies to one prompt; return their numbers.

    Reply i draws with `split_seed(seed, i)`, or with dice of its own if there is no seed. The
    prompt is computed once.
    """
    wishes = [
        replace(wish, n=1, seed=None if wish.seed is None else split_seed(wish.seed, index))
        for index in range(wish.n)
    ]
    return engine.add_samples(prompt_ids, wishes)


def _hides_last(completion: Completion, wish: SamplingConfig) -> bool:
    """Tell whether the last token's text is left out: it says that the reply ends."""
    ends = completion.finish_reason in ("eos", "stop")
    return ends and not wish.include_stop_str_in_output
