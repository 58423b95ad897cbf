"""The other end of `benchmarks/peer.py`: reads questions, times a peer, writes answers.

Knows nothing of any peer, and needs the standard library only: it runs in every environment.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

SEED = 11


class Runner(Protocol):
    """A peer with its model loaded."""

    def describe(self) -> dict[str, Any]:
        """Return version and settings, and `shape`: layers, hidden, vocabulary."""

    def prepare(self, num_threads: int, context_tokens: int, num_steps: int) -> None:
        """Make room; this is not timed."""

    def open(self, prompts: Sequence[Sequence[int]], num_steps: int) -> None:
        """Read the prompts, and sample the first token of each."""

    def step(self) -> int:
        """Give every thread one token; return how many tokens that made."""

    def close(self) -> None:
        """Forget all threads."""


def parse_flags(*extra: str) -> argparse.Namespace:
    """Read the flags that all runners have, and `extra` ones with a value; `!name` has none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--cores", type=int, default=2)
    for name in extra:
        if name.startswith("!"):
            parser.add_argument(f"--{name[1:]}", action="store_true")
        else:
            parser.add_argument(f"--{name}")
    return parser.parse_args()


def serve(runner: Runner) -> None:
    """Answer until the questions end."""
    described = runner.describe()
    say(described)
    for line in sys.stdin:
        if not line.strip():
            break
        question = json.loads(line)
        if question["do"] == "open":
            vocabulary = described["shape"]["vocabulary"]
            say(open_threads(runner, vocabulary, **question))
        elif question["do"] == "step":
            say(take_steps(runner, question["count"]))
        else:
            runner.close()
            say({})


def open_threads(
    runner: Runner, vocabulary: int, *, do: str, threads: int, context: int, steps: int
) -> dict[str, Any]:
    """Draw random prompts and time how long they take."""
    assert do == "open"
    dice = random.Random(SEED)
    prompts = [[dice.randrange(vocabulary - 8) for _ in range(context)] for _ in range(threads)]
    runner.prepare(threads, context, steps)
    start = time.perf_counter()
    runner.open(prompts, steps)
    seconds = time.perf_counter() - start
    return {"prefill_s": round(seconds, 4), "num_prompt_tokens": threads * context}


def take_steps(runner: Runner, count: int) -> dict[str, Any]:
    """Time steps one by one."""
    seconds, num_new = [], 0
    for _ in range(count):
        start = time.perf_counter()
        num_new += runner.step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "num_new_tokens": num_new}


def say(answer: dict[str, Any]) -> None:
    """Write one answer."""
    sys.stdout.write(json.dumps({"peer": answer}) + "\n")
    sys.stdout.flush()
