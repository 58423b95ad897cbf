"""One line of evidence: what was measured, on what, from which commit, by which command.

Knows nothing of how it was measured.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where lines go."""

    results: Path = RESULTS
    """Where lines are appended; name a folder outside of the repository for a trial."""


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentile of samples."""
    return {f"p{percent}": find_percentile(samples, percent) for percent in (20, 50, 80)}


def find_percentile(samples: Sequence[float], percent: int) -> float:
    """Return what `percent` of samples lie below, 1 to 99; one sample is all percentiles."""
    if len(samples) == 1:
        return samples[0]
    return quantiles(samples, n=100, method="inclusive")[percent - 1]


def shorten(value: float) -> float:
    """Round to four significant digits; whole numbers stay."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def record(
    folder: Path,
    question: str,
    unit: str,
    samples: Sequence[float],
    *,
    case: dict[str, Any],
    figures: dict[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Append a line to `folder/question.jsonl` and return it.

    Args:
        folder: `RESULTS`, or a place outside of the repository for a trial.
        question: the file that asks.
        unit: of the samples.
        samples: as measured, one by one.
        case: what was varied.
        figures: what was measured beside, with units in the names.
        device: where it ran, `cpu` or `cuda`.
    """
    row = {
        "question": question, "case": case, "unit": unit,
        **{name: round(value, 4) for name, value in summarize(samples).items()},
        "n": len(samples), **figures,
        "device": describe_device(device), "torch": version("torch"), "commit": read_commit(),
        "command": describe_command(question, sys.argv[1:]),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_1min": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{question}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def describe_command(question: str, words: Sequence[str]) -> str:
    """Write the command down, without where this machine keeps its files: `.../models`."""
    shown = [f".../{Path(word).name}" if Path(word).is_absolute() else word for word in words]
    return " ".join([f"python -m benchmarks.{question}", *shown])


def describe_device(device: str) -> str:
    """Name the processor, or the GPU with its memory."""
    if device == "cpu":
        return describe_processor()
    import torch  # not above: tables are made without it

    gpu = torch.cuda.get_device_properties(device)
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"


def describe_processor() -> str:
    """Name the processor, its cores, its best instruction set and its memory."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(
            line.replace("\t", "").split(": ", 1)
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if ": " in line
        )
        signs = [sign for sign in ("avx512_vnni", "avx512_bf16", "avx2") if sign in fields["flags"]]
        family = f"family {fields['cpu family']} model {fields['model']}"
        name = f"{fields['model name']} {family}, {'/'.join(signs[:2])}"
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory_gib:.0f} GiB"


def read_commit() -> str:
    """Return the commit that is checked out, with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    home = Path(__file__).parent
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    return ran.stdout.strip() or "unknown"
