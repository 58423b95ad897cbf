"""What every question about a processor's kernels is told. Knows nothing of kernels or models."""

from dataclasses import dataclass

import torch

from benchmarks.record import Place
from snello.ops.native import load_library


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSetting(Place):
    """The common part of all questions about kernels."""

    cores: int = 2
    """How many processor threads everybody may use."""

    repeats: int = 7
    """Rounds of turns."""

    def prepare(self) -> None:
        """Set how many threads torch has, and fix its dice.

        Raises:
            SystemExit: there are no kernels.
        """
        if not load_library().is_loaded:
            raise SystemExit(f"no kernels: {load_library().reason}")
        torch.set_num_threads(self.cores)
        torch.manual_seed(0)
