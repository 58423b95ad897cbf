"""Joules of a run, from the counters of processors and GPUs. Knows nothing of what runs.

What the machine does not tell is None, never a guess. Counters tell of the whole machine: whatever
else runs on it is in their figures too.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
LOOK_S = 20.0
"""A processor's counter starts anew after a while: minutes at full power."""


@dataclass(frozen=True, slots=True)
class Joules:
    """What a run took; None for what the machine does not tell."""

    cpu: float | None
    """All packages, and memory where it has a counter of its own."""

    gpu: float | None
    """The GPUs that the process sees."""


@dataclass(slots=True)
class Counter:
    """One counter of microjoules that starts anew at `range_uj`.

    Invariant: `total_uj` counts from the first look, if looks are closer than one turn.
    """

    path: Path
    range_uj: int
    latest_uj: int
    total_uj: int = 0

    def look(self) -> None:
        """Add what was used since the last look.

        Raises:
            OSError: it cannot be read any more.
        """
        now = _read_count(self.path / "energy_uj")
        step = now - self.latest_uj
        self.total_uj += step if step >= 0 else step + self.range_uj
        self.latest_uj = now


@dataclass(slots=True, eq=False)
class EnergyMeter:
    """Reads counters for the time of a `with` block; `joules` is there when it has ended."""

    powercap: Path = POWERCAP
    look_s: float = LOOK_S
    joules: Joules = field(default=Joules(None, None), init=False)
    _counters: list[Counter] | None = field(default=None, init=False)
    _gpu_mj: int | None = field(default=None, init=False)
    _ended: threading.Event = field(default_factory=threading.Event, init=False)
    _watch: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> "EnergyMeter":
        self._ended.clear()
        self._counters = open_counters(self.powercap)
        self._gpu_mj = read_gpu_mj()
        if self._counters is not None:
            self._watch = threading.Thread(target=self._keep_looking, daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None
        self._look()
        gpu_mj, before = read_gpu_mj(), self._gpu_mj
        self.joules = Joules(
            cpu=None if self._counters is None else sum(c.total_uj for c in self._counters) / 1e6,
            gpu=None if gpu_mj is None or before is None else (gpu_mj - before) / 1e3,
        )

    def _keep_looking(self) -> None:
        while not self._ended.wait(self.look_s):
            self._look()

    def _look(self) -> None:
        """Read all counters; where one fails, nothing can be told any more."""
        try:
            for counter in self._counters or ():
                counter.look()
        except (OSError, ValueError):
            self._counters = None


def open_counters(powercap: Path) -> list[Counter] | None:
    """Return the counters of all packages and of memory beside them; None if one is not readable.

    Parts of a package (`core`, `uncore`) are in its own figure, and `psys` has packages in it.
    """
    try:
        found = [_open_counter(zone) for zone in find_zones(powercap)]
    except (OSError, ValueError):
        return None
    return found or None


def find_zones(powercap: Path) -> Iterator[Path]:
    """Yield the folders whose counters add up to processors and memory.

    Raises:
        OSError: a name cannot be read.
    """
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = (zone / "name").read_text().strip()
        if name.startswith("package") or name == "dram":
            yield zone


def _open_counter(zone: Path) -> Counter:
    return Counter(
        path=zone,
        range_uj=_read_count(zone / "max_energy_range_uj"),
        latest_uj=_read_count(zone / "energy_uj"),
    )


def _read_count(path: Path) -> int:
    return int(path.read_text())


def read_gpu_mj() -> int | None:
    """Return millijoules since the driver was loaded, of all GPUs that the process sees.

    None without a GPU, without the package `pynvml`, or if one of them does not tell.
    """
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        return sum(_read_one_gpu(pynvml, place) for place in range(torch.cuda.device_count()))
    except pynvml.NVMLError:
        return None


def _read_one_gpu(nvml: Any, place: int) -> int:
    """Find a GPU by its UUID: the process may see fewer of them than the driver, in another order.

    Raises:
        pynvml.NVMLError: there is no such counter.
    """
    uuid = f"GPU-{torch.cuda.get_device_properties(place).uuid}"
    return int(nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByUUID(uuid)))
