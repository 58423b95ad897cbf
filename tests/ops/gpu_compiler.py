"""Compile for a GPU, without one, every kernel that a call would launch.

Triton brings the whole way down to machine code. Only running needs a device. Must be imported
before any kernel, in a process without TRITON_INTERPRET.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

OPTIONS = ("num_warps", "num_stages")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


class Usage(NamedTuple):
    """What one compiled kernel takes of a processor."""

    name: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    assembly: str


class Recorder:
    """Stands in for a kernel: compiles where the kernel would run."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.capability = kernel, capability
        self.usages: list[Usage] = []

    def __getitem__(self, grid: Any) -> Any:
        return self._launch

    def _launch(self, *args: Any, **given: Any) -> None:
        options = {name: given.pop(name) for name in OPTIONS if name in given}
        named = dict(zip(self.kernel.arg_names, args, strict=False)) | given
        assert set(named) == set(self.kernel.arg_names), "an argument is missing or unknown"
        constants = {p.name for p in self.kernel.params if p.is_constexpr}
        signature, values, attributes = {}, {}, {}
        for index, (name, value) in enumerate((n, named[n]) for n in self.kernel.arg_names):
            signature[name] = "constexpr" if name in constants else describe(value)
            if name in constants:
                values[name] = value
            elif signature[name] != "fp32" and (torch.is_tensor(value) or value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, values, attributes)
        target = GPUTarget("cuda", self.capability, 32)
        compiled = triton.compile(source, target=target, options=options)
        self.usages.append(measure(compiled))


def describe(value: Any) -> str:
    """Name the type of an argument as Triton does."""
    if torch.is_tensor(value):
        return TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def measure(compiled: Any) -> Usage:
    """Read registers and spills out of the machine code."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = re.search(r"REG:(\d+)", text)
    stack = re.search(r"STACK:(\d+)", text)
    assert registers is not None, text
    assert stack is not None, text
    return Usage(
        compiled.metadata.name,
        int(registers[1]),
        int(stack[1]),
        compiled.metadata.shared,
        compiled.asm["ptx"],
    )
