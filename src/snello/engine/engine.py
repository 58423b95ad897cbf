"""Requests in, tokens out: many threads of thought on one decoder and one memory.

Knows nothing of text, files or servers; what runs when is the scheduler's, what is chosen the
sampler's.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter

import torch

from snello.cache.paged import PagedMemory
from snello.cache.pages import OutOfPages
from snello.cache.snapshot import restore_sequence, save_sequence
from snello.config.engine import PrefixCacheConfig
from snello.config.sampling import SamplingConfig
from snello.engine.interrupt import deferred_interrupts
from snello.engine.request import Completion, Costs, FinishReason, Request, Thread, Token
from snello.engine.runner import Choice, Runner
from snello.engine.scheduler import Batch, NeverFits, Scheduler, Tally
from snello.engine.scoring import TokenScore, score_texts
from snello.models.decoder import Decoder


class Engine:
    """The life of requests: `add`, `step` until they are done, and `generate` that does both.

    Invariant: a request holds memory only between its first step and its completion; kept
    sequences hold theirs until `forget`, or until a running request needs the room. Whatever
    changes the memory runs in inference mode, because its tensors are made there.
    """

    def __init__(  # noqa: PLR0913  (the model, its memory, and how both are shared out)
        self,
        decoder: Decoder,
        memory: PagedMemory,
        *,
        eos_ids: Sequence[int] = (),
        max_batch_tokens: int = 2048,
        max_sequences: int = 64,
        prefix_cache: PrefixCacheConfig | None = None,
        swap_bytes: int = 0,
        reserve_fraction: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.memory = memory
        self.context_tokens = decoder.config.max_positions
        self.max_sequences = max_sequences
        self._max_batch_tokens = max_batch_tokens
        self._eos_ids = frozenset(eos_ids)
        self._scheduler = Scheduler(
            memory,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            swap_bytes=swap_bytes,
            reserve_fraction=reserve_fraction,
        )
        self._runner = Runner(decoder, memory, next(decoder.parameters()).device)
        self._requests: dict[int, Request] = {}
        self._numbers = count()
        self._dice = random.Random(seed)

    @property
    def is_busy(self) -> bool:
        """Whether `step` has work to do."""
        return self._scheduler.is_busy

    @property
    def tally(self) -> Tally:
        """How often requests gave way, shared beginnings were found, and what is kept."""
        return self._scheduler.tally

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
                "for several through snello.LLM, or use add_samples."
            )
        self.check(prompt_ids, sampling, sequence=sequence)
        if sequence is not None:
            del self._scheduler.idle[sequence]
        thread.token_ids.extend(prompt_ids)
        request = self._make_request(thread, sampling, len(prompt_ids))
        if keep:
            request.sequence = request.number if sequence is None else sequence
        self._scheduler.submit(request)
        return request.number

    def add_samples(
        self, prompt_ids: Sequence[int], samplings: Sequence[SamplingConfig]
    ) -> list[int]:
        """Take one request for each sampling, all with one prompt, and return their numbers.

        The prompt is computed once, and its full pages are held once. Requests that do not fit at
        the same time wait; each gets the tokens that it would get alone.

        Raises:
            ValueError: an empty or too long prompt, an id outside the vocabulary, no sampling.
        """
        if not samplings:
            raise ValueError("no samplings were given; give one for each sample.")
        for sampling in samplings:
            self.check(prompt_ids, sampling)
        leader, *siblings = [
            self._make_request(Thread(list(prompt_ids)), sampling, len(prompt_ids))
            for sampling in samplings
        ]
        leader.siblings = siblings
        for request in siblings:
            request.leader = leader
        self._scheduler.submit(leader)
        return [leader.number, *(request.number for request in siblings)]

    @torch.inference_mode()
    def step(self) -> list[Token | Completion]:
        """Compute one batch; return its new tokens, and the requests that ended with them."""
        try:
            batch = self._scheduler.schedule()
        except NeverFits as event:
            return [self._finish(event.request, "refused", refusal=str(event))]
        if batch is None:
            return []
        started = perf_counter()
        choices = self._runner.run(batch)
        self._scheduler.settle(batch, perf_counter() - started)
        return self._hand_out(batch, choices)

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

    def measure(self, number: int) -> Costs:
        """Return what a request's thread has cost so far; a completion tells what it cost in all.

        Raises:
            ValueError: no such request, or it is done.
        """
        return self._scheduler.measure(self._find_request(number).thread)

    @torch.inference_mode()
    def abort(self, number: int, reason: FinishReason = "aborted") -> Completion:
        """End a request at once, give its memory back, and return what it got so far.

        Args:
            number: The request.
            reason: Why it ends; `stop` where its text has reached a stop string.

        Raises:
            ValueError: no such request, or it is done.
        """
        return self._finish(self._find_request(number), reason)

    @torch.inference_mode()
    def score(self, texts: Sequence[Sequence[int]]) -> list[list[TokenScore]]:
        """Tell how likely the model finds each token of these texts but their first.

        The texts pass through the engine's memory, and what it forgets is not seen.

        Raises:
            ValueError: an empty or too long text, an id outside the vocabulary, requests under
                way, or a text that does not fit in the memory.
        """
        if self._requests:
            raise ValueError(
                f"{len(self._requests)} requests are under way; score texts when they are done."
            )
        most_tokens = self.context_tokens + 1  # the last one is not shown to the model
        for token_ids in texts:
            if not 1 <= len(token_ids) <= most_tokens:
                raise ValueError(
                    f"a text to score has {len(token_ids)} tokens; for this model's context it "
                    f"must have at least 1 and at most {most_tokens}. Cut it."
                )
            self._check_vocabulary("a text to score", token_ids)
        self._scheduler.drop_prefixes()
        self._scheduler.free_handle()
        try:
            return score_texts(
                self.decoder, self.memory, texts, max_batch_tokens=self._max_batch_tokens
            )
        except OutOfPages as event:
            raise ValueError(
                f"a text to score does not fit in the memory ({event}); enlarge it, or cut the "
                "text."
            ) from None

    @torch.inference_mode()
    def forget(self, sequence: int) -> None:
        """Give back the memory of a kept sequence.

        Raises:
            ValueError: no such sequence is kept.
        """
        self._scheduler.release(self._find_thread(sequence))
        del self._scheduler.idle[sequence]

    @torch.inference_mode()
    def save(self, sequence: int, path: Path, *, fingerprint: str = "") -> None:
        """Write a kept sequence to a file; it stays kept.

        Args:
            sequence: The handle of the kept sequence.
            path: The file; one that is there already is replaced.
            fingerprint: Names the weights, adapter included; `restore` wants the same.

        Raises:
            ValueError: no such sequence is kept, it had to give its memory to others, or the file
                cannot be written.
        """
        thread = self._find_thread(sequence)
        handle = self._hold_memory(sequence, thread)
        save_sequence(
            self.memory, handle, path, fingerprint=fingerprint, token_ids=thread.token_ids
        )

    @torch.inference_mode()
    def restore(self, path: Path, *, fingerprint: str = "") -> int:
        """Read a sequence from a file, and return the handle to continue it with.

        Raises:
            OutOfPages: no room, even without the states of prefixes.
            ValueError: no such file, a damaged one, or one of another memory or model.
        """
        self._scheduler.free_handle()
        while True:
            try:
                found = restore_sequence(self.memory, path, fingerprint=fingerprint)
                break
            except OutOfPages:
                if not self._scheduler.drop_oldest_prefix():
                    raise
        memory_sequence, token_ids = found
        number = next(self._numbers)
        self._scheduler.idle[number] = Thread(
            token_ids, memory_sequence, self.memory.length(memory_sequence)
        )
        return number

    @torch.inference_mode()
    def drop_prefixes(self) -> None:
        """Give back all memory that is held for the sake of later requests with equal prefixes."""
        self._scheduler.drop_prefixes()

    def portray(self, sequence: int) -> list[list[list[int]]]:
        """Return which positions of a kept sequence are alive, for each layer and head.

        Raises:
            ValueError: no such sequence is kept, or it had to give its memory to others.
        """
        thread = self._find_thread(sequence)
        return self.memory.portrait(self._hold_memory(sequence, thread))

    def _hold_memory(self, sequence: int, thread: Thread) -> int:
        if thread.memory_sequence is None:
            raise ValueError(
                f"sequence {sequence} gave its memory to other requests; continue it first."
            )
        return thread.memory_sequence

    def _make_request(
        self, thread: Thread, sampling: SamplingConfig, num_prompt_tokens: int
    ) -> Request:
        number = next(self._numbers)
        request = Request(
            number=number,
            thread=thread,
            sampling=sampling,
            seed=self._dice.getrandbits(62) if sampling.seed is None else sampling.seed,
            eos_ids=frozenset() if sampling.ignore_eos else self._eos_ids,
            num_prompt_tokens=num_prompt_tokens,
            length_limit_tokens=self.context_tokens,
            kv_reads_at_start=self._scheduler.measure(thread).kv_reads,
        )
        self._requests[number] = request
        return request

    def _find_request(self, number: int) -> Request:
        if number not in self._requests:
            raise ValueError(
                f"request {number} is not being worked on; those are "
                f"{sorted(self._requests) or 'none'}."
            )
        return self._requests[number]

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
        for share in batch.shares:
            if share.request.thread.num_pending:
                continue
            askers, reasons = share.askers, []
            for request in askers:
                choice = next(chosen)
                reasons.append(request.accept(*choice))
                events.append(Token(request.number, *choice))
            ended = list(zip(askers, reasons, strict=True))
            if len(askers) > 1:
                going_on = [request for request, reason in ended[1:] if reason is None]
                self._scheduler.branch(share.request, going_on)
            events += [self._finish(request, reason) for request, reason in ended if reason]
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
        self._scheduler.finish(request, is_complete=reason not in ("aborted", "refused"))
        return completion
