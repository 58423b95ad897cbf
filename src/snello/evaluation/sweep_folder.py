"""What a sweep leaves on disk while it runs: settings, sessions, and a line for each chain.

Knows nothing of models or of what lines mean together. A sweep can be killed at any moment:
    manifest.json     the settings, written first and never changed
    sessions.jsonl    one line for each start: command, commit, versions; one more when it ends well
    records.jsonl     one line for each finished chain, flushed at once; a torn last line is dropped
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from snello.evaluation.record import Key, Record, read_line, write_line
from snello.models.whole import write_whole

MANIFEST, SESSIONS, RECORDS = "manifest.json", "sessions.jsonl", "records.jsonl"
VERSION = 2


class SweepFolder:
    """Records that are safe once `append` has returned.

    Invariant: every line of `records.jsonl` but the last is whole, and no key stands there twice.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open a new folder, or go on in one that was begun with the same settings.

        Raises:
            ValueError: it was begun with other settings, or holds something else.
            OSError: it cannot be written.
        """
        self.path = path
        wanted = json.loads(json.dumps({"version": VERSION, **settings}))
        if (path / MANIFEST).exists():
            check_same(path, read_manifest(path), wanted)
        else:
            check_unused(path)
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / MANIFEST, (json.dumps(wanted, indent=1) + "\n").encode())
        drop_torn_line(path / RECORDS)
        drop_torn_line(path / SESSIONS)
        self.records: dict[Key, Record] = {
            record.key: record for record in map(read_line, read_lines(path / RECORDS))
        }
        self.sessions = [json.loads(line) for line in read_lines(path / SESSIONS)]

    @property
    def session(self) -> int:
        """The number of the latest start."""
        return sum(1 for line in self.sessions if line["event"] == "start") - 1

    @contextmanager
    def start(self, origin: Mapping[str, Any]) -> Iterator["Session"]:
        """Note a start, and keep the records open for the time of the block."""
        begun = {"event": "start", "session": self.session + 1, **origin}
        with (
            open(self.path / SESSIONS, "a", encoding="utf-8") as sessions,
            open(self.path / RECORDS, "a", encoding="utf-8") as records,
        ):
            session = Session(self, sessions, records)
            session.note(begun)
            yield session


class Session:
    """One start of a sweep, while it runs."""

    def __init__(self, folder: SweepFolder, sessions: IO[str], records: IO[str]) -> None:
        self._folder, self._sessions, self._records = folder, sessions, records

    @property
    def number(self) -> int:
        """Counts starts from 0."""
        return self._folder.session

    def append(self, record: Record) -> None:
        """Write one chain down; it survives the death of the process from here on.

        Raises:
            ValueError: the chain is there already.
        """
        if record.key in self._folder.records:
            raise ValueError(f"{record.key} was recorded before; each chain is computed once.")
        _write(self._records, write_line(record))
        self._folder.records[record.key] = record

    def note(self, event: Mapping[str, Any]) -> None:
        """Write one line about the session itself."""
        _write(self._sessions, json.dumps(event))
        self._folder.sessions.append(dict(event))


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the settings that a folder was begun with.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        settings: dict[str, Any] = json.loads((path / MANIFEST).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path / MANIFEST} cannot be read ({error}); begin elsewhere.") from None
    return settings


def check_same(path: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to mix settings.

    Raises:
        ValueError: they differ; it names the first that does.
    """
    for name in (*wanted, *begun):
        if begun.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} was begun with {name} {json.dumps(begun.get(name))}, and now it is "
                f"{json.dumps(wanted.get(name))}; repeat the first command to go on, or give "
                "--out another folder."
            )


def check_unused(path: Path) -> None:
    """Refuse a folder that holds something that is not a sweep.

    Raises:
        ValueError: it does, or it is a file.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; --out must name a folder.")
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise ValueError(
            f"{path} holds something that is not a sweep; --out must name a new or empty folder, "
            "or one that an earlier start of the same sweep left."
        )


def drop_torn_line(path: Path) -> None:
    """Cut what a killed process left of its last line: all behind the last line's end."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none where there is no file."""
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _write(file: IO[str], line: str) -> None:
    file.write(line + "\n")
    file.flush()
