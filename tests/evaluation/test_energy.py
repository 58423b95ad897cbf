"""Joules from a made-up powercap folder: added up, across a turn of the counter, or not told."""

import sys
from types import SimpleNamespace

import pytest
import torch

from snello.evaluation import energy
from snello.evaluation.energy import EnergyMeter, find_zones, open_counters, read_gpu_mj


def add_zone(powercap, zone, name, energy_uj, range_uj=1_000_000_000):
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path):
    folder = tmp_path / "powercap"
    add_zone(folder, "intel-rapl:0", "package-0", 5_000_000)
    add_zone(folder, "intel-rapl:0:0", "core", 3_000_000)
    add_zone(folder, "intel-rapl:0:1", "dram", 1_000_000)
    add_zone(folder, "intel-rapl:1", "psys", 9_000_000)
    add_zone(folder, "intel-rapl-mmio:0", "package-0", 5_000_000)
    return folder


def test_packages_and_memory_are_added_and_nothing_twice(powercap):
    assert [zone.name for zone in find_zones(powercap)] == ["intel-rapl:0", "intel-rapl:0:1"]
    with EnergyMeter(powercap) as meter:
        (powercap / "intel-rapl:0" / "energy_uj").write_text("12000000\n")
        (powercap / "intel-rapl:0:0" / "energy_uj").write_text("8000000\n")
        (powercap / "intel-rapl:0:1" / "energy_uj").write_text("1500000\n")
    assert meter.joules.cpu == pytest.approx(7.5)


def test_a_counter_that_starts_anew_goes_on(powercap):
    counter = powercap / "intel-rapl:0" / "energy_uj"
    counter.write_text("999000000\n")
    with EnergyMeter(powercap) as meter:
        counter.write_text("2000000\n")
    assert meter.joules.cpu == pytest.approx(3.0)


def test_a_long_run_is_looked_at_now_and_then(powercap):
    """Two whole turns, each seen because the counter was read in between."""
    counters = open_counters(powercap)
    (counter,) = (c for c in counters if c.path.name == "intel-rapl:0")
    for seen in ("900000000", "100000000", "900000000", "100000000"):
        (counter.path / "energy_uj").write_text(seen)
        counter.look()
    assert counter.total_uj == 895_000_000 + 2 * 200_000_000 + 800_000_000


def test_the_watch_looks_by_itself(powercap, monkeypatch):
    seen = []
    look = energy.Counter.look
    monkeypatch.setattr(energy.Counter, "look", lambda self: (seen.append(1), look(self)))
    with EnergyMeter(powercap, look_s=0.001) as meter:
        while len(seen) < 6:
            assert meter._watch.is_alive()
    assert meter.joules.cpu == 0.0


@pytest.mark.parametrize("missing", ["energy_uj", "max_energy_range_uj", "name"])
def test_what_cannot_be_read_is_not_guessed(powercap, missing):
    (powercap / "intel-rapl:0:1" / missing).unlink()
    with EnergyMeter(powercap) as meter:
        pass
    assert meter.joules.cpu is None


def test_a_counter_that_fails_on_the_way_tells_nothing(powercap):
    with EnergyMeter(powercap) as meter:
        (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules.cpu is None


def test_without_counters_there_are_no_joules(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with EnergyMeter(tmp_path) as meter:
        pass
    assert (meter.joules.cpu, meter.joules.gpu) == (None, None)


class RefusalError(Exception):
    pass


@pytest.mark.parametrize(("has_counter", "expected"), [(True, 1700), (False, None)])
def test_gpus_are_found_by_their_names(monkeypatch, has_counter, expected):
    """Of three GPUs the process sees two, in another order than the driver."""
    used = {"GPU-a": 200, "GPU-b": 4000, "GPU-c": 1500}

    def read(handle):
        if not has_counter:
            raise RefusalError
        return used[handle]

    fake = SimpleNamespace(
        NVMLError=RefusalError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen = [SimpleNamespace(uuid="c"), SimpleNamespace(uuid="a")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: seen[place])
    assert read_gpu_mj() == expected
