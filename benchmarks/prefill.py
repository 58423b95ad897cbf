"""How fast is a prompt read? The seconds until its first token, for us and for peers.

    python -m benchmarks.prefill --models DIR --weights int8 --peers DIR --against openvino-int8

Every round reads another text, so that no cache of prefixes can help.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro

from benchmarks.bandwidth import Bandwidth
from benchmarks.check import judge_all
from benchmarks.decode_step import label
from benchmarks.ours import Ours, gather
from benchmarks.peer import Peer
from benchmarks.record import record
from benchmarks.setting import Setting
from benchmarks.traffic import count_attention, count_weights
from snello.config.engine import SamplingConfig
from snello.engine.request import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Setting):
    """How fast is a prompt read?"""

    contexts: tuple[int, ...] = (512, 2048)
    """The full measurement has 16384 as well."""

    factors: tuple[int, ...] = (1, 8)
    rounds: int = 3


def main(options: Options) -> None:
    """Check, then time, prompt length by prompt length."""
    torch.set_num_threads(options.cores)
    ours = gather(options, options.factors)
    verdicts = judge_all(options, ours)
    bandwidth = Bandwidth()
    with ExitStack() as stack:
        peers = [
            stack.enter_context(Peer(name, options.peers, cores=options.cores))
            for name in (options.against if options.peers else ())
        ]
        for context_tokens in options.contexts:
            seconds: dict[str, list[float]] = {who.name: [] for who in [*ours, *peers]}
            for round_number in range(options.rounds):
                bandwidth.measure()
                for who in ours:
                    seconds[who.name].append(read_prompt(who, context_tokens, round_number))
                for peer in peers:
                    opening = peer.open(1, context_tokens, 1)
                    peer.close()
                    seconds[peer.name].append(float(opening["prefill_s"]))
            for who in [*ours, *peers]:
                verdict = verdicts.get(who.name, {})
                report(options, who, context_tokens, seconds[who.name], verdict, bandwidth)


def read_prompt(ours: Ours, num_tokens: int, seed: int) -> float:
    """Return the seconds from `add` to the first token, in an engine that holds nothing else."""
    engine = ours.serve(1, num_tokens + 2).engine
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(ours.config.vocab_size, (num_tokens,), generator=generator).tolist()
    engine.generate([ids[:8]], SamplingConfig(max_new_tokens=1))
    start = time.perf_counter()
    number = engine.add(ids, SamplingConfig(max_new_tokens=1))
    given = [event for event in engine.stream(number) if isinstance(event, Token)]
    seconds = time.perf_counter() - start
    assert len(given) == 1, f"a prompt of {num_tokens} tokens gave {len(given)}"
    ours.close()
    return seconds


def report(
    options: Options,
    who: Ours | Peer,
    num_tokens: int,
    seconds: list[float],
    verdict: dict[str, Any],
    bandwidth: Bandwidth,
) -> None:
    """Write a line and print it. Work is counted as if nothing were forgotten."""
    name = label(who, options)
    config = who.config
    products = 2e-9 * count_weights(config, has_output=False) * num_tokens
    gflop = products + 1e-9 * count_attention(config, num_tokens)
    middle = median(seconds)
    figures = {
        "tokens_per_s": round(num_tokens / middle, 1),
        "dense_gflop": round(gflop, 1),
        "gflop_per_s": round(gflop / middle, 1),
        "read_gb_s": round(bandwidth.median / 1e9, 2),
        **verdict,
        "settings": who.settings(),
    }
    case = {"who": name, "context": num_tokens}
    row = record(options.results, "prefill", "s", seconds, case=case, figures=figures)
    print(
        f"{name:28} {num_tokens:6} tokens  {row['p50']:8.2f} s  {figures['tokens_per_s']:8.1f} "
        f"tokens/s  {figures['gflop_per_s']:7.1f} GFLOP/s",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
