"""What a run over many problems amounts to: shares with their intervals, costs with their units.

Knows nothing of models, memories or files: numbers in, numbers out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from snello.evaluation.intervals import bootstrap_means, middle_95, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one problem went under one memory."""

    is_right: bool
    text: str
    token_ids: tuple[int, ...]
    """The generated tokens."""

    num_stored_tokens: int
    """Tokens that dense memory would hold at the end: all but the last sampled one."""

    peak_live_tokens: float
    """The most tokens that were alive after a step, mean over layers and heads."""

    peak_bytes: int
    """The most bytes of pages that it held after a step."""

    kv_reads: float
    """Sum over tokens of the live tokens that each attended, mean over layers and heads."""

    @property
    def factor(self) -> float:
        """Dense over live at the end of the text, where the live tokens are at their peak."""
        return self.num_stored_tokens / self.peak_live_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One memory's run over all problems; every mean is a mean over problems."""

    memory: str
    window_tokens: int | None
    num_problems: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Wilson's 95 % interval."""

    factor: float
    """Mean over problems of stored tokens over live tokens, both at the end of the text."""

    peak_live_tokens: float
    peak_bytes: float
    """Of one problem; `peak_pool_bytes` is of the pool that they share."""

    peak_pool_bytes: int
    """The most bytes of pages that all problems under way had taken from the pool."""

    kv_reads: float
    generated_tokens: float
    wall_s: float
    tokens_per_s: float
    """Generated tokens of all problems over the wall time, prompts included in the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A memory's accuracy minus the baseline's, on the same problems."""

    memory: str
    baseline: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """95 % interval of the paired difference, by bootstrap over problems."""


def summarize(
    memory: str,
    replies: Sequence[Reply],
    *,
    wall_s: float,
    peak_pool_bytes: int,
    window_tokens: int | None,
) -> Summary:
    """Return the means of a run and the interval of its accuracy.

    Raises:
        ValueError: there are no replies.
    """
    if not replies:
        raise ValueError(f"no replies of {memory} memory to summarize; give at least one problem.")
    num_right = sum(reply.is_right for reply in replies)
    interval = wilson(num_right, len(replies))
    return Summary(
        memory=memory,
        window_tokens=window_tokens,
        num_problems=len(replies),
        accuracy=num_right / len(replies),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        factor=fmean(reply.factor for reply in replies),
        peak_live_tokens=fmean(reply.peak_live_tokens for reply in replies),
        peak_bytes=fmean(reply.peak_bytes for reply in replies),
        peak_pool_bytes=peak_pool_bytes,
        kv_reads=fmean(reply.kv_reads for reply in replies),
        generated_tokens=fmean(len(reply.token_ids) for reply in replies),
        wall_s=wall_s,
        tokens_per_s=sum(len(reply.token_ids) for reply in replies) / wall_s,
    )


def compare_paired(
    memory: str,
    right: Sequence[bool],
    baseline: str,
    baseline_right: Sequence[bool],
) -> Difference:
    """Return the difference on the same problems, with the percentile interval of a bootstrap.

    Draws are seeded, so the same results always give the same interval.

    Raises:
        ValueError: the runs differ in length.
    """
    if len(right) != len(baseline_right):
        raise ValueError(
            f"{memory} answered {len(right)} problems and {baseline} {len(baseline_right)}; "
            "a paired difference needs the same problems in both."
        )
    gaps = np.array(right, dtype=float) - np.array(baseline_right, dtype=float)
    interval = middle_95(bootstrap_means(gaps[:, None])[:, 0])
    return Difference(
        memory=memory,
        baseline=baseline,
        accuracy=float(gaps.mean()),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
    )


def as_figures(
    summaries: Sequence[Summary], differences: Sequence[Difference]
) -> dict[str, list[dict[str, Any]]]:
    """Return the results as plain values under keys that carry units."""
    return {
        "memories": [asdict(summary) for summary in summaries],
        "differences": [asdict(difference) for difference in differences],
    }
