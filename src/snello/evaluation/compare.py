"""Several memories answer the same problems: which ones, how wide the window, what differs.

Knows nothing of tokens or of judging.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snello.bundled.problems import Problem
from snello.config.engine import MemoryKind, SamplingConfig
from snello.engine.build import Served
from snello.evaluation.measures import Difference, Summary, compare_paired
from snello.evaluation.run import Advance, Run, run_policy

Open = Callable[[MemoryKind, int | None], Served]
"""Builds an engine on a fresh memory of this kind; the width is given for `window` only."""

BASELINE: MemoryKind = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs on the same problems, in the order they were made."""

    runs: dict[MemoryKind, Run]

    @property
    def summaries(self) -> list[Summary]:
        """One for each memory."""
        return [run.summary for run in self.runs.values()]

    @property
    def differences(self) -> list[Difference]:
        """Each other memory against dense, if dense took part."""
        if BASELINE not in self.runs:
            return []
        baseline = self.runs[BASELINE].is_right
        return [
            compare_paired(kind, run.is_right, BASELINE, baseline)
            for kind, run in self.runs.items()
            if kind != BASELINE
        ]


def compare(
    open_memory: Open,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    *,
    memories: Sequence[MemoryKind],
    start: Callable[[MemoryKind], Advance] = lambda _: lambda _: None,
) -> Comparison:
    """Let every memory answer all problems.

    Args:
        open_memory: Builds an engine for one memory.
        problems: The same ones for all.
        sampling: The same dice for all; without `max_new_tokens`, a reply may be twice as long as
            the longest one that solves a problem.
        memories: Which ones; `window` is as wide as the `sparse` run before it was large.
        start: Called as each memory begins; returns where to report its progress.

    Raises:
        ValueError: `window` comes without `sparse` before it.
    """
    runs: dict[MemoryKind, Run] = {}
    for kind in memories:
        width = match_window(runs) if kind == "window" else None
        runs[kind] = run_policy(open_memory(kind, width), problems, sampling, advance=start(kind))
    return Comparison(runs=runs)


def match_window(runs: dict[MemoryKind, Run]) -> int:
    """Return the window whose live tokens equal the sparse run's mean peak.

    Raises:
        ValueError: no sparse run to match.
    """
    if "sparse" not in runs:
        raise ValueError(
            "the memory 'window' came without 'sparse' before it; its width is taken from the "
            "sparse run, so name 'sparse' first."
        )
    return fit_window(runs["sparse"].summary.peak_live_tokens)


def fit_window(live_tokens: float) -> int:
    """Return the window that holds so many tokens, rounded up.

    A window of w holds w + 1 tokens: the newest is visible beside the w before it.
    """
    return max(1, math.ceil(live_tokens) - 1)
