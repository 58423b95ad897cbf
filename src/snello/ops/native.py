"""Whether the library of CPU kernels is there, and if not, why. Knows nothing of what is in it.

The library is built with the package (`setup.py`); its operators appear as `torch.ops.snello.*`.
"""

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

Backend = Literal["cpu", "reference"]
"""`cpu`: the compiled kernels; `reference`: plain torch, on any device."""


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


def choose_backend(device: torch.device) -> Backend:
    """The fastest backend for a device; called when an engine is built."""
    return "cpu" if device.type == "cpu" and load_library().is_loaded else "reference"
