"""Compile for a GPU, without one, every kernel that a call would launch.

Triton brings the whole way down to machine code; only running needs a device. In a process without
TRITON_INTERPRET:

    python -m tests.ops.gpu_compiler 90    # compute capability: a line for each kernel, with its
                                           # registers, bytes of stack and of shared memory
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from snello.config.model import CacheShape, Horizon
from snello.ops.append import triton as append
from snello.ops.chunk_attend import triton as chunk
from snello.ops.narrow import INT4, SCALES
from snello.ops.page_attend import triton as page
from snello.ops.pages import (
    Fresh,
    Lists,
    Narrow,
    News,
    Slots,
    Tails,
    count_survivor_slots,
)

OPTIONS = ("num_warps", "num_stages")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
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


def compile_shape(
    shape: CacheShape,
    group: int,
    dtype: torch.dtype,
    store: torch.dtype,
    survivors: torch.dtype | None,
    capability: int,
) -> list[Usage]:
    """Compile what a decode step and a prefill of 32 sequences launch."""
    B, K, S, D = 32, shape.num_heads, 16, shape.key_size
    V = count_survivor_slots(S, store, survivors)
    narrow = None
    if survivors is not None:
        narrow = Narrow(torch.zeros(64, V, 2, dtype=SCALES[survivors]), survivors, 33)
    E = 0 if shape.value_in_key else shape.value_size
    slots = Slots(
        torch.zeros(64, S, D).to(store),
        torch.zeros(64, S, E).to(store),
        torch.zeros(64, V, dtype=torch.int32),
        torch.zeros(64, S, dtype=torch.bool),
    )
    lists = Lists(torch.zeros(B, K, 64, dtype=torch.int64), torch.zeros(B, K, dtype=torch.int64))
    tails = Tails(torch.zeros_like(lists.num_held), torch.zeros_like(lists.num_held))
    each = torch.zeros(B, dtype=torch.int64)
    news, marks = News(each, each, each), torch.zeros(B, K, dtype=torch.bool)
    k, v = torch.zeros(B, K, D, dtype=dtype), torch.zeros(B, K, E, dtype=dtype)
    q = torch.zeros(B, K * group, D, dtype=dtype)
    out = torch.zeros(B, K * group, shape.value_size, dtype=dtype)
    to = {"scale": 0.1, "out": out, "num_seen": each, "narrow": narrow}
    names = ((page, "read_tiles"), (page, "merge_parts"), (chunk, "read_chunks"))
    recorders = []
    for module, name in (*names, (append, "append_to_heads")):
        kernel = getattr(module, name)
        recorders.append(
            Recorder(kernel.kernel if isinstance(kernel, Recorder) else kernel, capability)
        )
        setattr(module, name, recorders[-1])
    page.attend_pages(q, news, slots, lists, shape, **to)
    for fresh in (Fresh(k, v, marks), None):
        chunk.attend_chunks(q, news, each, fresh, slots, lists, shape, 512, **to)
    append.append_token(k, v, marks, news, each, slots, lists, tails, shape, 513, narrow)
    return [usage for recorder in recorders for usage in recorder.usages]


def compile_all(capability: int) -> None:
    """Compile for shapes of known models; print a line for each kernel."""
    qwen = {"num_heads": 8, "key_size": 128, "value_size": 128}
    latent = CacheShape(num_heads=1, key_size=576, value_size=512, value_in_key=True)
    near = Horizon(kind="sliding", span_tokens=1024)
    half, whole, byte = torch.bfloat16, torch.float32, torch.float8_e4m3fn
    cases = [
        ("qwen3-8b", CacheShape(**qwen), 4, half, half, None),
        ("int8-survivors", CacheShape(**qwen), 4, half, half, torch.int8),
        ("int4-survivors", CacheShape(**qwen), 4, half, half, INT4),
        ("sliding", CacheShape(**qwen, horizon=near), 4, half, half, None),
        ("latent-16", latent, 16, half, half, None),
        ("latent-128", latent, 128, half, half, None),
        ("float32", CacheShape(**qwen), 4, whole, whole, None),
    ]
    if capability >= 89:
        cases.append(("float8", CacheShape(**qwen), 4, half, byte, None))
        cases.append(("float8-survivors", CacheShape(**qwen), 4, half, half, byte))
    for name, *given in cases:
        for usage in compile_shape(*given, capability):
            print(name, *usage[:4], " ".join(count_instructions(usage.assembly)), flush=True)


def count_instructions(assembly: str) -> list[str]:
    """How often the instructions occur that tell whether loads are wide and products fast."""
    pattern = r"(cp\.async\.c[ag]\S*|ld\.global\S*|ld\.local|st\.local|mma\.sync|wgmma\.mma_async)"
    return [f"{name}:{n}" for name, n in sorted(Counter(re.findall(pattern, assembly)).items())]


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
