"""Every kernel becomes machine code for the GPUs we name, without one, and keeps its registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
MOST_STACK_BYTES = {"append_to_heads": 0, "merge_parts": 0, "read_tiles": 16, "read_chunks": 768}
"""For each thread; more means that numbers go to memory and back within a loop."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_all_kernels_compile_without_spilling_registers(capability):
    """In a process of its own: here the interpreter stands where the compiler would."""
    command = [sys.executable, "-m", "tests.ops.gpu_compiler", str(capability)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert {row[1] for row in rows} == set(MOST_STACK_BYTES)
    assert all(int(row[3]) <= MOST_STACK_BYTES[row[1]] for row in rows), ran.stdout
