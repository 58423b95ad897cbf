"""From chains to cells: what a contender gets right, and pays, with some threads at some length.

Knows nothing of engines or files. A cell's chains are the first of those sampled, so that more
threads contain fewer ones. What W threads cost:
    KV reads            the prompt's once (it is computed once, and shared), and each chain's own
    peak live tokens    the sum of each chain's own peak, prompt included: what W threads hold that
                        run side by side, and share nothing
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from snello.config.evaluate import Metric
from snello.evaluation.record import Cut, Key, Record
from snello.evaluation.votes import pass_at_k, score_majority

METRICS: tuple[Metric, ...] = get_args(Metric)
EXPLAINED: dict[Metric, str] = {
    "vote": "the answer that most threads give is right; ties go to the earliest thread",
    "pass_all": "any of the threads is right",
    "pass_k": "any of so many threads is right, estimated from all that were sampled",
    "mean": "share of right threads",
}
Axis = Literal["kv_reads", "peak_live_tokens", "peak_bytes"]
AXES: tuple[Axis, ...] = get_args(Axis)

Column = Float[np.ndarray, " N"]
"""One number for each question, in the order in which they were posed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One contender at one length with so many threads, on one task.

    Invariant: all columns have one entry for each question.
    """

    task: str
    contender: str
    method: str
    length_tokens: int
    threads: int
    vote: Column
    pass_all: Column
    pass_k: Column
    mean: Column
    kv_reads: Column
    kv_read_bytes: Column
    """What the tokens take that were read."""

    peak_live_tokens: Column
    peak_bytes: Column
    generated_tokens: Column
    """Of one chain, a mean over the threads."""

    factor: Column
    """Stored over peak live tokens of one chain, a mean over the threads."""

    is_cut: Column
    """Share of the threads that had not ended."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Which cell it is."""
        return self.task, self.contender, self.length_tokens, self.threads

    @property
    def label(self) -> str:
        """As in `64 tokens x 4`."""
        return f"{self.length_tokens} tokens x {self.threads}"

    def score(self, metric: Metric) -> Column:
        """The scores by a rule."""
        column: Column = getattr(self, metric)
        return column

    def cost(self, axis: Axis) -> Column:
        """The costs on an axis."""
        column: Column = getattr(self, axis)
        return column


def gather_cells(
    records: Mapping[Key, Record],
    contenders: Sequence[tuple[str, str]],
    questions: Mapping[str, Sequence[str]],
    threads: Sequence[int],
    lengths_tokens: Sequence[int],
) -> list[Cell]:
    """Return all cells of a sweep, task by task.

    Args:
        records: Every chain, by its key.
        contenders: Name and method of each.
        questions: For each task, the names of its questions.
        threads: How many chains to take together; the largest tells how many there are.
        lengths_tokens: The lengths at which the records were cut.

    Raises:
        ValueError: a chain is missing.
    """
    cells = []
    for task, names in questions.items():
        for contender, method in contenders:
            chains = [
                [_find(records, Key(contender, task, name, i)) for i in range(max(threads))]
                for name in names
            ]
            for place, length in enumerate(lengths_tokens):
                for count in threads:
                    columns = _columns(chains, place, count)
                    cells.append(
                        Cell(
                            task=task,
                            contender=contender,
                            method=method,
                            length_tokens=length,
                            threads=count,
                            **columns,
                        )
                    )
    return cells


def _find(records: Mapping[Key, Record], key: Key) -> Record:
    if key not in records:
        raise ValueError(
            f"chain {key.chain} of {key.contender} on {key.task}/{key.question} is missing; "
            "repeat the command to go on with the sweep."
        )
    return records[key]


def _columns(chains: Sequence[Sequence[Record]], place: int, count: int) -> dict[str, Column]:
    rows = [_row(family, place, count) for family in chains]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _row(family: Sequence[Record], place: int, count: int) -> dict[str, float]:
    every = [record.cuts[place] for record in family]
    cuts = every[:count]
    scores = [cut.score for cut in cuts]
    is_right = [cut.score >= 1.0 for cut in every]
    return {
        "vote": score_majority([cut.answer for cut in cuts], scores),
        "pass_all": float(any(is_right[:count])),
        "pass_k": pass_at_k(len(every), sum(is_right), count),
        "mean": sum(scores) / count,
        "kv_reads": family[0].prompt_kv_reads + _sum(cut.reply_kv_reads for cut in cuts),
        "kv_read_bytes": family[0].prompt_kv_bytes + _sum(cut.reply_kv_bytes for cut in cuts),
        "peak_live_tokens": _sum(cut.peak_live_tokens for cut in cuts),
        "peak_bytes": _sum(cut.peak_bytes for cut in cuts),
        "generated_tokens": _sum(cut.generated_tokens for cut in cuts) / count,
        "factor": _sum(map(_factor, cuts)) / count,
        "is_cut": _sum(cut.is_cut for cut in cuts) / count,
    }


def _factor(cut: Cut) -> float:
    return cut.stored_tokens / cut.peak_live_tokens


def _sum(numbers: Iterable[float]) -> float:
    return float(sum(numbers))
