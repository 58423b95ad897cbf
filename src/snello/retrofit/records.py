"""What a data set holds: records read from files or from the hub, each checked where it stands.

Knows nothing of tokens. A record becomes an `Exchange`: messages, of which the last is the reply.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from snello.bundled import problems
from snello.config.retrofit import MixtureSettings

KNOWN_FIELDS = (
    "'messages', 'prompt' with 'response', 'problem' with 'generations' or 'solution', 'text', "
    "or 'prompt_ids' with 'reply_ids'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One document before tokens: a conversation, plain text, or ids that a model wrote."""

    messages: tuple[dict[str, str], ...] = ()
    text: str = ""
    prompt_ids: tuple[int, ...] = ()
    reply_ids: tuple[int, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Exchanges by number; `size` is None where they never end."""

    @property
    def size(self) -> int | None:
        """How many there are."""

    def exchange(self, index: int) -> Exchange:
        """Return the exchange of that number."""


@dataclass(frozen=True, slots=True)
class ListedSource:
    """Exchanges in memory or behind random access; `keep` lists the usable ones."""

    records: Sequence[Any]
    keep: Sequence[int]
    name: str

    @property
    def size(self) -> int | None:
        """How many are usable."""
        return len(self.keep)

    def exchange(self, index: int) -> Exchange:
        """Read the usable record of that number."""
        number = self.keep[index]
        return _require(read_record(self.records[number], f"{self.name}, record {number + 1}"))


@dataclass(frozen=True, slots=True)
class BundledSource:
    """Fresh problems without end; the number is the seed."""

    mixture: MixtureSettings

    @property
    def size(self) -> int | None:
        """Without end."""
        return None

    def exchange(self, index: int) -> Exchange:
        """Pose the problem of that number, with the reply that solves it."""
        kinds, levels = self.mixture.kinds, self.mixture.levels
        problem = problems.pose(
            kinds[index % len(kinds)],  # type: ignore[arg-type]  # pose names the known kinds
            level=levels[(index // len(kinds)) % len(levels)],
            seed=self.mixture.first_seed + index,
        )
        reply = {"role": "assistant", "content": f"<think>{problem.reply}"}
        return Exchange(messages=(*problem.messages, reply))


def open_source(data: str, mixture: MixtureSettings) -> Source:
    """Open a .jsonl or .parquet file, a hub data set, or the endless problems `bundled`.

    Raises:
        ValueError: nothing there, nothing in it, or a record that cannot be read (with its line).
    """
    if data == "bundled":
        return _open_bundled(mixture)
    path = Path(data)
    if path.suffix == ".jsonl":
        return _listed(list(_read_jsonl(path)), data, numbered="line")
    if path.suffix == ".parquet":
        return _listed(_read_parquet(path), data, numbered="row")
    if path.exists():
        raise ValueError(
            f"the data file {data} is neither .jsonl nor .parquet; convert it, or rename it."
        )
    return _listed(_read_hub(data), data, numbered="row")


def _open_bundled(mixture: MixtureSettings) -> BundledSource:
    for name, chosen, known in (
        ("kinds", mixture.kinds, problems.KINDS),
        ("levels", mixture.levels, problems.LEVELS),
    ):
        unknown = [value for value in chosen if value not in known]
        if unknown:
            raise ValueError(
                f"MixtureSettings.{name} has {unknown[0]!r}; known: {', '.join(map(str, known))}."
            )
    source = BundledSource(mixture)
    for index in range(len(mixture.kinds)):  # a kind may need a package that is not installed
        source.exchange(index)
    return source


def read_record(record: Any, where: str) -> Exchange | None:
    """Turn one record into an exchange; None where all its generations were judged wrong.

    Raises:
        ValueError: no known field, or a field of another type; the message starts with `where`.
    """
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise ValueError(f"{where}: a record is {kind}; it must be an object.")  # noqa: TRY004
    if record.get("prompt_ids") is not None:
        return Exchange(
            prompt_ids=_ids(record.get("prompt_ids"), f"{where}: prompt_ids"),
            reply_ids=_ids(record.get("reply_ids"), f"{where}: reply_ids"),
        )
    if record.get("problem") is not None:
        return _read_problem(record, where)
    if record.get("messages") is not None:
        return Exchange(messages=_messages(record["messages"], f"{where}: messages"))
    if record.get("prompt") is not None:
        return _read_prompt(record, where)
    if record.get("text") is not None:
        return Exchange(text=_text(record["text"], f"{where}: text"))
    fields = ", ".join(map(repr, record)) or "nothing"
    raise ValueError(f"{where}: the record has {fields}; it needs {KNOWN_FIELDS}.")


def _read_problem(record: dict[str, Any], where: str) -> Exchange | None:
    """OpenR1 style: the first generation judged correct, or the only one there is."""
    question = {"role": "user", "content": _text(record["problem"], f"{where}: problem")}
    answers = record.get("generations")
    if answers is None:
        answers = [record.get("generation") or record.get("solution")]
    verdicts = record.get("correctness_math_verify") or [True] * len(answers)
    right = [answer for answer, verdict in zip(answers, verdicts, strict=False) if verdict]
    if not right:
        return None
    reply = {"role": "assistant", "content": _text(right[0], f"{where}: generations")}
    return Exchange(messages=(question, reply))


def _read_prompt(record: dict[str, Any], where: str) -> Exchange:
    prompt = record["prompt"]
    asked = (
        ({"role": "user", "content": prompt},)
        if isinstance(prompt, str)
        else _messages(prompt, f"{where}: prompt")
    )
    response = record.get("response", record.get("completion"))
    if response is None:
        return Exchange(messages=asked)
    reply = {"role": "assistant", "content": _text(response, f"{where}: response")}
    return Exchange(messages=(*asked, reply))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is {str(value)[:40]!r}; it must be text that is not empty.")
    return value


def _ids(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(i, int) and i >= 0 for i in value):
        raise ValueError(f"{where} is {str(value)[:40]!r}; it must be a list of token ids.")
    return tuple(value)


def _messages(value: Any, where: str) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is {str(value)[:40]!r}; it must be a list of messages.")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f"{where} holds {str(message)[:40]!r}; it needs role and content.")
    return tuple({"role": str(m["role"]), "content": _text(m["content"], where)} for m in value)


def _require(exchange: Exchange | None) -> Exchange:
    assert exchange is not None, "only usable records are listed"
    return exchange


def _listed(records: Sequence[Any], name: str, *, numbered: str) -> ListedSource:
    """Check every record once, so that a bad one is told of before any work."""
    keep = [
        number
        for number, record in enumerate(records)
        if read_record(record, f"{name}, {numbered} {number + 1}") is not None
    ]
    if not keep:
        raise ValueError(
            f"the data {name} holds no record to train on; give one with {KNOWN_FIELDS}."
        )
    return ListedSource(records, keep, name)


def _read_jsonl(path: Path) -> Iterator[Any]:
    """Yield one record for each line; a blank line is as bad as any other that is not JSON."""
    if not path.is_file():
        raise ValueError(f"there is no data file {path}; give a .jsonl, a .parquet or a hub name.")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not a JSON object ({error}); mend or remove the line."
                ) from None


def _read_parquet(path: Path) -> list[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise ValueError(
            "reading .parquet needs the package pyarrow; pip install 'snello[retrofit]'."
        ) from None
    if not path.is_file():
        raise ValueError(f"there is no data file {path}; give a .jsonl, a .parquet or a hub name.")
    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole parquet file ({reason}).") from None
    return rows


def _read_hub(name: str) -> Sequence[Any]:
    """Load the training split of a hub data set."""
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ValueError(
            f"{name} is no file, and hub data sets need the package datasets; "
            "pip install 'snello[retrofit]', or give a .jsonl or .parquet file."
        ) from None
    try:
        loaded: Sequence[Any] = load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ValueError(
            f"{name} is no file, and the hub did not give a data set of that name ({reason}); "
            "check the name and the network, or give a .jsonl or .parquet file."
        ) from None
    return loaded
