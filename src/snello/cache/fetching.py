"""Bringing pages from the host to the device, while the device computes something else.

Knows nothing of who reads them. On a CUDA device copies run on a stream of their own, from pinned
memory; elsewhere they are made at once.
Dims: B sequences of a group, K heads, M pages of each, N slots.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.store import PageStore
from snello.cache.table import PageTable


class Slots(NamedTuple):
    """What lies in the pages of some heads, page by page; EMPTY positions hold nothing."""

    keys: Float[Tensor, "B K N D"]
    values: Float[Tensor, "B K N E"]
    positions: Int[Tensor, "B K N"]

    def join(self, others: "Slots") -> "Slots":
        """Put the slots of the same heads' other pages behind these."""
        return Slots(*(torch.cat(both, dim=2) for both in zip(self, others, strict=True)))


@dataclass(frozen=True, slots=True)
class Fetched:
    """Pages that are coming, for each head of a group."""

    slots: Slots
    num_bytes: Int[Tensor, " B"]
    """What is moved for each sequence: keys, values and positions of its pages."""

    total_bytes: int

    done: torch.cuda.Event | None

    def wait(self) -> Slots:
        """Let what the device computes from now on wait until all is there."""
        if self.done is not None:
            torch.cuda.current_stream().wait_event(self.done)
        return self.slots


class Fetcher:
    """Copies of one store's pages, for whoever asks; knows not when they are let go."""

    def __init__(self, host: PageStore, table: PageTable, device: torch.device) -> None:
        self._host, self._table, self._device = host, table, device
        self._stream = open_stream(device)

    def start(self, layer: int, sequences: Int[Tensor, " B"], num_heads: int) -> Fetched:
        """Begin to copy all that a layer's heads hold with the host."""
        rows = self._table.rows(layer, sequences.cpu(), num_heads)
        pages = self._table.list_pages(rows)  # (B, K, M)
        slots = read_slots(self._host, pages)
        num_bytes = (pages != self._host.blank).sum((1, 2)) * measure_moved(self._host)
        moved, done = self._copy(slots)
        return Fetched(moved, num_bytes.to(self._device), int(num_bytes.sum()), done)

    def _copy(self, slots: Slots) -> tuple[Slots, torch.cuda.Event | None]:
        if self._stream is None:
            return Slots(*(part.to(self._device) for part in slots)), None
        with torch.cuda.stream(self._stream):
            moved = Slots(*(p.pin_memory().to(self._device, non_blocking=True) for p in slots))
            done = self._stream.record_event()
        for part in moved:
            part.record_stream(torch.cuda.current_stream(self._device))
        return moved, done


def read_slots(store: PageStore, pages: Int[Tensor, "B K M"]) -> Slots:
    """Copy out what lies in pages."""
    parts = store.keys, store.values, store.positions
    return Slots(*(part[pages].flatten(2, 3) for part in parts))


def measure_moved(store: PageStore) -> int:
    """Return the bytes of one page that travel: marks and scales do not."""
    parts = store.keys, store.values, store.positions
    return sum(part[0].numel() * part.itemsize for part in parts)


def open_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Open a stream beside the one that computes, where there are any."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
