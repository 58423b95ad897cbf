"""What does a decode step cost, and how near is it to the machine's memory?

1, 8 and 64 threads of thought, contexts of 512 to 32K, our dense memory, our sparse memory at a
forced factor, and peers, in turns. Our contexts are filled (see `filling`), peers compute theirs.

    python -m benchmarks.decode_step --models DIR --weights int8 --peers DIR --against openvino-int8
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import judge_all
from benchmarks.contest import Contestant, Entry, run_contest
from benchmarks.ours import Ours, gather
from benchmarks.peer import Peer
from benchmarks.record import record
from benchmarks.setting import Setting
from benchmarks.traffic import dense_kv_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """What does a decode step cost?"""

    threads: tuple[int, ...] = (1, 8, 64)
    contexts: tuple[int, ...] = (512, 4096, 16384, 32768)
    factors: tuple[int, ...] = (1, 8)
    """1 is our dense memory; others need an adapter."""

    rounds: int = 5
    steps: int = 4
    """Steps of each contestant in a round."""

    most_kv_gib: float = 4.0
    """Leave out what would hold more than this much in float16 if nothing were forgotten."""


def main(options: Options) -> None:
    """Check, then time, cell by cell."""
    torch.set_num_threads(options.cores)
    ours = gather(options, options.factors)
    verdicts = judge_all(options, ours)
    bandwidth = Bandwidth()
    with ExitStack() as stack:
        peers = [
            stack.enter_context(Peer(label, options.peers, cores=options.cores))
            for label in (options.against if options.peers else ())
        ]
        for num_threads in options.threads:
            for context_tokens in options.contexts:
                kv_bytes = dense_kv_bytes(ours[0].config, num_threads * context_tokens, "float16")
                if kv_bytes > options.most_kv_gib * 2**30:
                    continue
                entries = run_contest(
                    [*ours, *peers],
                    bandwidth,
                    num_threads=num_threads,
                    context_tokens=context_tokens,
                    num_rounds=options.rounds,
                    steps_per_round=options.steps,
                )
                case = {"threads": num_threads, "context": context_tokens}
                report(options, case, entries, verdicts, bandwidth)


def report(
    options: Options,
    case: dict[str, Any],
    entries: Sequence[Entry],
    verdicts: dict[str, dict[str, Any]],
    bandwidth: Bandwidth,
) -> None:
    """Write a line for each contestant, and print it."""
    for entry in entries:
        who, seconds = entry.contestant, median(entry.seconds)
        assert entry.traffic is not None
        traffic = entry.traffic.as_figures(bandwidth.median, seconds)
        figures = {
            "tokens_per_s": round(case["threads"] / seconds, 2), **traffic, **entry.opening,
            **verdicts.get(who.name, {}), "settings": who.settings(),
        }  # fmt: skip
        name = label(who, options)
        samples = [1e3 * sample for sample in entry.seconds]
        row = record(
            options.results,
            "decode_step",
            "ms",
            samples,
            case={"who": name, **case},
            figures=figures,
        )
        print(
            f"{name:28} {case['threads']:3} x {case['context']:6}  {row['p50']:9.1f} ms  "
            f"{figures['tokens_per_s']:8.1f} tokens/s  {traffic['percent_of_read']:5.1f} % of "
            f"{traffic['read_gb_s']:.1f} GB/s",
            flush=True,
        )


def label(who: Contestant, options: Setting) -> str:
    """Name a contestant; ours with the format of their weights."""
    return f"{options.label} {who.name}" if isinstance(who, Ours) else who.name


if __name__ == "__main__":
    main(tyro.cli(Options))
