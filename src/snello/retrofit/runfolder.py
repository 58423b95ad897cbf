"""What a run leaves on disk: its settings, its state, its log; each file whole or not at all.

Knows nothing of models or optimizers: state is a dictionary of tensors and numbers.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from snello.config.retrofit import RetrofitConfig
from snello.models.whole import write_whole

SETTINGS, STATE, LOG = "settings.json", "state.pt", "log.jsonl"
PARTIAL = ".partial"
"""Ends the names of hidden files that are added to, and so are worth keeping."""

FREE = ("out", "json", "device", "parallel", "log_every_steps", "save_every_steps")
"""Settings that may change between two starts of one run: they do not decide the result."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run. Invariant: `state.pt` is always a whole state, of the step it names."""

    path: Path

    def read_state(self) -> dict[str, Any] | None:
        """Return the last saved state, or None in a new run.

        Raises:
            ValueError: the state is damaged.
        """
        file = self.path / STATE
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise ValueError(
                f"{file} is damaged ({reason}); choose another --out and start anew."
            ) from None
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        buffer = io.BytesIO()  # torch's own file writer hides a full disk behind another error
        torch.save(state, buffer)
        write_whole(self.path / STATE, buffer.getbuffer())

    def append_log(self, row: dict[str, Any]) -> None:
        """Add one line to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def trim_log(self, step: int) -> None:
        """Drop what was logged after the state one resumes from: it will be logged again."""
        file = self.path / LOG
        if not file.exists():
            return
        rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = "".join(f"{row}\n" for row in rows if _step_of(row) <= step)
        write_whole(file, kept.encode())


def _step_of(row: str) -> float:
    """The step of a log line; a line that a kill cut short counts as of no step."""
    try:
        return float(json.loads(row)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def check_folder(config: RetrofitConfig) -> None:
    """Refuse a folder that holds something else, before any work.

    Raises:
        ValueError: another run's folder, a folder of something else, or a file.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must be a folder that is new, or a run's own.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / SETTINGS).exists():
        raise ValueError(f"{out} exists and is not the folder of a retrofit; choose another --out.")
    try:
        before = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{out / SETTINGS} is damaged; choose another --out.") from None
    now = describe(config)
    other = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if other:
        name = other[0]
        raise ValueError(
            f"{out} holds a run with {name} = {before.get(name)!r}, and this one has "
            f"{now[name]!r}; use the same settings to go on, or another --out."
        )


def open_folder(config: RetrofitConfig) -> RunFolder:
    """Make the run's folder, or open it to go on.

    Raises:
        ValueError: as `check_folder`.
        OSError: it cannot be written; nothing is left behind.
    """
    check_folder(config)
    folder = RunFolder(config.out)
    for path in config.out.rglob(".*"):
        if path.is_file() and not path.name.endswith(PARTIAL):
            path.unlink()  # what a killed process had not finished writing
    if not (config.out / SETTINGS).exists():
        text = json.dumps(describe(config), indent=1) + "\n"
        with removed_on_failure(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
            write_whole(config.out / SETTINGS, text.encode())
    return folder


def describe(config: RetrofitConfig) -> dict[str, Any]:
    """Return the settings as they stand in `settings.json`."""
    described: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return described


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """If the block fails, remove the folder again, where it is empty and was not there before."""
    existed = folder.exists()
    try:
        yield
    except BaseException:
        if not existed and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise
