"""Whether kernels are there, and if not, why. Knows nothing of what is in them.

The library is built with the package (`setup.py`); its operators appear as `torch.ops.snello.*`.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch

Backend = Literal["cpu", "triton", "reference"]
"""`cpu`: the compiled kernels; `triton`: those for a GPU; `reference`: plain torch, anywhere."""

PAGE_DTYPES: dict[Backend, tuple[torch.dtype, ...]] = {
    "cpu": (torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn),
}
"""What the kernels of a backend read from pages; plain torch reads anything."""

WIDEST_KEY = 576
"""More numbers in a key or value do not fit the registers of a GPU's processor (it is MLA's)."""

FLOAT8_CAPABILITY = (8, 9)


class Library(NamedTuple):
    """The compiled kernels: there, or not for a reason."""

    is_loaded: bool
    reason: str | None


@cache
def load_library() -> Library:
    """Load the kernels, once; a library of another torch or machine is refused, not used."""
    found = sorted(Path(__file__).parent.glob("_cpu*.so"))
    if not found:
        return Library(False, "the package was built without a C++ compiler or without torch")
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        reason = str(error).splitlines()[0]
        return Library(False, f"the library of kernels does not load ({reason}); reinstall snello")
    if not torch.ops.snello.runs_here():
        return Library(False, "this processor has no AVX2 with FMA")
    return Library(True, None)


@cache
def find_triton() -> Library:
    """Tell whether kernels can be compiled for a GPU; they are, on first use."""
    if find_spec("triton") is None:
        return Library(False, "triton is not installed; it comes with torch for CUDA")
    return Library(True, None)


def choose_backend(device: torch.device) -> Backend:
    """The fastest backend for a device; called when an engine is built."""
    if device.type == "cuda" and find_triton().is_loaded:
        return "triton"
    return "cpu" if device.type == "cpu" and load_library().is_loaded else "reference"


def explain_refusal(
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    widest: int,
    survivors: torch.dtype | None = None,
) -> str | None:
    """Say why a backend cannot serve pages of a dtype with keys so wide; None if it can.

    `survivors` is the format of pages that are stored narrower than that.
    """
    if backend == "reference":
        return None
    library = load_library() if backend == "cpu" else find_triton()
    if not library.is_loaded:
        return library.reason
    if dtype not in PAGE_DTYPES[backend]:
        served = ", ".join(str(known).removeprefix("torch.") for known in PAGE_DTYPES[backend])
        return f"its kernels read {served}, not {str(dtype).removeprefix('torch.')}"
    if backend == "triton":
        return _explain_gpu(device, survivors or dtype, widest)
    return None if device.type == "cpu" else f"its kernels do not run on device {device}"


def _explain_gpu(device: torch.device, dtype: torch.dtype, widest: int) -> str | None:
    if widest > WIDEST_KEY:
        return f"its kernels read keys of at most {WIDEST_KEY} numbers, not {widest}"
    if device.type != "cuda":  # Triton imitates a GPU if tests asked for it before importing it
        is_interpreted = import_module("triton").knobs.runtime.interpret
        return None if is_interpreted else f"its kernels do not run on device {device}"
    capability = torch.cuda.get_device_capability(device)
    is_float8 = dtype.itemsize == 1 and dtype.is_floating_point
    if is_float8 and capability < FLOAT8_CAPABILITY:
        return f"float8 needs a device of capability {FLOAT8_CAPABILITY}, this one has {capability}"
    return None
