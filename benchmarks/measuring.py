"""What all benchmarks share: the machine's read bandwidth, quantiles, and a line for each result.

Knows nothing of what is measured.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
BUFFER_BYTES = 2**28  # eight times the last-level cache of the machine this was written on


class Bandwidth:
    """How fast this machine reads memory, by summing a buffer that no cache holds, on all threads.

    Measured again and again between other things, because machines are shared.
    """

    def __init__(self) -> None:
        self._buffer = torch.ones(BUFFER_BYTES // 4)
        self._seconds: list[float] = []

    def measure(self) -> None:
        """Read the buffer once."""
        self._seconds.append(measure_seconds(lambda: self._buffer.sum()))

    @property
    def gigabytes_per_second(self) -> float:
        """The median of all readings so far."""
        return BUFFER_BYTES / quantiles(self._seconds)["p50"] / 1e9


def measure_seconds(work: Callable[[], object]) -> float:
    """Run something once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quantiles(numbers: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentiles."""
    ordered = torch.tensor(sorted(numbers), dtype=torch.float64)
    return {f"p{share}": float(ordered.quantile(share / 100)) for share in (20, 50, 80)}


def describe_device() -> str:
    """The processor's name and how many threads are used of it."""
    name = "unknown processor"
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def find_commit() -> str:
    """The commit that is checked out, with a `+` if files have changed since."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def record(question: str, case: dict[str, object], seconds: Sequence[float], **more: float) -> None:
    """Append a line to `results/<question>.jsonl`: quantiles in seconds, case, device, commit."""
    line = {
        "case": case,
        "seconds": quantiles(seconds),
        **more,
        "device": describe_device(),
        "commit": find_commit(),
        "command": " ".join(["python", *sys.argv]),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{question}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
