"""Runs a model's Python in a locked-down child process, and tells what came of it.

Knows nothing of tasks or of right and wrong. What locks the child down is in `jail`; this side
starts it, holds the clock, and cleans up.
"""

import io
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

SECONDS_TO_START = 30
READY = b"ready"
"""What the child reports when nothing is left but to become the program."""

NO_NAMESPACES = b"namespaces that it may not set up"
"""What it reports when the system gives namespaces by half, and it must be started without."""

_PACKAGES = Path(__file__).parents[3]
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from snello.evaluation.sandbox.jail import main; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a program may take."""

    wall_s: float = 10.0
    memory_bytes: int = 2 * 2**30
    """Address space of the one process that it is."""

    file_bytes: int = 16 * 2**20
    """Of each file that it writes, its output included."""

    folder_bytes: int = 64 * 2**20
    """Of all files in its folder together, where the system gives it a folder of its own."""

    num_open_files: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended, and what it wrote."""

    status: Literal["done", "failed", "timeout"]
    exit_code: int
    """0 when done; above 128: ended by the signal of that number less 128."""

    output: bytes
    errors: str
    """The last few lines that it wrote to stderr."""


def run_python(
    source: str,
    *,
    stdin: str = "",
    limits: Limits | None = None,
    unprotected: bool = False,
    namespaces: bool = True,
) -> Outcome:
    """Run a program: one process, no network, no writes outside an empty folder of its own.

    It reads the interpreter and its packages alone, sees none of this process's environment, and
    cannot start others, send signals, or go on after its time.

    Args:
        source: The program.
        stdin: What it reads.
        limits: How much it may take.
        unprotected: Run it even where the system cannot lock it down. Whatever protection there
            is, limits of time and memory included, still holds.
        namespaces: Also give it a network, mounts and process numbers of its own, where the
            system allows that; the other protection does not need them.

    Raises:
        ValueError: the system cannot lock it down, and `unprotected` is off; nothing has run.
    """
    if sys.platform != "linux":
        raise ValueError(f"a model's code is run on Linux alone, and this is {sys.platform}.")
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="snello-sandbox-") as name:
        folder = Path(name)
        (folder / "work").mkdir()
        (folder / "program.py").write_text(source, "utf-8", errors="surrogateescape")
        (folder / "stdin").write_text(stdin, "utf-8", errors="surrogateescape")
        settings = {
            **asdict(limits),
            "work": str(folder / "work"),
            "program": str(folder / "program.py"),
            "python": sys.executable,
            "readable": _list_readable(),
            "devices": _DEVICES,
            "unprotected": unprotected,
            "namespaces": namespaces,
        }
        exit_code, is_late = _run_jail(folder, settings, limits)
        status: Literal["done", "failed", "timeout"] = "failed" if exit_code else "done"
        return Outcome(
            status="timeout" if is_late else status,
            exit_code=exit_code,
            output=(folder / "stdout").read_bytes(),
            errors=_read_end(folder / "stderr"),
        )


def run_to_end(source: str, *, limits: Limits | None = None, unprotected: bool = False) -> bool:
    """Tell whether a program reaches its last line without an exception.

    Leaving early does not count, whatever the exit code: a line that nobody can guess is added at
    the end, and looked for.

    Raises:
        ValueError: as `run_python`.
    """
    sign = secrets.token_hex(16)
    signed = f"{source}\n\n__import__('os').write(1, b'\\n{sign}')\n"
    outcome = run_python(signed, limits=limits, unprotected=unprotected)
    return outcome.status == "done" and sign.encode() in outcome.output


def _list_readable() -> list[str]:
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    found = {*prefixes, *_SYSTEM_FOLDERS}
    return sorted(path for path in found if path != "/" and Path(path).exists())


def _run_jail(folder: Path, settings: dict[str, Any], limits: Limits) -> tuple[int, bool]:
    """Start the child, wait for it, and leave nothing of it behind.

    Returns the exit code, and whether it was ended for the time.
    """
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as report:
        try:
            child = _open_child(folder, {**settings, "report": writer}, writer)
        finally:
            os.close(writer)
        try:
            found = _read_report(report)
            if found == NO_NAMESPACES and settings["namespaces"]:
                return _run_jail(folder, {**settings, "namespaces": False}, limits)
            if found != READY:
                reason = found.removeprefix(READY).decode() or "the child process ended at once"
                raise ValueError(
                    f"a model's code was not run, because it could not be locked down: {reason}. "
                    "Run it on Linux 6.2 or newer, or accept the danger with `unprotected`."
                )
            code = child.wait(limits.wall_s)
            return code if code >= 0 else 128 - code, False
        except subprocess.TimeoutExpired:
            return 128 + signal.SIGKILL, True
        finally:
            _end(child)


def _read_report(report: io.FileIO) -> bytes:
    """Return all that the child reports, which ends when it becomes the program."""
    found, deadline = b"", time.monotonic() + SECONDS_TO_START
    while select.select([report], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = report.read(4096)
        if not piece:
            return found
        found += piece
    return b"the child process did not start in time"


def _open_child(folder: Path, settings: dict[str, Any], writer: int) -> "subprocess.Popen[bytes]":
    start = [sys.executable, "-I", "-S", "-B", "-c", _START, str(_PACKAGES), json.dumps(settings)]
    with (
        (folder / "stdin").open("rb") as stdin,
        (folder / "stdout").open("wb") as stdout,
        (folder / "stderr").open("wb") as stderr,
    ):
        return subprocess.Popen(
            start,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=folder / "work",
            env={},
            pass_fds=(writer,),
            start_new_session=True,
        )


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child's whole process group, and wait for it.

    Where it has process numbers of its own, all of them end with their first, which is in it.
    """
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def _read_end(path: Path, num_bytes: int = 2000) -> str:
    return path.read_bytes()[-num_bytes:].decode("utf-8", "replace")
