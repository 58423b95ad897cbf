"""How long does a newcomer wait for the first token while others think, and how much do they wait?

    python -m benchmarks.first_token --models DIR --weights int8

Threads whose contexts were filled decode without end. Prompts arrive at times that were drawn
before (an open loop: who waits does not slow the next ones down), the same for dense and sparse,
who take turns. A wait begins with the arrival, in the middle of a step or not.
"""

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import judge_all
from benchmarks.filling import Filler, add_filled
from benchmarks.ours import Ours, gather
from benchmarks.record import find_percentile, record
from benchmarks.setting import Setting
from benchmarks.timing import time_once
from snello.config.engine import SamplingConfig
from snello.engine.request import Completion

NUM_PROBES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """How long does a newcomer wait for the first token?"""

    threads: int = 8
    """Threads of thought that decode all the time."""

    context: int = 2048
    """Tokens of each of them at the start of a turn."""

    prompt: int = 512
    """Tokens of each prompt that arrives; it asks for one token."""

    factors: tuple[int, ...] = (1, 8)
    rates: tuple[float, ...] = (0.25, 0.5, 0.8)
    """Arrivals over capacity: 1 is one prompt in every time that the first engine takes for it."""

    arrivals: int = 10
    """In one turn."""

    rounds: int = 2
    calm_steps: int = 10
    """Steps without any arrival, at the start of a turn."""

    growth: int = 256
    """Tokens that a thread gives before a fresh one takes its place."""

    guests: int = 8
    """Prompts for which there is room at the same time."""


class Arrival(NamedTuple):
    """A prompt, and when it comes."""

    at_s: float
    prompt_ids: list[int]


@dataclass(slots=True)
class Service:
    """One engine whose threads never end, and what it did at one rate.

    Invariant: before each step as many threads decode as there should be.
    """

    ours: Ours
    options: Options
    waits: list[float] = field(default_factory=list)
    """Seconds from an arrival to its first token."""

    gaps: list[float] = field(default_factory=list)
    """Seconds between two tokens of one thread, all threads together."""

    calm: list[float] = field(default_factory=list)
    """Seconds of steps without arrivals."""

    lone_s: float = 0.0
    """The wait of a prompt that arrives alone."""

    filler: Filler = field(init=False)
    running: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        wanted, ours = self.options, self.ours
        most_tokens = wanted.context + wanted.growth + wanted.calm_steps
        pool_mib = ours.size_pool(wanted.threads, most_tokens, wanted.guests * wanted.prompt)
        ours.serve_budget(pool_mib, max_sequences=wanted.threads + wanted.guests)
        self.filler = Filler(ours.running.engine.memory, ours.kept)

    def fill(self) -> None:
        """Add threads until there are enough."""
        wanted, dice = self.options, random.Random(0)
        sampling = SamplingConfig(
            temperature=1.0,
            seed=0,
            max_new_tokens=wanted.growth + wanted.calm_steps,
            **self.ours.ignore_end(),
        )
        while len(self.running) < wanted.threads:
            ids = draw_ids(dice, self.ours.config.vocab_size, wanted.context)
            self.running.add(add_filled(self.ours.running.engine, self.filler, ids, sampling))

    def begin(self) -> None:
        """Begin a turn: fresh threads, and some steps of theirs alone."""
        engine = self.ours.running.engine
        while self.running:
            engine.abort(self.running.pop())
        self.fill()
        engine.step()
        self.calm += [time_once(engine.step) for _ in range(self.options.calm_steps)]

    def serve(self, arrivals: Sequence[Arrival]) -> None:
        """Take steps until all who arrive have a token; the clock stands while threads are filled.

        Raises:
            RuntimeError: a prompt was refused.
        """
        engine = self.ours.running.engine
        coming, waiting = deque(arrivals), dict[int, float]()
        latest: dict[int, float] = {}
        asks = SamplingConfig(max_new_tokens=1)
        start = time.perf_counter()
        while coming or waiting:
            while coming and coming[0].at_s <= time.perf_counter() - start:
                at_s, prompt_ids = coming.popleft()
                waiting[engine.add(prompt_ids, asks)] = at_s
            events = engine.step()
            now = time.perf_counter() - start
            for event in events:
                if isinstance(event, Completion):
                    self.running.discard(event.request)
                    if event.finish_reason == "refused":
                        raise RuntimeError(f"{self.ours.name}: {event.refusal}")
                elif event.request in waiting:
                    self.waits.append(now - waiting.pop(event.request))
                else:
                    if event.request in latest:
                        self.gaps.append(now - latest[event.request])
                    latest[event.request] = now
            start += time_once(self.fill)

    def forget(self) -> None:
        """Begin to count anew."""
        self.waits, self.gaps, self.calm = [], [], []


def draw_ids(dice: random.Random, vocab_size: int, count: int) -> list[int]:
    """Draw a text."""
    return [dice.randrange(vocab_size) for _ in range(count)]


def draw_arrivals(options: Options, rate_per_s: float, vocab_size: int, seed: int) -> list[Arrival]:
    """Draw the prompts of a turn; the gaps between them are exponential."""
    dice, at_s, arrivals = random.Random(seed), 0.0, []
    for _ in range(options.arrivals):
        at_s += dice.expovariate(rate_per_s)
        arrivals.append(Arrival(at_s, draw_ids(dice, vocab_size, options.prompt)))
    return arrivals


def measure_lone(service: Service) -> float:
    """Return the wait of a prompt that arrives alone, as soon as the one before has its token."""
    service.begin()
    for seed in range(NUM_PROBES):
        dice = random.Random(seed)
        prompt = draw_ids(dice, service.ours.config.vocab_size, service.options.prompt)
        service.serve([Arrival(0.0, prompt)])
    return median(service.waits)


def main(options: Options) -> None:
    """Check, find the capacity, then serve in turns, rate by rate."""
    torch.set_num_threads(options.cores)
    contenders = gather(options, options.factors)
    verdicts = judge_all(options, contenders)
    services = [Service(who, options) for who in contenders]
    for service in services:
        service.lone_s = measure_lone(service)
    bandwidth = Bandwidth()
    for rate in options.rates:
        rate_per_s = rate / services[0].lone_s
        for service in services:
            service.forget()
        for round_number in range(options.rounds):
            bandwidth.measure()
            vocab_size = contenders[0].config.vocab_size
            arrivals = draw_arrivals(options, rate_per_s, vocab_size, round_number)
            for service in services[:: 1 if round_number % 2 == 0 else -1]:
                service.begin()
                service.serve(arrivals)
        for service in services:
            figures = verdicts[service.ours.name] | {"arrivals_per_s": round(rate_per_s, 4)}
            report(options, service, rate, figures, bandwidth)


def report(
    options: Options,
    service: Service,
    rate: float,
    figures: dict[str, Any],
    bandwidth: Bandwidth,
) -> None:
    """Write a line and print it; bytes and percent are of a step without arrivals."""
    ours, calm = service.ours, median(service.calm)
    waits, gaps = ([1e3 * each for each in times] for times in (service.waits, service.gaps))
    figures |= {
        "p99": round(find_percentile(waits, 99), 1),
        "inter_token_p50_ms": round(find_percentile(gaps, 50), 2),
        "inter_token_p99_ms": round(find_percentile(gaps, 99), 2),
        "calm_ms": round(1e3 * calm, 2),
        "lone_ms": round(1e3 * service.lone_s, 2),
        "preemptions_so_far": ours.running.engine.tally.num_preemptions,
        **ours.traffic().as_figures(bandwidth.median, calm),
        **ours.measure_memory(),
        "settings": ours.settings(),
    }
    case = {
        "who": f"{options.label} {ours.name}", "rate": rate, "threads": options.threads,
        "context": options.context, "prompt": options.prompt,
    }  # fmt: skip
    row = record(options.results, "first_token", "ms", waits, case=case, figures=figures)
    print(
        f"{case['who']:28} rate {rate:4.2f}  first token {row['p50']:9.1f} ms (p99 "
        f"{row['p99']:.1f}), others {row['inter_token_p50_ms']:.1f} ms (p99 "
        f"{row['inter_token_p99_ms']:.1f}; {row['calm_ms']:.1f} if nobody comes)",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
