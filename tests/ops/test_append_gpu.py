"""The GPU kernel of append-and-retire against the reference; without a GPU, in the interpreter."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.append import resolve
from snello.ops.pages import Lists, News, Slots, Tails

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
EMPTY = 2**30
SHAPE = CacheShape(num_heads=2, key_size=5, value_size=3)
LATENT = CacheShape(num_heads=1, key_size=6, value_size=4, value_in_key=True)


class Bench:
    """Rings and survivors of `num_sequences`, and a store that hands out spare pages by number."""

    def __init__(self, shape, ring_tokens, *, num_sequences, dtype, page_tokens, device):
        self.shape, self.ring_tokens, self.S = shape, ring_tokens, page_tokens
        ring_pages = min(4, -(-ring_tokens // page_tokens))
        num_rows, num_pages = num_sequences * shape.num_heads, 64 * num_sequences
        value_width = 0 if shape.value_in_key else shape.value_size + 2
        slots = (num_pages, page_tokens)
        self.slots = Slots(
            torch.zeros(*slots, shape.key_size + 1, dtype=dtype, device=device),
            torch.zeros(*slots, value_width, dtype=dtype, device=device),
            torch.full(slots, EMPTY, dtype=torch.int32, device=device),
            torch.zeros(slots, dtype=torch.bool, device=device),
        )
        pages = torch.full((num_rows, ring_pages + 12), num_pages - 1, device=device)
        pages[:, :ring_pages] = torch.arange(num_rows * ring_pages).view(num_rows, ring_pages)
        self.next_page = num_rows * ring_pages
        heads = num_sequences, shape.num_heads
        self.lists = Lists(pages.view(*heads, -1), torch.full(heads, ring_pages, device=device))
        self.tails = Tails(
            torch.zeros(heads, dtype=torch.int64, device=device),
            torch.full(heads, -1, device=device),
        )

    def hand_out(self):
        spare = self.tails.spare.view(-1)
        for row in range(len(spare)):
            if spare[row] < 0:
                spare[row] = self.next_page
                self.next_page += 1

    def state(self):
        return [*self.slots, *self.lists, *self.tails]


def run_both(shape, ring_tokens, num_steps, shift, *, dtype):
    """Feed the same tokens to both; after each step all that is stored must be equal."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    benches = [
        Bench(shape, ring_tokens, num_sequences=3, page_tokens=4, device=device, dtype=dtype)
        for _ in range(2)
    ]
    value_size = 0 if shape.value_in_key else shape.value_size
    sequences = torch.tensor([2, 0], device=device)
    for step in range(num_steps):
        k = torch.randn(4, shape.num_heads, shape.key_size, device=device).to(dtype)
        v = torch.randn(4, shape.num_heads, value_size, device=device).to(dtype)
        marks = torch.rand(4, shape.num_heads + 1, device=device)[:, : shape.num_heads] < 0.4
        positions = torch.tensor([step, step + 3], device=device)
        news = News(torch.tensor([3, 1], device=device), positions, sequences)
        for bench, backend in zip(benches, ("triton", "reference"), strict=True):
            bench.hand_out()
            stored = bench.slots, bench.lists, bench.tails, shape, ring_tokens
            resolve(backend)(k, v, marks, news, positions - shift, *stored)
    return benches


SLIDING = CacheShape(
    num_heads=2, key_size=5, value_size=3, horizon=Horizon(kind="sliding", span_tokens=7)
)
CHUNKED = CacheShape(
    num_heads=2, key_size=5, value_size=3, horizon=Horizon(kind="chunked", span_tokens=7)
)


@pytest.mark.parametrize(
    ("shape", "ring_tokens", "shift", "dtype"),
    [
        (SHAPE, 1, 1, torch.float32),  # the token spoken about is the one that leaves
        (SHAPE, 6, 1, torch.float32),
        (SLIDING, 3, 0, torch.bfloat16),
        (CHUNKED, 3, 1, torch.float16),
        (LATENT, 4, 1, torch.float32),
    ],
)
def test_the_kernel_stores_what_the_reference_stores(shape, ring_tokens, shift, dtype):
    fast, slow = run_both(shape, ring_tokens, 18, shift, dtype=dtype)
    for mine, theirs in zip(fast.state(), slow.state(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert int(slow.tails.num_survivors.max()) > (0 if ring_tokens == 1 else 4)


def test_a_ring_that_never_turns():
    fast, slow = run_both(SHAPE, 2**40, 9, 0, dtype=torch.float32)
    for mine, theirs in zip(fast.state(), slow.state(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_head_without_a_spare_page_gains_no_survivor_and_no_page(monkeypatch):
    monkeypatch.setattr(Bench, "hand_out", lambda _: None)
    fast, _ = run_both(SHAPE, 1, 2, 0, dtype=torch.float32)
    assert int(fast.tails.num_survivors.max()) == 0
    assert int(fast.lists.num_held.max()) == 1
