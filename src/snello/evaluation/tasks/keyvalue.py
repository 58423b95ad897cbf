"""Key-value retrieval: one of many random pairs in a JSON object, by its key.

Knows nothing of models. Source: Liu et al., "Lost in the Middle", arXiv:2307.03172.
"""

import json
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import arrange, load_rows
from snello.evaluation.task import Question
from snello.evaluation.tasks.haystack import fill, take
from snello.evaluation.tasks.needle import Cell, list_cells
from snello.evaluation.tasks.registry import Encode

_PROMPT = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\n"
    'JSON data:\n{pairs}\n\nKey: "{key}"\nCorresponding value:'
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """Random pairs up to a length, the one asked for at a depth; or pairs from a file."""

    encode: Encode
    name: str = "key-value"
    lengths: Sequence[int] = (1024, 2048, 4096, 8192)
    """Tokens of the prompt, without what a chat template adds."""

    depths: Sequence[int] = (0, 25, 50, 75, 100)
    """Percent of the pairs before the one asked for."""

    samples: int = 1
    """Questions for each length and depth."""

    source: str | None = None
    """A file as the paper's authors publish them (`ordered_kv_records`, `key`, `value`); then
    lengths, depths and samples do not matter."""

    form: Literal["chat", "text"] = "chat"

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return a question for each place of the grid, or each row of the file.

        Raises:
            ValueError: a grid that makes no sense, a length too short, or a file that cannot be
                read.
        """
        if self.source is not None:
            fields = {name: (name,) for name in ("ordered_kv_records", "key", "value")}
            rows = load_rows(self.source, fields)
            asked = [
                self._write(str(i), ask(row["ordered_kv_records"], row["key"]), str(row["value"]))
                for i, row in enumerate(rows)
            ]
            return arrange(asked, count, seed)
        cells = arrange(list_cells(self.lengths, self.depths, self.samples), count, seed)
        return [self._draw(cell, random.Random(f"kv/{seed}/{cell.name}")) for cell in cells]

    def _draw(self, cell: Cell, dice: random.Random) -> Question:
        first = take(draw_pairs(dice))
        wanted = first(1)[0]

        def compose(count: int) -> str:
            pairs = first(1 + count)[1:]
            pairs.insert(round((cell.depth_percent or 0) / 100 * count), wanted)
            return ask(pairs, wanted[0])

        question = self._write(cell.name, fill(compose, self.encode, cell.length_tokens), wanted[1])
        return replace(question, length_tokens=cell.length_tokens, depth_percent=cell.depth_percent)

    def _write(self, name: str, prompt: str, value: str) -> Question:
        return Question(
            name=f"{self.name}/{name}",
            messages=({"role": "user", "content": prompt},) if self.form == "chat" else (),
            text=prompt if self.form == "text" else "",
            reference=value,
            most_new_tokens=100 if self.form == "text" else None,
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return the last UUID after the thought."""
        found = _UUID.findall(drop_thought(reply).lower())
        return found[-1] if found else None

    def judge(self, question: Question, answer: str | None) -> float:
        """Return 1 for the key's value."""
        return float(answer == question.reference)


def draw_pairs(dice: random.Random) -> Iterator[tuple[str, str]]:
    """Yield pairs of UUIDs without end."""
    while True:
        key, value = (str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(2))
        yield key, value


def ask(pairs: Sequence[Sequence[str]], key: str) -> str:
    """Return the prompt: one pair a line, as JSON."""
    lines = [f"{json.dumps(str(k))}: {json.dumps(str(v))}" for k, v in pairs]
    return _PROMPT.format(pairs="{" + ",\n ".join(lines) + "}", key=key)
