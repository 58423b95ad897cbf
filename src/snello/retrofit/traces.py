"""Replies that the base writes itself, to be trained on: asked for in batches, kept in one file.

Knows nothing of engines: who generates is handed in. A stopped writing goes on at the next batch.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from snello.config.retrofit import TraceSettings
from snello.models.whole import write_whole
from snello.retrofit.documents import DocumentWriter
from snello.retrofit.records import Source
from snello.retrofit.runfolder import PARTIAL

TRACES = "traces.jsonl"
Generate = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and the number of the first of them (to seed by) to replies, end tokens included."""


def write_traces(
    folder: Path,
    source: Source,
    writer: DocumentWriter,
    settings: TraceSettings,
    generate: Generate,
    *,
    on_batch: Callable[[int], None] = lambda _done: None,
) -> Path:
    """Write `traces.jsonl` into a folder, unless it is there; return its path.

    Raises:
        OSError: the disk is full; whole batches that were written stay, and count later.
    """
    path = folder / TRACES
    if path.exists():
        return path
    partial = folder / f".{TRACES}{PARTIAL}"
    lines = _whole_lines(partial)
    del lines[len(lines) - len(lines) % settings.batch_sequences :]
    write_whole(partial, "".join(lines).encode())
    prompts = list(_prompts(source, writer, settings))
    with partial.open("a", encoding="utf-8") as file:
        for first in range(len(lines), len(prompts), settings.batch_sequences):
            asked = prompts[first : first + settings.batch_sequences]
            replies = generate(asked, first)
            rows = zip(asked, replies, strict=True)
            file.writelines(json.dumps({"prompt_ids": p, "reply_ids": r}) + "\n" for p, r in rows)
            file.flush()
            on_batch(first + len(asked))
    partial.replace(path)
    return path


def count_replies(source: Source, settings: TraceSettings) -> int:
    """How many replies will be written."""
    return _num_prompts(source, settings) * settings.replies_per_prompt


def _num_prompts(source: Source, settings: TraceSettings) -> int:
    return settings.num_prompts if source.size is None else source.size


def _prompts(
    source: Source, writer: DocumentWriter, settings: TraceSettings
) -> Iterator[list[int]]:
    for number in range(_num_prompts(source, settings)):
        prompt = writer.write_prompt(source.exchange(number))
        for _ in range(settings.replies_per_prompt):
            yield prompt


def _whole_lines(path: Path) -> list[str]:
    """Lines that an earlier start wrote; one that a kill cut short does not count."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
