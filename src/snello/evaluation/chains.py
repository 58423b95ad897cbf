"""Several chains of thought for each of many questions, on one engine: their tokens, their costs.

Knows nothing of what questions mean, or of files. The chains of a question share its prompt: it is
computed once, and what that cost is told apart from what each chain cost itself.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from snello.config.sampling import SamplingConfig
from snello.engine.engine import Engine
from snello.engine.interrupt import deferred_interrupts
from snello.engine.request import NOTHING, Completion, Costs, FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One question: which of its chains are wanted, and at which lengths they are to be measured.

    Invariant: `lengths_tokens` ascend, and the last one ends a chain.
    """

    name: str
    prompt_ids: Sequence[int]
    seeds: dict[int, int]
    """The dice of each chain that is wanted, by its number."""

    lengths_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a chain had cost itself when it had so many tokens; the prompt's reads left aside."""

    num_tokens: int
    kv_reads: float
    peak_live_tokens: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One chain that has ended."""

    name: str
    chain: int
    seed: int
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_kv_reads: float
    marks: tuple[Mark, ...]
    """One for each wanted length: taken there, or at the end where that came first."""


def seed_chain(seed: int, task: str, question: str, chain: int) -> int:
    """Return a chain's dice: the same whoever contends, and whichever other chains there are."""
    text = f"{seed}/{task}/{question}/{chain}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 2


@dataclass(slots=True, eq=False)
class _Family:
    """The chains of one question while they are under way."""

    plan: Plan
    prompt_costs: Costs | None = None
    """Of the first chain, which computes the prompt for all; None until it has a token."""


@dataclass(slots=True, eq=False)
class _Growing:
    """One chain while it is under way."""

    family: _Family
    chain: int
    num_tokens: int = 0
    kv_reads_before: float = 0.0
    """What its own sequence had read when it had its first token: the prompt, or nothing."""

    marks: list[Mark] = field(default_factory=list)

    def accept(self, costs: Costs) -> None:
        """Count one more token, after the step that brought it."""
        self.num_tokens += 1
        if self.num_tokens == 1:
            self.kv_reads_before = costs.kv_reads
            if self.family.prompt_costs is None:
                self.family.prompt_costs = costs
        if self.num_tokens in self.family.plan.lengths_tokens:
            self._mark(costs)

    def close(self, completion: Completion) -> Chain:
        """Take the costs at the end for all lengths that were not reached."""
        plan, prompt = self.family.plan, self.family.prompt_costs or NOTHING
        end = Costs(completion.kv_reads, completion.peak_live_tokens, completion.peak_bytes)
        while len(self.marks) < len(plan.lengths_tokens):
            self._mark(end)
        return Chain(
            name=plan.name,
            chain=self.chain,
            seed=plan.seeds[self.chain],
            token_ids=completion.token_ids,
            finish_reason=completion.finish_reason,
            prompt_tokens=len(plan.prompt_ids),
            prompt_kv_reads=prompt.kv_reads,
            marks=tuple(self.marks),
        )

    def _mark(self, costs: Costs) -> None:
        """Note the costs so far; a chain that has just left its prompt holds what that held."""
        prompt = self.family.prompt_costs or NOTHING
        self.marks.append(
            Mark(
                num_tokens=self.num_tokens,
                kv_reads=costs.kv_reads - self.kv_reads_before,
                peak_live_tokens=max(costs.peak_live_tokens, prompt.peak_live_tokens),
                peak_bytes=max(costs.peak_bytes, prompt.peak_bytes),
            )
        )


def grow_chains(engine: Engine, plans: Iterable[Plan], sampling: SamplingConfig) -> Iterator[Chain]:
    """Compute all wanted chains, as many at a time as fit, and yield each as it ends.

    Whatever ends it early, Ctrl-C too, leaves nothing behind in the engine.

    Raises:
        ValueError: a prompt is too long, or the memory can never hold it.
    """
    waiting = iter(plans)
    growing: dict[int, _Growing] = {}
    with deferred_interrupts() as raise_if_interrupted:
        try:
            while True:
                raise_if_interrupted()
                while len(growing) < 2 * engine.max_sequences and (plan := next(waiting, None)):
                    growing |= _plant(engine, plan, sampling)
                if not growing:
                    return
                yield from _step(engine, growing)
        finally:
            for number in growing:
                engine.abort(number)


def _plant(engine: Engine, plan: Plan, sampling: SamplingConfig) -> dict[int, _Growing]:
    wishes = [
        replace(sampling, seed=seed, max_new_tokens=plan.lengths_tokens[-1])
        for seed in plan.seeds.values()
    ]
    family = _Family(plan)
    numbers = engine.add_samples(plan.prompt_ids, wishes)
    return {
        number: _Growing(family, chain) for number, chain in zip(numbers, plan.seeds, strict=True)
    }


def _step(engine: Engine, growing: dict[int, _Growing]) -> Iterator[Chain]:
    """Compute one batch; tell each chain of its token and of what it costs by now."""
    events = engine.step()
    ended = {event.request: event for event in events if isinstance(event, Completion)}
    for event in events:
        number = event.request
        if not isinstance(event, Completion):
            end = ended.get(number)
            growing[number].accept(
                engine.measure(number)
                if end is None
                else Costs(end.kv_reads, end.peak_live_tokens, end.peak_bytes)
            )
    closed = [(growing.pop(number), completion) for number, completion in ended.items()]
    for chain, completion in closed:
        if completion.refusal is not None:
            raise ValueError(completion.refusal)
        yield chain.close(completion)
