"""Requests in, tokens out: many threads of thought on one decoder and one memory.

Knows nothing of text, files or servers; what runs when is the scheduler's, what is chosen the
sampler's.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

import torch

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.sampling import SamplingConfig
from snello.engine.interrupt import deferred_interrupts
from snello.engine.request import Completion, FinishReason, Request, Thread, Token
from snello.engine.runner import Choice, Runner
from snello.engine.scheduler import Batch, NeverFits, Scheduler
from snello.models.decoder import Decoder


class Engine:
    """The life of requests: `add`, `step` until they are done, and `generate` that does both.

    Invariant: a request holds memory only between its first step and its completion; kept
    sequences hold theirs until `forget`, or until a running request needs the room. Whatever
    changes the memory runs in inference mode, because its tensors are made there.
    """

    def __init__(
        self,
        decoder: Decoder,
        memory: DenseMemory | SparseMemory,
        *,
        eos_ids: Sequence[int] = (),
        max_batch_tokens: int = 2048,
        max_sequences: int = 64,
        seed: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.memory = memory
        self.context_tokens = decoder.config.max_positions
        self.max_sequences = max_sequences
        self._eos_ids = frozenset(eos_ids)
        self._scheduler = Scheduler(
            memory, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences
        )
        self._runner = Runner(decoder, memory, next(decoder.parameters()).device)
        self._requests: dict[int, Request] = {}
        self._numbers = count()
        self._dice = random.Random(seed)

    @property
    def is_busy(self) -> bool:
        """Whether `step` has work to do."""
        return self._scheduler.is_busy

    def add(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingConfig | None = None,
        *,
        sequence: int | None = None,
        keep: bool = False,
    ) -> int:
        """Take a request and return its number; `step` does the work.

        Args:
            prompt_ids: The tokens to continue.
            sampling: How to choose; greedy by default.
            sequence: A kept sequence (`Completion.sequence`) that the prompt continues.
            keep: Keep the tokens in memory afterwards, for a next turn.

        Raises:
            ValueError: an empty or too long prompt, an id outside the vocabulary, an unknown
                sequence, more than one sample.
        """
        thread = self._find_thread(sequence)
        sampling = sampling or SamplingConfig()
        if sampling.n != 1:
            raise ValueError(
                f"SamplingConfig.n is {sampling.n}; the engine's requests are one reply each. Ask "
                "for several through snello.LLM, or add one request for each."
            )
        self.check(prompt_ids, sampling, sequence=sequence)
        number = next(self._numbers)
        if sequence is not None:
            del self._scheduler.idle[sequence]
        elif keep:
            sequence = number
        thread.token_ids.extend(prompt_ids)
        request = Request(
            number=number,
            thread=thread,
            sampling=sampling,
            seed=self._dice.getrandbits(62) if sampling.seed is None else sampling.seed,
            eos_ids=frozenset() if sampling.ignore_eos else self._eos_ids,
            num_prompt_tokens=len(prompt_ids),
            length_limit_tokens=self.context_tokens,
            sequence=sequence if keep else None,
            kv_reads_at_start=self._scheduler.measure(thread).kv_reads,
        )
        self._requests[number] = request
        self._scheduler.submit(request)
        return number

    @torch.inference_mode()
    def step(self) -> list[Token | Completion]:
        """Compute one batch; return its new tokens, and the requests that ended with them."""
        try:
            batch = self._scheduler.schedule()
        except NeverFits as event:
            return [self._finish(event.request, "refused", refusal=str(event))]
        if batch is None:
            return []
        return self._hand_out(batch, self._runner.run(batch))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        *,
        on_finish: Callable[[Completion], None] | None = None,
    ) -> list[Completion]:
        """Complete all prompts, as many at a time as fit; the results stand in their order.

        Args:
            prompts: Token ids, one list for each request.
            sampling: One for all, or one for each; with one seed for all, equal prompts get
                equal replies.
            on_finish: Called with each completion as it comes, for progress.

        Whatever ends it early, Ctrl-C too, leaves none of its requests behind.

        Raises:
            ValueError: as `add`; then no request has been taken.
        """
        wishes = [sampling] * len(prompts) if not isinstance(sampling, Sequence) else sampling
        numbers: list[int] = []
        done: dict[int, Completion] = {}
        with deferred_interrupts() as raise_if_interrupted:
            try:
                for prompt_ids, wish in zip(prompts, wishes, strict=True):
                    numbers.append(self.add(prompt_ids, wish))
                while len(done) < len(numbers):
                    raise_if_interrupted()
                    for event in self.step():
                        if isinstance(event, Completion):
                            done[event.request] = event
                            if on_finish is not None:
                                on_finish(event)
            finally:
                for number in set(numbers) & self._requests.keys():
                    self.abort(number)
        return [done[number] for number in numbers]

    def stream(self, number: int) -> Iterator[Token | Completion]:
        """Step until one request is done, and yield what happens to it alone."""
        while number in self._requests:
            yield from (event for event in self.step() if event.request == number)

    def wait_for(self, number: int) -> Completion:
        """Step until one request is done, and return its completion."""
        for event in self.stream(number):
            if isinstance(event, Completion):
                return event
        raise ValueError(f"request {number} is not being worked on; add it first.")

    @torch.inference_mode()
    def abort(self, number: int, reason: FinishReason = "aborted") -> Completion:
        """End a request at once, give its memory back, and return what it got so far.

        Args:
            number: The request.
            reason: Why it ends; `stop` where its text has reached a stop string.

        Raises:
            ValueError: no such request, or it is done.
        """
        if number not in self._requests:
            raise ValueError(
                f"request {number} is not being worked on; those are "
                f"{sorted(self._requests) or 'none'}."
            )
        return self._finish(self._requests[number], reason)

    @torch.inference_mode()
    def forget(self, sequence: int) -> None:
        """Give back the memory of a kept sequence.

        Raises:
            ValueError: no such sequence is kept.
        """
        self._scheduler.release(self._find_thread(sequence))
        del self._scheduler.idle[sequence]

    def portray(self, sequence: int) -> list[list[list[int]]]:
        """Return which positions of a kept sequence are alive, for each layer and head.

        Raises:
            ValueError: no such sequence is kept, or it had to give its memory to others.
        """
        thread = self._find_thread(sequence)
        if thread.memory_sequence is None:
            raise ValueError(
                f"sequence {sequence} gave its memory to other requests; continue it first."
            )
        return self.memory.portrait(thread.memory_sequence)

    def _find_thread(self, sequence: int | None) -> Thread:
        if sequence is None:
            return Thread()
        if sequence not in self._scheduler.idle:
            raise ValueError(
                f"sequence {sequence} is not kept, or its last request is not done; kept now: "
                f"{sorted(self._scheduler.idle) or 'none'}. Add the request before it with keep."
            )
        return self._scheduler.idle[sequence]

    def check(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingConfig,
        *,
        sequence: int | None = None,
    ) -> None:
        """Refuse what `add` would refuse, whatever the number of samples, and take nothing.

        Raises:
            ValueError: as `add`.
        """
        num_tokens = len(self._find_thread(sequence).token_ids) + len(prompt_ids)
        if not prompt_ids:
            raise ValueError("the prompt has no tokens; give at least one.")
        if num_tokens >= self.context_tokens:
            raise ValueError(
                f"the prompt makes {num_tokens} tokens, and the model's context holds "
                f"{self.context_tokens} with the reply; shorten the prompt."
            )
        self._check_vocabulary("the prompt", prompt_ids)
        self._check_vocabulary("SamplingConfig.stop_token_ids", sampling.stop_token_ids)
        self._check_vocabulary("SamplingConfig.logit_bias", sampling.logit_bias)

    def _check_vocabulary(self, owner: str, token_ids: Iterable[int]) -> None:
        size = self.decoder.config.vocab_size
        wrong = next((i for i in token_ids if not 0 <= i < size), None)
        if wrong is not None:
            raise ValueError(
                f"{owner} has token id {wrong}; the model knows ids 0 to {size - 1}. "
                "Use the tokenizer from the model's own folder."
            )

    def _hand_out(self, batch: Batch, choices: list[Choice]) -> list[Token | Completion]:
        """Append the chosen tokens to their threads, in the order of the batch's last shares."""
        events: list[Token | Completion] = []
        chosen = iter(choices)
        for request, _ in batch.shares:
            if request.thread.num_pending:
                continue
            choice = next(chosen)
            reason = request.accept(*choice)
            events.append(Token(request.number, *choice))
            if reason is not None:
                events.append(self._finish(request, reason))
        return events

    def _finish(
        self, request: Request, reason: FinishReason, *, refusal: str | None = None
    ) -> Completion:
        del self._requests[request.number]
        thread, num_generated = request.thread, request.num_generated
        costs = self._scheduler.measure(thread)
        completion = Completion(
            request=request.number,
            token_ids=thread.token_ids[len(thread.token_ids) - num_generated :],
            finish_reason=reason,
            num_prompt_tokens=request.num_prompt_tokens,
            num_seen_tokens=thread.num_stored,
            kv_reads=costs.kv_reads - request.kv_reads_at_start,
            peak_live_tokens=costs.peak_live_tokens,
            peak_bytes=costs.peak_bytes,
            sequence=request.sequence,
            refusal=refusal,
            logprobs=request.logprobs if request.sampling.logprobs else None,
        )
        self._scheduler.finish(request)
        return completion
