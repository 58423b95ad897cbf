"""The same memory for keys and values: how many tokens a second does a service give in all?

    python -m benchmarks.fixed_memory --models DIR --weights int8 --seconds 600

Dense, factor 4 and factor 8 serve the same requests (short prompts, replies of long-tailed length),
as many at a time as their own scheduler admits into the same budget, in turns of some seconds.
Everyone starts in the middle: requests that are under way, their contexts filled.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import fmean
from typing import Any

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import judge_all
from benchmarks.filling import Filler, add_filled
from benchmarks.ours import Ours, gather
from benchmarks.record import record
from benchmarks.setting import Setting
from benchmarks.traffic import Traffic, token_bytes
from benchmarks.workload import Wish, Workload
from snello.cache.pages import OutOfPages
from snello.config.engine import SamplingConfig
from snello.engine.request import Completion, Token

FILLED_SHARE = 0.9
"""How much of the budget is taken at the start; the rest is for what the scheduler does."""

SURVEY_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """How many tokens a second fit into one budget?"""

    window: int = 64
    factors: tuple[int, ...] = (1, 4, 8)
    budget_mib: int = 2048
    seconds: float = 60.0
    """How long each of them serves; the full measurement takes at least 600."""

    turn_seconds: float = 15.0
    prompt_tokens: int = 128
    median_tokens: int = 2000
    spread: float = 0.7
    most_tokens: int = 8000
    """A reply of this length must fit into dense memory alone."""

    max_sequences: int = 128


class OverBudget(Exception):  # noqa: N818  (an event: the measurement is void)
    """A memory held more than it was given."""


@dataclass(slots=True)
class Service:
    """One engine that always has requests waiting, and what it did.

    Invariant: after every step the pages that are held, and the tensors behind all pages, are
    within the budget.
    """

    ours: Ours
    budget_bytes: int
    num_requests: int
    """Running and waiting together; more than can ever run, so that somebody always waits."""

    wishes: Iterator[Wish]
    seconds: float = 0.0
    num_steps: int = 0
    num_tokens: int = 0
    peak_bytes: int = 0
    rates: list[float] = field(default_factory=list)
    """Tokens a second of each turn."""

    num_running: list[int] = field(default_factory=list)
    live_tokens: list[int] = field(default_factory=list)
    """Live tokens of all heads together, now and then."""

    factors: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def start(self, underway: Iterator[Wish]) -> None:
        """Take requests that are under way, until the budget is nearly full; then queue others."""
        engine = self.ours.running.engine
        filler = Filler(engine.memory, self.ours.kept)
        self._check_budget()
        for wish in underway:
            try:
                add_filled(engine, filler, wish.prompt_ids, self._sampling(wish))
            except (OutOfPages, ValueError):
                break
            if engine.memory.num_bytes_in_use > FILLED_SHARE * self.budget_bytes:
                break
        print(f"{self.ours.name}: {self.ours.num_requests} requests under way", flush=True)
        self._queue()

    def serve(self, seconds: float) -> None:
        """Take steps for a turn."""
        engine = self.ours.running.engine
        spent, num_tokens = 0.0, 0
        while spent < seconds:
            start = time.perf_counter()
            events = engine.step()
            spent += time.perf_counter() - start
            given = sum(isinstance(event, Token) for event in events)
            num_tokens += given
            for event in events:
                if isinstance(event, Completion):
                    self.reasons[event.finish_reason] += 1
                    self._queue()
            self.num_steps += 1
            self._check_budget()
            if self.num_steps % SURVEY_STEPS == 0:
                self._survey(given)
        self.seconds += spent
        self.num_tokens += num_tokens
        self.rates.append(num_tokens / spent)

    def traffic(self) -> Traffic:
        """Return what a step read, in the mean."""
        stored = str(self.ours.running.engine.memory.store.keys.dtype).removeprefix("torch.")
        kv_bytes = fmean(self.live_tokens) * token_bytes(self.ours.config, stored)
        return Traffic(weight_bytes=self.ours.weight_bytes(), kv_bytes=kv_bytes)

    def _queue(self) -> None:
        for wish in islice(self.wishes, self.num_requests - self.ours.num_requests):
            self.ours.running.engine.add(wish.prompt_ids, self._sampling(wish))

    def _sampling(self, wish: Wish) -> SamplingConfig:
        return SamplingConfig(
            temperature=1.0, max_new_tokens=wish.num_new_tokens, **self.ours.ignore_end()
        )

    def _survey(self, num_running: int) -> None:
        memory = self.ours.running.engine.memory
        lengths, live = self.ours.count_tokens()
        self.num_running.append(num_running)
        self.live_tokens.append(live)
        heads = sum(shape.num_heads for shape in memory.shapes)
        self.factors.append(lengths * heads / max(1, live))

    def _check_budget(self) -> None:
        """Count the pages that are held, and the bytes of the tensors that hold all pages."""
        memory = self.ours.running.engine.memory
        store = memory.store
        allocated = sum(t.nbytes for t in (store.keys, store.values, store.positions, store.evict))
        allocated -= 2 * store.bytes_per_page  # the blank and the trash page hold nobody's tokens
        self.peak_bytes = max(self.peak_bytes, memory.num_bytes_in_use)
        if max(memory.num_bytes_in_use, allocated) > self.budget_bytes:
            raise OverBudget(
                f"{self.ours.name} holds {memory.num_bytes_in_use} bytes in {allocated} allocated; "
                f"its budget is {self.budget_bytes}."
            )


def main(options: Options) -> None:
    """Check, start all services, let them serve in turns, and write what they did."""
    torch.set_num_threads(options.cores)
    contenders = gather(options, options.factors)
    verdicts = judge_all(options, contenders)
    services = [start_service(options, who) for who in contenders]
    bandwidth = Bandwidth()
    for service in cycle(services):
        if min(service.seconds for service in services) >= options.seconds:
            break
        bandwidth.measure()
        service.serve(options.turn_seconds)
    for service in services:
        report(options, service, services[0], verdicts[service.ours.name], bandwidth)


def start_service(options: Options, who: Ours) -> Service:
    """Build the engine on the budget, and fill it with requests that are under way."""
    workload = Workload(
        vocab_size=who.config.vocab_size,
        prompt_tokens=options.prompt_tokens,
        median_tokens=options.median_tokens,
        spread=options.spread,
        most_tokens=options.most_tokens,
    )
    who.serve_budget(options.budget_mib, max_sequences=options.max_sequences)
    service = Service(
        who, options.budget_mib * 2**20, options.max_sequences + 4, workload.draw(seed=1)
    )
    service.start(workload.draw_underway(seed=2))
    return service


def report(
    options: Options,
    service: Service,
    first: Service,
    verdict: dict[str, Any],
    bandwidth: Bandwidth,
) -> None:
    """Write a line and print it."""
    rate = service.num_tokens / service.seconds
    step_seconds = service.seconds / service.num_steps
    figures = {
        "tokens_per_s": round(rate, 2),
        "times_first": round(rate / (first.num_tokens / first.seconds), 2),
        "threads_mean": round(fmean(service.num_running), 1),
        "factor_measured": round(fmean(service.factors), 2),
        "step_ms": round(1e3 * step_seconds, 1),
        **service.traffic().as_figures(bandwidth.median, step_seconds),
        "budget_mib": options.budget_mib,
        "peak_mib": round(service.peak_bytes / 2**20, 1),
        "seconds": round(service.seconds, 1),
        "finished": dict(service.reasons),
        **verdict,
        "settings": service.ours.settings(),
    }
    case = {
        "who": f"{options.label} {service.ours.name}",
        "budget_mib": options.budget_mib,
        "median_tokens": options.median_tokens,
        "most_tokens": options.most_tokens,
    }
    record(options.results, "fixed_memory", "tokens/s", service.rates, case=case, figures=figures)
    print(
        f"{case['who']:28} {rate:8.2f} tokens/s, {figures['times_first']:5.2f} times the first, "
        f"{figures['threads_mean']:5.1f} threads, factor {figures['factor_measured']:.2f}, "
        f"{figures['peak_mib']:.0f} of {options.budget_mib} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
