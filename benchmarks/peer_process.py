"""A peer's process: of its own environment, asked and answering one line of JSON at a time.

Knows nothing of what is asked. `peers/serving.py` is the other end.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Self

RUNNERS = Path(__file__).parent / "peers"


class PeerProcess:
    """A running peer; it has said what it is, and waits for questions."""

    def __init__(self, label: str, python: Path, runner: str, words: list[Any]) -> None:
        """Start `peers/run_<runner>.py`, and wait until it has described itself.

        Raises:
            ValueError: its environment is not there.
            RuntimeError: it ended instead.
        """
        if not python.exists():
            raise ValueError(
                f"{label} needs {python}; run benchmarks/peers/install.sh "
                f"{python.parent.parent.parent}."
            )
        self._label = label
        command = [python, RUNNERS / f"run_{runner}.py", *words]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.description = self._read()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Put one question and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate("", timeout=60)

    def _read(self) -> dict[str, Any]:
        """Read the next answer; what else a peer prints to the same stream is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"peer":'):
                return dict(json.loads(line)["peer"])
        self._process.communicate()
        raise RuntimeError(f"{self._label} ended with code {self._process.returncode}; see above.")
