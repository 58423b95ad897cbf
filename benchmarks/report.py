"""Tables for docs/results.md, made of the lines that the questions left.

Knows nothing of how anything was measured. Of lines with one case, the latest counts.

    python -m benchmarks.report
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS

FIGURES = {
    "decode_step": ("tokens_per_s", "factor_measured", "weight_mb", "kv_mb", "percent_of_read",
                    "read_gb_s", "logit_error"),
    "prefill": ("tokens_per_s", "gflop_per_s", "logit_error"),
    "fixed_memory": ("tokens_per_s", "times_first", "threads_mean", "factor_measured", "step_ms",
                     "percent_of_read", "peak_mib", "seconds"),
    "uneven_heads": ("even_ms", "uneven_ms", "more_tokens", "percent_of_read"),
    "first_token": ("p99", "lone_ms", "inter_token_p50_ms", "inter_token_p99_ms", "calm_ms",
                    "arrivals_per_s", "factor_measured", "preemptions_so_far", "logit_error"),
    "samples": ("prefill_ms", "branch_ms", "prompt_mb", "extra_mb", "extra_mb_each",
                "tokens_per_s", "percent_of_read", "logit_error"),
    "matmul": ("weight_mb", "read_gb_s", "percent_of_read", "gproducts_per_s", "percent_of_peak",
               "kernel_error"),
    "decode_attention": ("kv_mb", "read_gb_s", "percent_of_read", "error"),
    "prefill_attention": ("gflop_per_s", "percent_of_product", "error"),
    "gpu_attention": ("append_ms", "kv_mb", "copy_gb_s", "percent_of_copy", "error"),
    "gpu_decode": ("tokens_per_s", "peak_mib", "dense_over_sparse"),
    "gpu_budget": ("times_dense", "seconds", "peak_mib"),
}  # fmt: skip
"""What is shown beside the percentiles; of other questions, only those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Print tables of what was measured."""

    results: Path = RESULTS
    questions: tuple[str, ...] = ()
    """Only these; without them, all."""


def main(options: Options) -> None:
    """Print one table for each question."""
    for path in sorted(options.results.glob("*.jsonl")):
        if not options.questions or path.stem in options.questions:
            lines = path.read_text(encoding="utf-8").splitlines()
            print(render(path.stem, [json.loads(line) for line in lines if line.strip()]))


def render(question: str, rows: list[dict[str, Any]]) -> str:
    """Return a table, and under it the devices, commits and commands that it comes from."""
    latest = {json.dumps(row["case"], sort_keys=True): row for row in rows}
    rows = list(latest.values())
    cases = list(dict.fromkeys(name for row in rows for name in row["case"]))
    figures = [name for name in FIGURES.get(question, ()) if any(name in row for row in rows)]
    unit = rows[0]["unit"]
    head = [*cases, f"p20, {unit}", f"p50, {unit}", f"p80, {unit}", *figures]
    table = [head, ["---"] * len(head)]
    for row in rows:
        middle = [row["p20"], row["p50"], row["p80"]]
        case = [row["case"].get(name, "") for name in cases]
        table.append([show(cell) for cell in [*case, *middle, *(row.get(f, "") for f in figures)]])
    text = "\n".join("| " + " | ".join(line) + " |" for line in table)
    return f"### {question}\n\n{text}\n\n{render_origins(rows)}\n"


def render_origins(rows: list[dict[str, Any]]) -> str:
    """Say where lines come from, once for each command."""
    origins = dict.fromkeys((row["device"], row["commit"], row["command"]) for row in rows)
    return "\n".join(f"- {device}; commit {commit}; `{what}`" for device, commit, what in origins)


def show(cell: object) -> str:
    """Write a number with three significant digits or more, and anything else as it is."""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"


if __name__ == "__main__":
    main(tyro.cli(Options))
