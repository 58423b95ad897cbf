"""Figures for TensorBoard, written at once and in this thread: a full disk is told of where it is.

Knows nothing of what the figures mean.
"""

import os
import time
from pathlib import Path
from typing import Any


class Board:
    """One event file. Invariant: what `add` was given is on disk when it returns."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Begin a file; what earlier files say of steps after `step` no longer counts.

        Raises:
            ModuleNotFoundError: tensorboard is not installed.
            OSError: the disk is full.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:
            self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, figures: dict[str, float], step: int) -> None:
        """Write down the figures of one step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(figure)) for name, figure in figures.items()
        ]
        self._write(step=step, summary=Summary(value=values))

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
