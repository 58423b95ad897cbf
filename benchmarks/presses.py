"""Do our rivals score as KVPress's presses do? The bundled model, in `transformers` and in ours.

The same prompts, greedy, the same judge; for each policy the share of right answers on both sides,
and the difference with its paired interval. PEERS is what `peers/install.sh` filled.

    python -m benchmarks.presses --peers PEERS [--policies dense window:tokens=64] [--problems 100]

What is compared with what, and how KVPress is asked so that both mean the same:
    dense        no press
    window       StreamingLLMPress without sinks, the prompt token by token
    streaming    StreamingLLMPress, the prompt token by token; both with slots kept in order, which
                 the press does not do when it is used more than once (--raw: as it comes)
    tova         TOVAPress: the prompt whole, cut down at its end and after every new token
    snapkv       SnapKVPress: the prompt whole, cut down at its end; replies stay
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_process import PeerProcess
from benchmarks.record import RESULTS, record
from snello import bundled
from snello.bundled.problems import Problem
from snello.config.contender import parse_contender
from snello.config.engine import EngineConfig, SamplingConfig
from snello.engine.text import TextCodec
from snello.evaluation.intervals import wilson
from snello.evaluation.measures import compare_paired
from snello.evaluation.opening import Opener
from snello.evaluation.run import limit_replies, run_policy
from snello.evaluation.tasks.bundled import judge, pose_fresh

SINKS, KERNEL, OBSERVED_TOKENS = 4, 5, 32
"""Of streaming and snapkv, where a policy does not set them: our defaults, not KVPress's."""

COLUMNS = "| policy | ours % | KVPress % | difference, points | same reply % |"


def choose_press(policy: str, *, raw: bool = False) -> dict[str, Any] | None:
    """Return how KVPress is asked for what a policy of ours does; None: no press.

    `raw` leaves the slots of StreamingLLMPress in whatever order it picks them.

    Raises:
        ValueError: there is no press for it.
    """
    method, _, text = policy.partition(":")
    settings = {
        key: int(value) for key, _, value in (p.partition("=") for p in text.split(",") if p)
    }
    if method == "dense":
        return None
    if method in ("window", "streaming"):
        sinks = settings.get("sinks", SINKS) if method == "streaming" else 0
        behind = settings["window" if method == "streaming" else "tokens"]
        # What a query sees is what was kept, and its own token: `behind` more than the sinks.
        return {
            "press": "streaming",
            "sinks": sinks,
            "target": sinks + behind,
            "raw": raw,
            "prompt": "stepwise",
        }
    if method == "tova":
        return {"press": "tova", "target": settings["budget"], "prompt": "whole", "decodes": True}
    if method == "snapkv" and "slide" not in settings:
        budget = settings["budget"]
        return {
            "press": "snapkv",
            "target": budget,
            "window": settings.get("window", min(OBSERVED_TOKENS, budget // 2)),
            "kernel": settings.get("kernel", KERNEL),
            "prompt": "whole",
            "decodes": False,
        }
    raise ValueError(f"KVPress has no press for {policy}; there are those that --help lists.")


def answer_ours(policy: str, problems: Sequence[Problem]) -> list[list[int]]:
    """Let our engine answer greedily, each prompt in one piece."""
    opener = Opener(EngineConfig(max_sequences=1), None)
    served = opener.open(parse_contender(f"bundled@{policy}")).served
    run = run_policy(served, problems, SamplingConfig(temperature=0))
    return [drop_end(reply.token_ids, served.codec) for reply in run.replies]


def answer_theirs(
    peer: PeerProcess, press: dict[str, Any] | None, problems: Sequence[Problem], codec: TextCodec
) -> list[list[int]]:
    """Let KVPress answer the same."""
    most = limit_replies(problems, codec)
    return [
        peer.ask(
            prompt=codec.encode_chat(problem.messages),
            most=most,
            ends=sorted(codec.eos_ids),
            press=press,
        )["reply"]
        for problem in problems
    ]


def drop_end(token_ids: Sequence[int], codec: TextCodec) -> list[int]:
    """Return a reply without its end token."""
    ids = list(token_ids)
    return ids[:-1] if ids and ids[-1] in codec.eos_ids else ids


def compare(
    policy: str, ours: list[list[int]], theirs: list[list[int]], right: list[list[bool]]
) -> dict[str, Any]:
    """Return the figures of one policy; `right` are the verdicts on ours and on theirs."""
    paired = compare_paired("ours", right[0], "kvpress", right[1])
    figures: dict[str, Any] = {"policy": policy, "problems": len(ours)}
    for name, verdicts in zip(("ours", "kvpress"), right, strict=True):
        low, high = wilson(sum(verdicts), len(verdicts))
        share = sum(verdicts) / len(verdicts)
        figures |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return figures | {
        "difference": paired.accuracy,
        "difference_low": paired.accuracy_low,
        "difference_high": paired.accuracy_high,
        "is_within_noise": paired.accuracy_low <= 0 <= paired.accuracy_high,
        "same_reply_fraction": sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours),
    }


def describe(figures: dict[str, Any]) -> str:
    """Return one row under `COLUMNS`."""

    def show(name: str, sign: str = "") -> str:
        value, low, high = (100 * figures[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"

    same = 100 * figures["same_reply_fraction"]
    return (
        f"| {figures['policy']} | {show('ours')} | {show('kvpress')} | {show('difference', '+')} "
        f"| {same:.1f} |"
    )


def main() -> None:
    """Ask both sides policy by policy; print a row and append a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", default=["dense", "window:tokens=64"])
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--kind", default="ledger")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    problems = pose_fresh(given.problems, kinds=[given.kind], levels=[given.level], seed=0)
    folder = bundled.model_folder()
    codec, words = TextCodec(folder), ["--model", folder, "--cores", given.cores]
    print(COLUMNS + "\n|---|---|---|---|---|")
    with PeerProcess("kvpress", given.peers / "kvpress/bin/python", "kvpress", words) as peer:
        for policy in given.policies:
            press = choose_press(policy, raw=given.raw)
            ours = answer_ours(policy, problems)
            theirs = answer_theirs(peer, press, problems, codec)
            right = [
                [judge(p, codec.decode(reply)) for p, reply in zip(problems, side, strict=True)]
                for side in (ours, theirs)
            ]
            figures = compare(policy, ours, theirs, right)
            case = {"policy": policy, "press": press, "kind": given.kind, "level": given.level}
            record(
                given.results, "presses", "share of right answers, ours", [figures["ours"]],
                case=case, figures=figures | {"peer": peer.description},
            )  # fmt: skip
            print(describe(figures), flush=True)


if __name__ == "__main__":
    main()
