"""Timing cases side by side, and a line of JSON for each result.

Knows nothing of what is timed.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def interleave(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each case, sorted; cases take turns, so that all meet the same machine."""
    for case in cases.values():
        case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            times[name].append(time.perf_counter() - started)
    return {name: sorted(seconds) for name, seconds in times.items()}


def quantile(ordered: list[float], share: float) -> float:
    """The value below which this share lies."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def append(benchmark: str, case: str, seconds: list[float], **facts: object) -> None:
    """Add one line to the benchmark's file of results."""
    line = {
        "case": case,
        "p20_ms": round(quantile(seconds, 0.2) * 1e3, 4),
        "p50_ms": round(quantile(seconds, 0.5) * 1e3, 4),
        "p80_ms": round(quantile(seconds, 0.8) * 1e3, 4),
        **facts,
        "device": describe_device(),
        "commit": find_commit(),
        "command": " ".join(["python", *sys.argv]),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{benchmark}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def describe_device() -> str:
    """The processor's name and how many of its cores are seen."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor()


def find_commit() -> str:
    """The commit of the working tree; a `+` says that something has been changed since."""
    here = Path(__file__).parent
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"
