"""LiveCodeBench, code generation: contest problems, judged by public and private tests.

Knows nothing of how code is kept from doing harm. Source: Jain et al., arXiv:2403.07974, and the
benchmark's own code for prompts, packing of tests and comparison of outputs.
"""

import base64
import binascii
import io
import json
import pickle
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

from snello.evaluation.answers import drop_thought
from snello.evaluation.rows import Row, arrange, load_rows
from snello.evaluation.sandbox import Limits, run_python
from snello.evaluation.task import Question
from snello.evaluation.tasks.programs import find_program, is_same_output

HUB_FOLDER = "hf://datasets/livecodebench/code_generation_lite"
_FIELDS = {
    name: (name,)
    for name in (
        "question_id",
        "contest_date",
        "question_content",
        "starter_code",
        "public_test_cases",
        "private_test_cases",
        "metadata",
    )
}
_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) "
    "and will generate a correct Python program that matches the specification and passes all "
    "tests."
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose "
    "your code within delimiters."
)
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
_BEFORE = """
import bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator
import random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
sys.setrecursionlimit(50000)
"""
"""What contest sites offer without being asked; starter code uses names such as `List`."""

_CALL = """
def _answer_call():
    import json, os, sys
    arguments = [json.loads(line) for line in sys.stdin.read().split("\\n")]
    owner = Solution() if "Solution" in globals() else None
    call = getattr(owner, {name!r}) if owner is not None else globals()[{name!r}]
    os.write(1, ("\\n" + {sign!r} + json.dumps(call(*arguments))).encode())
_answer_call()
"""


class Case(NamedTuple):
    """One input with the output that is wanted."""

    input: str
    output: str
    kind: Literal["stdin", "functional"]


class Trial(NamedTuple):
    """All tests of a problem."""

    cases: tuple[Case, ...]
    function: str | None
    """The function that `functional` tests call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCodeBench:
    """Contest problems; a program passes if every test does."""

    name: str = "livecodebench"
    source: str = f"{HUB_FOLDER}/test6.jsonl"
    """A release's file; the benchmark's versions are `test.jsonl`, `test2.jsonl` and so on."""

    since: str | None = None
    """The first day whose contests count, such as `2024-08-01`: problems that are older than a
    model's training data do not tell much."""

    before: str | None = None
    """The first day whose contests do not count any more."""

    wall_s: float = 6.0
    """For each test, as in the benchmark."""

    unprotected: bool = False
    """Run code even where the system cannot lock it down."""

    def pose(self, count: int | None, seed: int) -> Sequence[Question]:
        """Return the problems.

        Raises:
            ValueError: rows that cannot be had or lack a column, tests that cannot be unpacked,
                days that are none, or too large a count.
        """
        rows = [row for row in load_rows(self.source, _FIELDS) if self._counts(row)]
        return arrange([self._ask(row) for row in rows], count, seed)

    def _counts(self, row: Row) -> bool:
        day = read_day(str(row["contest_date"]))
        is_late = self.since is None or day >= read_day(self.since)
        return is_late and (self.before is None or day < read_day(self.before))

    def _ask(self, row: Row) -> Question:
        starter = str(row["starter_code"])
        how = (
            f"{_WITH_STARTER}\n```python\n{starter}\n```"
            if starter
            else (f"{_WITHOUT_STARTER}\n```python\n# YOUR CODE HERE\n```")
        )
        content = (
            f"### Question:\n{row['question_content']}\n\n### Format: {how}\n\n"
            "### Answer: (use the provided format with backticks)\n\n"
        )
        return Question(
            name=f"{self.name}/{row['question_id']}",
            messages=(
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": content},
            ),
            reference=gather_tests(row),
        )

    def read(self, question: Question, reply: str) -> str | None:  # noqa: ARG002
        """Return the last fenced program after the thought."""
        return find_program(drop_thought(reply))

    def judge(self, question: Question, answer: str | None) -> float:
        """Run the program on every test, until one fails.

        Raises:
            ValueError: the system cannot lock it down.
        """
        if answer is None:
            return 0.0
        tests: Trial = question.reference
        return float(all(self._passes(answer, test, tests.function) for test in tests.cases))

    def _passes(self, program: str, test: Case, function: str | None) -> bool:
        source, sign = f"{_BEFORE}\n{program}\n", ""
        if test.kind == "functional":
            sign = secrets.token_hex(16)
            source += _CALL.format(name=function, sign=sign)
        limits = Limits(wall_s=self.wall_s, memory_bytes=4 * 2**30)
        outcome = run_python(source, stdin=test.input, limits=limits, unprotected=self.unprotected)
        written = outcome.output.decode("utf-8", "replace")
        if outcome.status != "done":
            return False
        if test.kind == "stdin":
            return is_same_output(test.output, written)
        return _reads_as(written.partition(sign)[2], test.output)


def read_day(text: str) -> date:
    """Read a day, or the day of a time, as in `2024-08-01` and `2024-08-03T00:00:00`.

    Raises:
        ValueError: it is neither.
    """
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise ValueError(f"{text!r} is no day; write it as 2024-08-01.") from None


def gather_tests(row: Row) -> Trial:
    """Return a row's tests, the public ones first.

    Raises:
        ValueError: they are packed in another way, or there are none.
    """
    cases = [
        Case(str(case["input"]), str(case["output"]), case["testtype"])
        for column in ("public_test_cases", "private_test_cases")
        for case in unpack_tests(row[column], f"{row['question_id']}, {column}")
    ]
    if not cases:
        raise ValueError(f"{row['question_id']} has no tests; leave the row out.")
    metadata = json.loads(row["metadata"]) if isinstance(row["metadata"], str) else row["metadata"]
    return Trial(tuple(cases), metadata.get("func_name"))


def unpack_tests(packed: Any, where: str) -> list[dict[str, Any]]:
    """Return test cases from a list, from JSON, or from JSON in pickle in zlib in base64.

    The pickle may hold a text and nothing else.

    Raises:
        ValueError: none of these; the message starts with `where`.
    """
    if isinstance(packed, list):
        return packed
    try:
        if not str(packed).lstrip().startswith("["):
            packed = _TextUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
        cases: list[dict[str, Any]] = json.loads(packed)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, ValueError, TypeError) as error:
        raise ValueError(
            f"{where}: tests cannot be unpacked ({error}); give the rows as LiveCodeBench "
            "publishes them."
        ) from None
    return cases


def _reads_as(returned: str, wanted: str) -> bool:
    """Tell whether two texts are the same JSON; what is none, such as no answer, is nothing's."""
    try:
        return bool(json.loads(returned) == json.loads(wanted))
    except json.JSONDecodeError:
        return False


class _TextUnpickler(pickle.Unpickler):
    """Reads plain values: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}")
