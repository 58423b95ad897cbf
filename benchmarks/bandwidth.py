"""How fast can this machine read memory? `python -m benchmarks.bandwidth`.

Knows nothing of models: a buffer many times larger than the last-level cache is read once, by as
many threads as torch has.
"""

import time
from collections.abc import Callable

import torch

from snello.ops.huge import allocate_zeros
from snello.ops.native import load_library


class Bandwidth:
    """A buffer to be read between other measurements, so that both see the same machine.

    It lies on huge pages, as our weights do: from pages of 4 KiB a machine reads a fifth less.
    """

    def __init__(self, num_bytes: int = 2**30) -> None:
        self._buffer = allocate_zeros((num_bytes,), torch.uint8, torch.device("cpu")).fill_(1)
        self._read = _choose_reader()
        self.samples: list[float] = []
        """Bytes a second, one for each reading."""

    def measure(self) -> float:
        """Read once more; return bytes a second."""
        start = time.perf_counter()
        self._read(self._buffer)
        self.samples.append(self._buffer.nbytes / (time.perf_counter() - start))
        return self.samples[-1]

    def restart(self) -> None:
        """Forget earlier readings: neighbours on a shared machine come and go."""
        self.samples.clear()

    @property
    def median(self) -> float:
        """Bytes a second, the median of what was measured so far."""
        return sorted(self.samples)[len(self.samples) // 2]


def _choose_reader() -> Callable[[torch.Tensor], object]:
    """The library's own reader where it has one, else torch's sum, which is a little slower."""
    if load_library().is_loaded and hasattr(torch.ops.snello, "read_all"):
        return torch.ops.snello.read_all  # type: ignore[no-any-return]
    return torch.sum


if __name__ == "__main__":
    bandwidth = Bandwidth()
    for _ in range(10):
        print(f"{bandwidth.measure() / 1e9:6.2f} GB/s")
    print(f"{bandwidth.median / 1e9:6.2f} GB/s in the middle, {torch.get_num_threads()} threads")
