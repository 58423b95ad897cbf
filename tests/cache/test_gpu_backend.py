"""Memories on the kernels for a GPU, imitated where there is none, against plain torch."""

import pytest
import torch

from snello.cache.dense import DenseMemory
from snello.cache.sparse import SparseMemory
from snello.config.model import CacheShape
from snello.policies import Learned
from tests.cache.driving import MIXED, Text, take_plan

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
COMMON = {"max_sequences": 3, "num_pages": 300, "page_tokens": 4}
PLAN = [[13, 9], [4, 0], *[[1, 1]] * 4]


def open_both(kind, device, **given):
    for backend in ("triton", "reference"):
        common = {**COMMON, "device": device, "backend": backend, **given}
        if kind == "dense":
            yield DenseMemory(MIXED, **common)
        else:
            common |= {"survivors": "same" if kind == "sparse" else kind}
            yield SparseMemory(MIXED, window_tokens=6, shift=1, policy=Learned(), **common)


@pytest.mark.parametrize("kind", ["dense", "sparse", "int8", "fp8", "int4"])
def test_a_memory_reads_and_keeps_what_the_reference_does(kind, device):
    texts = [Text(30, MIXED, seed=seed) for seed in (0, 7)]
    for text in texts:
        text.layers = [
            tuple(None if part is None else part.to(device) for part in layer)
            for layer in text.layers
        ]
    seen = []
    for memory in open_both(kind, device):
        handles, read = take_plan(memory, texts, PLAN)
        seen.append((read, [memory.portrait(h) for h in handles], memory.kv_reads(handles[0])))
        memory.check()
    (fast, *fast_state), (slow, *slow_state) = seen
    assert fast_state == slow_state
    for mine, theirs in zip(fast, slow, strict=True):
        for layer, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(layer, expected, rtol=1e-4, atol=1e-5)


def test_what_the_kernels_cannot_serve_is_refused_when_the_memory_is_built(device):
    with pytest.raises(ValueError, match=r"kernels read .*, not float64\. Leave the"):
        next(open_both("dense", device, dtype=torch.float64))


def test_what_the_fastest_cannot_serve_is_left_to_plain_torch(device):
    common = {**COMMON, "device": device, "dtype": torch.float64}
    assert DenseMemory(MIXED, **common).backend == "reference"


def test_keys_wider_than_a_processor_holds_are_refused_when_the_memory_is_built(device):
    wide = [CacheShape(num_heads=1, key_size=600, value_size=8)]
    with pytest.raises(ValueError, match="at most 576 numbers, not 600"):
        DenseMemory(wide, **COMMON, device=device, backend="triton")
