"""Append and retire: the kernel against the reference, step after step, and on paper."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.append import resolve
from snello.ops.native import load_library
from snello.ops.pages import Lists, News, Slots, Tails
from tests.ops.paging import EMPTY

pytestmark = pytest.mark.usefixtures("isa")
compiled = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
BACKENDS = ["reference", "cpu"] if load_library().is_loaded else ["reference"]


class Heads:
    """B sequences of K heads on pages 0, 1, 2 ..., each with a full ring of pages and no more."""

    def __init__(self, backend, B, shape, ring_tokens, *, S=4, dtype=torch.float32):
        self.append, self.shape, self.ring_tokens, self.S = resolve(backend), shape, ring_tokens, S
        ring_pages, K, num_pages = -(-ring_tokens // S), shape.num_heads, 200
        width = 0 if shape.value_in_key else shape.value_size
        self.slots = Slots(
            torch.zeros(num_pages, S, shape.key_size + 1, dtype=dtype),
            torch.zeros(num_pages, S, width, dtype=dtype),
            torch.full((num_pages, S), EMPTY, dtype=torch.int32),
            torch.zeros(num_pages, S, dtype=torch.bool),
        )
        pages = torch.full((B, K, 24), num_pages - 1)
        pages[..., :ring_pages] = torch.arange(B * K * ring_pages).view(B, K, ring_pages)
        self.lists = Lists(pages, torch.full((B, K), ring_pages))
        self.tails = Tails(torch.zeros(B, K, dtype=torch.int64), torch.full((B, K), -1))
        self.next_page = B * K * ring_pages

    def step(self, sequences, positions, k, v, marks, *, shift=1):
        is_full = self.tails.num_survivors % self.S == 0
        fresh = torch.arange(is_full.numel()).view(is_full.shape) + self.next_page
        self.tails.spare[:] = fresh.where(is_full, -1)
        rows = torch.arange(len(sequences)).flip(0)
        news = News(rows, positions, sequences)
        given = k, v, marks, news, positions - shift, self.slots, self.lists, self.tails
        self.append(*given, self.shape, self.ring_tokens)
        self.next_page = int(self.lists.pages.where(self.lists.pages < 199, 0).max()) + 1
        self.tails.spare[:] = -1

    def everything(self):
        return [*self.slots, *self.lists, self.tails.num_survivors]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ring_of_two_on_paper(backend):
    """Row 2 marks token 1, row 4 marks 3. After 5: 4 and 5 in the ring, 0 and 2 survived."""
    heads = Heads(backend, 1, CacheShape(num_heads=1, key_size=1, value_size=1), 2, S=2)
    for position in range(6):
        number = torch.full((1, 1, 1), float(position))
        marks = torch.tensor([[position in (2, 4)]])
        heads.step(torch.tensor([0]), torch.tensor([position]), number, -number, marks)
    assert heads.lists.num_held.item() == 2
    assert heads.tails.num_survivors.item() == 2
    ring, tail = heads.lists.pages[0, 0, :2].tolist()
    assert heads.slots.positions[ring].tolist() == [4, 5]
    assert heads.slots.positions[tail].tolist() == [0, 2]
    assert heads.slots.keys[tail, :, 0].tolist() == [0.0, 2.0]
    assert heads.slots.values[tail, :, 0].tolist() == [0.0, -2.0]
    assert not heads.slots.evict[tail].any()


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    "horizon",
    [Horizon(), Horizon(kind="sliding", span_tokens=9), Horizon(kind="chunked", span_tokens=12)],
    ids=lambda horizon: horizon.kind,
)
def test_the_kernel_does_what_the_reference_does(horizon, shift, dtype):
    shape = CacheShape(num_heads=2, key_size=6, value_size=5, horizon=horizon)
    two = [Heads(backend, 3, shape, 5, dtype=dtype) for backend in ("reference", "cpu")]
    lengths = torch.zeros(3, dtype=torch.int64)
    for step in range(40):
        sequences = torch.randperm(3)[: 1 + step % 3]
        B, positions = len(sequences), lengths[sequences]
        given = torch.randn(B, 2, 6), torch.randn(B, 2, 5), torch.rand(B, 2) < 0.6
        for heads in two:
            heads.step(sequences, positions, *given, shift=shift)
        lengths[sequences] += 1
        for part, expected in zip(two[1].everything(), two[0].everything(), strict=True):
            assert torch.equal(part, expected)
    assert two[0].tails.num_survivors.min() > 3


@compiled
def test_a_head_without_a_spare_page_is_an_error():
    heads = Heads("cpu", 1, CacheShape(num_heads=1, key_size=1, value_size=1), 1, S=2)
    number, marks = torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.bool)
    heads.step(torch.tensor([0]), torch.tensor([0]), number, number, marks)
    news = News(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(RuntimeError, match="needs a page and was given no spare one"):
        heads.append(
            number,
            number,
            marks,
            news,
            torch.tensor([0]),
            heads.slots,
            heads.lists,
            heads.tails,
            heads.shape,
            heads.ring_tokens,
        )
