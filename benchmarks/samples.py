"""What does one more sample of a prompt cost: bytes of memory, seconds of a step?

    python -m benchmarks.samples --models DIR --weights int8

The prompt is read once for all samples. `extra_mb` is what is held at the end beyond the prompt's
own pages: each sample's copy of the window, and the tokens that it gave. Dense and sparse take
turns; sample 0 is greedy, and must say what a request alone says.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, TypeGuard

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import judge_all
from benchmarks.ours import Ours, gather
from benchmarks.record import record
from benchmarks.setting import Setting
from benchmarks.traffic import Traffic
from snello.config.engine import SamplingConfig
from snello.engine.request import Completion, Token

NUM_MORE = 3
"""Tokens beyond the timed ones: of the prompt's step, of the branching, and one to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """What does one more sample of a prompt cost?"""

    samples: tuple[int, ...] = (1, 8, 32)
    prompt: int = 2040
    """Tokens; like most prompts, this one does not end where a page ends."""

    factors: tuple[int, ...] = (1, 8)
    steps: int = 8
    """Decode steps that are timed, once all samples have their place."""

    rounds: int = 3


class Different(Exception):  # noqa: N818  (an event: the measurement is void)
    """A sample got other tokens in company than alone, or had to wait for room."""


@dataclass(slots=True)
class Family:
    """What some samples of one prompt took; a list has one entry for each round."""

    prefill_s: list[float] = field(default_factory=list)
    """From `add_samples` to the first tokens."""

    branch_s: list[float] = field(default_factory=list)
    """The step after, in which every sample but the first gets its memory."""

    step_s: list[float] = field(default_factory=list)
    held_bytes: list[int] = field(default_factory=list)
    """All pages, after the last step."""

    traffic: Traffic | None = None


def main(options: Options) -> None:
    """Check, then time, count by count, all in turns."""
    torch.set_num_threads(options.cores)
    contenders = gather(options, options.factors)
    verdicts = judge_all(options, contenders)
    for who in contenders:
        serve(who, options)
    bandwidth = Bandwidth()
    families = {(who.name, n): Family() for who in contenders for n in options.samples}
    prompt_bytes: dict[str, list[int]] = {who.name: [] for who in contenders}
    for round_number in range(-1, options.rounds):  # the first one is not counted
        bandwidth.measure()
        prompt = draw_prompt(contenders[0], options.prompt, round_number)
        for who in contenders[:: 1 if round_number % 2 == 0 else -1]:
            alone, num_bytes = read_alone(who, prompt, options.steps)
            prompt_bytes[who.name].append(num_bytes)
            for n in options.samples:
                family = Family() if round_number < 0 else families[who.name, n]
                run_family(who, family, prompt, n, options.steps, alone)
    for who in contenders:
        for n in options.samples:
            own_bytes = median(prompt_bytes[who.name])
            figures = describe(families[who.name, n], n, own_bytes, bandwidth)
            figures |= verdicts[who.name] | {"settings": who.settings()}
            report(options, who, n, families[who.name, n], figures)


def serve(who: Ours, options: Options) -> None:
    """Build an engine with room for the prompt and, of each sample, for what is not shared."""
    most = max(options.samples)
    own_tokens = options.steps + NUM_MORE + (0 if who.name == "dense" else options.window)
    pool_mib = who.size_pool(most, own_tokens, spare_tokens=2 * options.prompt)
    who.serve_budget(pool_mib, max_sequences=most)


def draw_prompt(who: Ours, num_tokens: int, round_number: int) -> list[int]:
    """Draw a text of its own for each round."""
    generator = torch.Generator().manual_seed(round_number + 1)
    ids: list[int] = torch.randint(
        who.config.vocab_size, (num_tokens,), generator=generator
    ).tolist()
    return ids


def read_alone(who: Ours, prompt: Sequence[int], num_steps: int) -> tuple[list[int], int]:
    """Return the greedy tokens of a request alone, and the bytes that it holds with its first."""
    engine = who.running.engine
    number = engine.add(prompt, wish(who, num_steps, None))
    events = step_to_token(who)
    num_bytes = engine.memory.num_bytes_in_use
    given = [event.token_id for event in [*events, *engine.stream(number)] if is_token(event)]
    return given, num_bytes


def run_family(
    who: Ours,
    family: Family,
    prompt: Sequence[int],
    num_samples: int,
    num_steps: int,
    alone: Sequence[int],
) -> None:
    """Give a prompt's samples some tokens each, and note what that took.

    Raises:
        Different: sample 0 did not get the tokens in `alone`, or some sample found no room.
    """
    engine = who.running.engine
    wishes = [wish(who, num_steps, seed) for seed in (None, *range(num_samples - 1))]
    start = time.perf_counter()
    numbers = engine.add_samples(prompt, wishes)
    events = step_to_token(who)
    seconds = [time.perf_counter() - start]
    for _ in range(1 + num_steps):
        start = time.perf_counter()
        new = engine.step()
        seconds.append(time.perf_counter() - start)
        events += new
        num_tokens = sum(is_token(event) for event in new)
        if num_tokens != num_samples:
            raise Different(f"{who.name}: {num_tokens} of {num_samples} samples found room.")
    family.prefill_s.append(seconds[0])
    family.branch_s.append(seconds[1])
    family.step_s += seconds[2:]
    family.held_bytes.append(engine.memory.num_bytes_in_use)
    family.traffic = who.traffic()
    for number in numbers:
        engine.abort(number)
    given = [event.token_id for event in events if is_token(event) and event.request == numbers[0]]
    if given != alone[: len(given)]:
        raise Different(f"{who.name}: of {num_samples} samples the first got {given}, not {alone}.")


def wish(who: Ours, num_steps: int, seed: int | None) -> SamplingConfig:
    """Return how a sample is drawn: greedily without a seed. No reply ends while it is timed."""
    temperature = 0.0 if seed is None else 1.0
    most = num_steps + NUM_MORE
    return SamplingConfig(
        temperature=temperature, seed=seed, max_new_tokens=most, **who.ignore_end()
    )


def step_to_token(who: Ours) -> list[Token | Completion]:
    """Take steps until one gives a token; return what it gave."""
    engine = who.running.engine
    while engine.is_busy:
        events = engine.step()
        if any(is_token(event) for event in events):
            return events
    raise Different(f"{who.name}: the prompt found no room.")


def is_token(event: Token | Completion) -> TypeGuard[Token]:
    """Tell whether an event is a new token."""
    return isinstance(event, Token)


def describe(
    family: Family, num_samples: int, prompt_bytes: float, bandwidth: Bandwidth
) -> dict[str, Any]:
    """Return figures; of what is read, shared tokens count once for each sample.

    `extra_mb_each` spreads what is held beyond the prompt over the samples beyond the first.
    """
    assert family.traffic is not None
    seconds = median(family.step_s)
    extra_bytes = fmean(family.held_bytes) - prompt_bytes
    return {
        "prefill_ms": round(1e3 * median(family.prefill_s), 1),
        "branch_ms": round(1e3 * median(family.branch_s), 2),
        "prompt_mb": round(prompt_bytes / 1e6, 3),
        "extra_mb": round(extra_bytes / 1e6, 3),
        "extra_mb_each": round(extra_bytes / max(1, num_samples - 1) / 1e6, 3),
        "tokens_per_s": round(num_samples / seconds, 2),
        **family.traffic.as_figures(bandwidth.median, seconds),
    }


def report(
    options: Options, who: Ours, num_samples: int, family: Family, figures: dict[str, Any]
) -> None:
    """Write a line and print it."""
    name = f"{options.label} {who.name}"
    case = {"who": name, "samples": num_samples, "prompt": options.prompt}
    samples = [1e3 * each for each in family.step_s]
    row = record(options.results, "samples", "ms", samples, case=case, figures=figures)
    print(
        f"{name:28} {num_samples:3} samples  prompt {row['prompt_mb']:8.2f} MB in "
        f"{row['prefill_ms']:9.1f} ms, {row['extra_mb_each']:7.3f} MB more each  step "
        f"{row['p50']:8.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
