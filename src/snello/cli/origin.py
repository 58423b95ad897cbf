"""How a result came about: command, code and machine. Knows nothing of what the result is."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from snello import __version__


def describe_origin(*, seed: int) -> dict[str, str]:
    """Return what is needed to make the same result again, as names and values."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": str(seed),
        "snello": __version__,
        "commit": find_commit(Path(__file__).parent),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def find_commit(folder: Path) -> str:
    """Return the commit of the checkout that a folder lies in, and whether files have changed."""
    try:
        commit = _ask_git(folder, "rev-parse", "HEAD")
        changes = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown: not a git checkout"
    return f"{commit} and changes since" if changes else commit


def _ask_git(folder: Path, *words: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
    )
    return ran.stdout.strip()
