"""Solved questions of a sweep, read again under watch, for portraits of every head.

Knows nothing of how portraits are drawn or shown. A portrait is kept beside the records, so that
a finished sweep is not read again.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snello.engine.build import Served
from snello.evaluation.opening import Opener
from snello.evaluation.portrait import Portrait, Share, portray
from snello.evaluation.record import Key, Record
from snello.evaluation.sweep import Bar, Sweep, encode_question
from snello.evaluation.sweep_folder import SweepFolder
from snello.evaluation.task import Question
from snello.evaluation.trace import Trace
from snello.evaluation.watch import MOST_LOOKS, watch
from snello.models.whole import write_whole

PORTRAITS = "portraits.json"
MOST_TOKENS = 4096


def portray_contenders(
    sweep: Sweep, folder: SweepFolder, opener: Opener, count: int, bar: Bar
) -> dict[str, list[Portrait]]:
    """Return portraits of each contender that decides for itself what to forget.

    Args:
        sweep: What was asked of whom.
        folder: All its records.
        opener: Opens contenders.
        count: From how many texts; 0: no portraits.
        bar: Shows how far it has come.
    """
    learned = {
        line["contender"]
        for line in folder.sessions
        if line["event"] == "open" and line["memory"] == "sparse"
    }
    contenders = [c for c in sweep.contenders if c.name in learned and count]
    path = folder.path / PORTRAITS
    known = read_portraits(path, count)
    for contender in contenders:
        if contender.name in known:
            continue
        texts = choose_texts(sweep, folder, contender.name, count)
        if not texts:
            continue
        served = opener.open(contender).served
        traces = []
        with bar(f"heads of {contender.name}", len(texts)) as advance:
            for question, record in texts:
                traces.append(watch_chain(served, question, record))
                advance(len(traces))
        known[contender.name] = portray(traces)
        write_portraits(path, count, known)
    return {c.name: known[c.name] for c in contenders if c.name in known}


def choose_texts(
    sweep: Sweep, folder: SweepFolder, contender: str, count: int
) -> list[tuple[Question, Record]]:
    """Return the first questions whose first chain is right, or else any, if not too long."""
    texts = [
        (question, folder.records[Key(contender, task, question.name, 0)])
        for task, questions in sweep.questions.items()
        for question in questions
    ]
    short = [
        (question, record)
        for question, record in texts
        if record.prompt_tokens + record.cuts[-1].generated_tokens <= MOST_TOKENS
    ]
    return sorted(short, key=lambda text: text[1].cuts[-1].score < 1.0)[:count]


def watch_chain(served: Served, question: Question, record: Record) -> Trace:
    """Let the model read a question and its own reply again."""
    prompt_ids = encode_question(question, served.codec)
    token_ids = [*prompt_ids, *served.codec.encode_rendered(record.text)]
    return watch(
        served,
        token_ids,
        num_prompt_tokens=len(prompt_ids),
        stride_tokens=-(-len(token_ids) // MOST_LOOKS),
    )


def read_portraits(path: Path, count: int) -> dict[str, list[Portrait]]:
    """Return portraits that were drawn from as many texts before."""
    if not path.exists():
        return {}
    raw = json.loads(path.read_text("utf-8"))
    if raw["texts"] != count:
        return {}
    return {name: [_from_json(head) for head in heads] for name, heads in raw["heads"].items()}


def write_portraits(path: Path, count: int, portraits: dict[str, list[Portrait]]) -> None:
    """Keep portraits for the next start."""
    heads = {name: [asdict(portrait) for portrait in drawn] for name, drawn in portraits.items()}
    write_whole(path, (json.dumps({"texts": count, "heads": heads}) + "\n").encode())


def _from_json(raw: dict[str, Any]) -> Portrait:
    shares = tuple(Share(**share) for share in raw.pop("shares"))
    return Portrait(**raw | {"shares": shares, "live_tokens": tuple(raw["live_tokens"])})
