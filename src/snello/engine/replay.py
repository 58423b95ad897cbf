"""Decode steps recorded once as CUDA graphs, then played: one launch, not hundreds.

Knows nothing of requests or sampling. Nothing between `begin` and `commit` of a memory may ask the
host: pages are handed out before, and kernels find all lengths on the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from snello.cache.dense import DenseMemory, DenseStep
from snello.cache.memory import Step
from snello.cache.paged import PagedMemory
from snello.cache.refill import is_single, refill, report
from snello.cache.sparse import SparseMemory, SparseStep
from snello.models.decoder import Decoder
from snello.models.stack import CompiledStack, can_stack

Compute = Callable[[], Tensor]
Record = Callable[[Compute], tuple[Callable[[], None], Tensor]]
"""Takes a computation down without doing it; returns what does it, and where its result will be."""


def record_graph(compute: Compute) -> tuple[Callable[[], None], Tensor]:
    """Record on a CUDA device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()
    return graph.replay, result


@dataclass(frozen=True, slots=True)
class Recording:
    """A step that can be played again, and the memory it was recorded on.

    Its tensors are what the recording reads: later steps are written over them.
    """

    tokens: Int[Tensor, " T"]
    step: DenseStep | SparseStep
    places: tuple[Tensor, ...]
    play: Callable[[], None]
    hidden: Float[Tensor, "T C"]


class Replayer:
    """A decoder whose decode steps are recorded, one recording for each number of sequences.

    The first step of a size is computed as ever, so that kernels are compiled outside of a
    recording; the second is recorded and played, later ones are played. When the memory moves, its
    recordings are void.
    """

    def __init__(
        self, decoder: Decoder, memory: DenseMemory | SparseMemory, record: Record
    ) -> None:
        self._decoder, self._memory, self._record = decoder, memory, record
        self._met: set[int] = set()
        self._recordings: dict[int, Recording] = {}

    def __call__(self, tokens: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T C"]:
        """Compute a step; what it returns is overwritten when the next one is computed."""
        assert isinstance(step, DenseStep | SparseStep), "this step was begun by no paged memory"
        size = len(tokens)
        if not is_single(step) or size not in self._met:
            self._met.update([size] if is_single(step) else [])
            hidden: Tensor = self._decoder(tokens, step)
            return hidden
        recording = self._find(tokens, step)
        recording.tokens.copy_(tokens)
        refill(recording.step, step)
        recording.play()
        report(recording.step, step)
        return recording.hidden

    def _find(self, tokens: Int[Tensor, " T"], step: DenseStep | SparseStep) -> Recording:
        size, places = len(tokens), self._memory.places
        known = self._recordings.get(size)
        if known is not None and all(map(_is, known.places, places)):
            return known
        play, hidden = self._record(lambda: self._decoder(tokens, step))
        self._recordings[size] = Recording(tokens, step, places, play, hidden)
        return self._recordings[size]


def _is(one: Tensor, other: Tensor) -> bool:
    return one is other


def can_record(decoder: Decoder, memory: DenseMemory | SparseMemory) -> bool:
    """Tell whether a decode step of these asks the host nothing on its way.

    Experts are called by how many tokens chose them, which the host must know.
    """
    return memory.backend == "triton" and decoder.config.experts is None


def choose_compute(decoder: Decoder, memory: PagedMemory) -> Callable[[Tensor, Step], Tensor]:
    """Recorded steps or one compiled call where that is possible, else the decoder as it is."""
    if not isinstance(memory, DenseMemory | SparseMemory):
        return decoder
    if memory.device.type == "cuda" and can_record(decoder, memory):
        return Replayer(decoder, memory, record_graph)
    return CompiledStack(decoder, memory) if can_stack(decoder, memory) else decoder
