"""What do heads of uneven length cost, against even ones that hold as many tokens in all?

    python -m benchmarks.uneven_heads --models DIR --weights int8

Two adapters of one factor: in one every head keeps the same share, in the other the shares of a
layer's heads lie 1 to 20 apart. Both take decode steps in turns.
"""

from dataclasses import dataclass
from statistics import median

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import Oracle
from benchmarks.contest import run_contest
from benchmarks.ours import Ours
from benchmarks.record import record
from benchmarks.setting import Setting

MOST_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """What do uneven heads cost?"""

    cells: tuple[tuple[int, int], ...] = ((1, 16384), (8, 4096), (32, 1024))
    """Threads of thought, and the tokens of each."""

    factor: int = 8
    rounds: int = 8
    steps: int = 4


def main(options: Options) -> None:
    """Check, then time, cell by cell."""
    torch.set_num_threads(options.cores)
    pair = [
        Ours(options, options.find_adapter(options.factor, is_uneven=is_uneven), "sparse")
        for is_uneven in (False, True)
    ]
    errors = {}
    for who in pair:  # each adapter has marks of its own, hence an oracle of its own
        oracle = Oracle(who.adapter, options.window + 64)
        errors[who.name] = oracle.judge(who, options.weights).error
    bandwidth = Bandwidth()
    for num_threads, context_tokens in options.cells:
        even, uneven = run_contest(
            pair,
            bandwidth,
            num_threads=num_threads,
            context_tokens=context_tokens,
            num_rounds=options.rounds,
            steps_per_round=options.steps,
        )
        assert even.traffic is not None
        assert uneven.traffic is not None
        difference = uneven.traffic.kv_bytes / even.traffic.kv_bytes - 1.0
        assert abs(difference) < MOST_DIFFERENCE, f"uneven heads hold {difference:+.1%} tokens"
        ratios = [b / a for a, b in zip(even.seconds, uneven.seconds, strict=True)]
        seconds = median(even.seconds)
        figures = {
            "even_ms": round(1e3 * seconds, 2),
            "uneven_ms": round(1e3 * median(uneven.seconds), 2),
            "more_tokens": round(difference, 4),
            **even.traffic.as_figures(bandwidth.median, seconds),
            "logit_errors": {name: round(error, 5) for name, error in errors.items()},
            "settings": pair[0].settings(),
        }
        case = {
            "who": options.label,
            "threads": num_threads,
            "context": context_tokens,
            "factor": options.factor,
        }
        row = record(options.results, "uneven_heads", "ratio", ratios, case=case, figures=figures)
        print(
            f"{num_threads:3} x {context_tokens:6}: uneven heads take {row['p50']:.3f} times as "
            f"long ({row['p20']:.3f} to {row['p80']:.3f}), {figures['even_ms']} ms if even",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
