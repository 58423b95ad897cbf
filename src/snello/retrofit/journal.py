"""What is said of a run while it goes: the progress bar, the log file, TensorBoard.

Knows nothing of models. Only the first process speaks.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from snello.config.retrofit import RetrofitConfig
from snello.retrofit.board import Board
from snello.retrofit.processes import Processes
from snello.retrofit.runfolder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one step measured, over all processes."""

    step: int
    """Steps done, this one included."""

    loss: float
    kl: float
    compression: float
    factor: float
    """What the ramp asks for at this step."""

    target: float
    kept_fraction: float
    """Share of decisions, noise included, that keep."""

    measured_factor: float
    """Dense over live tokens at the documents' ends, window included, without noise."""

    gradient_norm: float
    learning_rate: float
    num_tokens: int
    seconds: float = 0.0
    stops: bool = False


class Journal:
    """Keeps the log of one start of a run, inside its block."""

    def __init__(
        self,
        folder: RunFolder,
        config: RetrofitConfig,
        processes: Processes,
        on_row: Callable[[Row], None] | None,
        *,
        step: int,
    ) -> None:
        self._folder, self._config, self._on_row = folder, config, on_row
        self._speaks = processes.is_first
        self._step = step
        self._stack = ExitStack()
        self._progress: Progress | None = None
        self._board: Board | None = None
        self._task: Any = None

    def __enter__(self) -> "Journal":
        if self._speaks:
            self._board = _open_board(self._folder, self._step)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            figures = (TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
            console = Console(stderr=True)
            self._progress = self._stack.enter_context(
                Progress(*columns, *figures, console=console, disable=not console.is_terminal)
            )
            self._task = self._progress.add_task(
                "retrofit", total=self._config.steps, completed=self._step, figures=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._board is not None:
            self._board.close()

    def add(self, row: Row) -> None:
        """Show a step's row; write it down when it is due."""
        if self._progress is None:
            return
        figures = (
            f"loss {row.loss:.4f} kl {row.kl:.4f} kept {row.kept_fraction:.3f} of "
            f"{1 - row.target:.3f} factor {row.measured_factor:.2f}"
        )
        self._progress.update(self._task, completed=row.step, figures=figures)
        due = row.step % self._config.log_every_steps == 0
        if due or row.step in (1, self._config.steps):
            self._write(row)

    def _write(self, row: Row) -> None:
        figures = {name: value for name, value in asdict(row).items() if name != "stops"}
        self._folder.append_log(figures)
        if self._board is not None:
            tagged = {f"retrofit/{name}": float(value) for name, value in figures.items()}
            self._board.add(tagged, row.step)
        if self._on_row is not None:
            self._on_row(row)


def _open_board(folder: RunFolder, step: int) -> Board | None:
    """Open the TensorBoard log; None where tensorboard is not installed (log.jsonl has it all)."""
    try:
        return Board(folder.path / "tensorboard", step=step)
    except ModuleNotFoundError:
        return None
