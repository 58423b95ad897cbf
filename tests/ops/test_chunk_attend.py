"""Prefill attention over pages and a chunk: on paper, and the kernel against the reference."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.chunk_attend import resolve
from snello.ops.native import load_library
from snello.ops.pages import Fresh
from tests.ops.paging import invent_pages, mend, tell_news

pytestmark = pytest.mark.usefixtures("isa")
compiled = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
BACKENDS = ["reference", "cpu"] if load_library().is_loaded else ["reference"]


def read(backend, q, news, counts, *given):
    shape = given[-2]
    out = torch.full((*q.shape[:2], shape.value_size), torch.nan)
    num_seen, counts = torch.zeros(len(counts), dtype=torch.int64), torch.tensor(counts)
    to = {"scale": shape.key_size**-0.5, "out": out, "num_seen": num_seen}
    resolve(backend)(q, news, counts, *given, **to)
    return out, num_seen


def compare(counts, shape, *, stored=0, group=2, window_tokens=20, evicted=0.5, **given):
    """Chunks of `counts` tokens behind as many sequences of `stored` tokens."""
    T, K = sum(counts), shape.num_heads
    lengths = [[stored] * K for _ in counts]
    slots, lists = invent_pages(lengths, shape, evicted=evicted, **given)
    firsts = [sum(counts[:b]) for b in range(len(counts))]
    news = tell_news([stored] * len(counts), rows=firsts)
    width = 0 if shape.value_in_key else shape.value_size
    marks = torch.rand(T, K) < evicted
    fresh = Fresh(torch.randn(T, K, shape.key_size), torch.randn(T, K, width), marks)
    q = torch.randn(T, K * group, shape.key_size)
    rule = shape, window_tokens
    expected, num_expected = read("reference", q, news, counts, fresh, mend(slots), lists, *rule)
    out, num_seen = read("cpu", q, news, counts, fresh, slots, lists, *rule)
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)
    assert torch.equal(num_seen, num_expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_rule_on_paper(backend):
    """Window 1, tokens 0 and 1 stored and 0 marked, 2 marked in the chunk of 2, 3, 4.

    Query 2 sees 1 and itself; 3 sees 1, 2 and itself; 4 sees 1, 3 and itself.
    """
    shape = CacheShape(num_heads=1, key_size=1, value_size=1)
    slots, lists = invent_pages([[2]], shape, S=2)
    slots.evict[lists.pages[0, 0, 0]] = torch.tensor([True, False])
    slots.values[lists.pages[0, 0, 0], :, 0] = torch.tensor([100.0, 6.0])
    values = torch.tensor([30.0, 60.0, 90.0]).view(3, 1, 1)
    marks = torch.tensor([[True], [False], [False]])
    fresh = Fresh(torch.zeros(3, 1, 1), values, marks)
    given = torch.zeros(3, 1, 1), tell_news([2]), [3], fresh, mend(slots), lists, shape, 1
    out, num_seen = read(backend, *given)
    expected = torch.tensor([(6 + 30) / 2, (6 + 30 + 60) / 3, (6 + 60 + 90) / 3])
    torch.testing.assert_close(out.flatten(), expected)
    assert num_seen.tolist() == [2 + 3 + 3]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [0, 1, 63, 200])
@pytest.mark.parametrize("count", [2, 63, 128, 200])
def test_the_kernel_gives_what_the_reference_gives(count, stored, dtype):
    shape = CacheShape(num_heads=2, key_size=64, value_size=64)
    compare([count], shape, stored=stored, dtype=dtype)


@compiled
@pytest.mark.parametrize(("size", "group"), [(128, 2), (80, 1), (13, 3), (3, 40), (16, 130)])
@pytest.mark.parametrize("evicted", [0.0, 0.9, 1.0])
def test_every_size_and_group(size, group, evicted):
    shape = CacheShape(num_heads=1, key_size=size, value_size=size + 1)
    compare([70, 2, 33], shape, stored=90, group=group, evicted=evicted)


@compiled
def test_values_may_be_the_first_part_of_the_keys():
    shape = CacheShape(num_heads=1, key_size=96, value_size=64, value_in_key=True)
    compare([40, 3], shape, stored=70, group=16)


@compiled
@pytest.mark.parametrize("window_tokens", [1, 64, 10_000])
@pytest.mark.parametrize(
    "horizon",
    [Horizon(kind="sliding", span_tokens=70), Horizon(kind="chunked", span_tokens=64)],
    ids=lambda horizon: horizon.kind,
)
def test_every_window_and_horizon(horizon, window_tokens):
    shape = CacheShape(num_heads=2, key_size=16, value_size=16, horizon=horizon)
    compare([150, 5], shape, stored=100, window_tokens=window_tokens, S=4)


@compiled
def test_a_chunk_that_is_in_the_pages_already():
    """Dense memory stores first: later tokens of the chunk are there, and hidden."""
    shape = CacheShape(num_heads=2, key_size=32, value_size=32)
    slots, lists = invent_pages([[150, 150], [33, 33]], shape)
    news, counts = tell_news([50, 0], rows=[0, 100]), [100, 33]
    q = torch.randn(133, 4, 32)
    expected, num_expected = read("reference", q, news, counts, None, mend(slots), lists, shape, 0)
    out, num_seen = read("cpu", q, news, counts, None, slots, lists, shape, 0)
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)
    assert torch.equal(num_seen, num_expected)


@compiled
def test_a_query_that_sees_nothing_gives_zeros():
    shape = CacheShape(num_heads=1, key_size=8, value_size=8)
    slots, lists = invent_pages([[4]], shape, first_position=1000)
    out, num_seen = read(
        "cpu", torch.randn(5, 2, 8), tell_news([0]), [5], None, slots, lists, shape, 0
    )
    assert (out == 0).all()
    assert num_seen.tolist() == [0]
