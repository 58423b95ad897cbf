"""Decode attention on pages: on paper, the kernel against the reference, equal tiles."""

import math

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.native import load_library
from snello.ops.page_attend import resolve
from snello.ops.pages import Lists, Slots
from tests.ops.paging import EMPTY, invent_pages, mend, tell_news

BACKENDS = ["reference", "cpu"] if load_library().is_loaded else ["reference"]
pytestmark = pytest.mark.usefixtures("isa")
compiled = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
HORIZONS = [
    Horizon(),
    Horizon(kind="sliding", span_tokens=70),
    Horizon(kind="chunked", span_tokens=64),
]


def read(backend, q, news, slots, lists, shape):
    out = torch.full((*q.shape[:2], shape.value_size), torch.nan)
    num_seen = torch.zeros(len(news.rows), dtype=torch.int64)
    resolve(backend)(
        q, news, slots, lists, shape, scale=shape.key_size**-0.5, out=out, num_seen=num_seen
    )
    return out, num_seen


def compare(lengths, shape, *, group=2, position=10_000, **given):
    slots, lists = invent_pages(lengths, shape, **given)
    news = tell_news([position] * len(lengths))
    q = torch.randn(len(lengths), shape.num_heads * group, shape.key_size)
    expected, num_expected = read("reference", q, news, mend(slots), lists, shape)
    out, num_seen = read("cpu", q, news, slots, lists, shape)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)
    assert torch.equal(num_seen, num_expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_three_slots_on_paper(backend):
    """Scores ln 3 and 0, and a token ahead of the query: weights 3/4, 1/4 and none."""
    shape = CacheShape(num_heads=1, key_size=1, value_size=1)
    slots = Slots(
        torch.tensor([[[math.log(3.0)], [0.0]], [[9.0], [9.0]]]),
        torch.tensor([[[8.0], [4.0]], [[1.0], [1.0]]]),
        torch.tensor([[0, 1], [5, EMPTY]], dtype=torch.int32),
        torch.zeros(2, 2, dtype=torch.bool),
    )
    lists = Lists(torch.tensor([[[1, 0, 1]]]), torch.tensor([[2]]))
    out, num_seen = read(backend, torch.ones(1, 1, 1), tell_news([4]), slots, lists, shape)
    assert out.item() == pytest.approx(7.0)
    assert num_seen.tolist() == [2]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 63, 128, 200, 1500])
@pytest.mark.parametrize(("size", "group"), [(128, 2), (64, 8), (80, 1), (13, 3), (3, 5)])
def test_the_kernel_gives_what_the_reference_gives(num_tokens, dtype, size, group):
    shape = CacheShape(num_heads=2, key_size=size, value_size=size)
    compare([[num_tokens] * 2], shape, group=group, dtype=dtype)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("key_size", "value_size"), [(576, 512), (12, 9)])
def test_values_may_be_the_first_part_of_the_keys(key_size, value_size, dtype):
    shape = CacheShape(num_heads=1, key_size=key_size, value_size=value_size, value_in_key=True)
    compare([[300], [1]], shape, group=16, dtype=dtype)


@compiled
@pytest.mark.parametrize("page_tokens", [1, 4, 16, 48])
@pytest.mark.parametrize("horizon", HORIZONS, ids=lambda horizon: horizon.kind)
def test_ragged_and_empty_heads_and_every_horizon(horizon, page_tokens):
    """Lengths differ by 1:600; a query at 130 has some tokens ahead and some out of sight."""
    shape = CacheShape(num_heads=3, key_size=32, value_size=16, horizon=horizon)
    lengths = [[0, 600, 3], [129, 64, 0], [0, 0, 0], [1, 1, 1]]
    compare(lengths, shape, position=130, S=page_tokens)


@compiled
def test_a_sequence_reads_the_same_bits_in_any_company():
    """Its row of the batch, its neighbours and the number of threads change nothing."""
    shape = CacheShape(num_heads=2, key_size=128, value_size=128)
    lengths = [[700, 40], [3, 1200], [1, 1], [513, 512]]
    slots, lists = invent_pages(lengths, shape)
    q = torch.randn(4, 4, 128)
    news = tell_news([5000] * 4)
    together, _ = read("cpu", q, news, slots, lists, shape)
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for b in range(4):
                one = type(news)(*(part[b : b + 1] for part in news))
                alone, _ = read("cpu", q, one, slots, lists, shape)
                assert torch.equal(alone[b], together[b])
    finally:
        torch.set_num_threads(num_threads)


@compiled
def test_rows_that_were_not_asked_for_are_left_alone():
    shape = CacheShape(num_heads=1, key_size=8, value_size=8)
    slots, lists = invent_pages([[9], [9]], shape)
    out, _ = read(
        "cpu", torch.randn(5, 1, 8), tell_news([20, 20], rows=[3, 1]), slots, lists, shape
    )
    assert out.isnan().all(-1).flatten().tolist() == [True, False, True, False, True]


@compiled
@pytest.mark.parametrize("scale", [300.0, 1e4])
def test_large_scores_do_not_overflow(scale):
    """Mistake 5: parts are merged with the largest score subtracted."""
    shape = CacheShape(num_heads=1, key_size=16, value_size=16)
    slots, lists = invent_pages([[2000]], shape)
    q = torch.randn(1, 2, 16) * scale
    expected, _ = read("reference", q, tell_news([9999]), mend(slots), lists, shape)
    out, _ = read("cpu", q, tell_news([9999]), slots, lists, shape)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


@compiled
@pytest.mark.parametrize("numbers_per_slot", [16, 256, 576, 100_000])
@pytest.mark.parametrize("page_tokens", [1, 16, 48])
def test_equal_tiles_cover_every_page_exactly_once(numbers_per_slot, page_tokens):
    num_pages = torch.tensor([0, 1, 700, 33, 0, 32, 64])
    tiles = torch.ops.snello.page_tiles(num_pages, numbers_per_slot, page_tokens).tolist()
    covered = [(head, page) for head, first, last in tiles for page in range(first, last)]
    assert covered == [(h, p) for h, count in enumerate(num_pages) for p in range(count)]
    sizes = {last - first for head, first, last in tiles if last < num_pages[head]}
    assert len(sizes) == 1, "all tiles but the last of a head are equal"
    assert all(last - first <= max(sizes) for _, first, last in tiles)
    again = torch.ops.snello.page_tiles(num_pages[2:3], numbers_per_slot, page_tokens).tolist()
    assert [tile[1:] for tile in again] == [tile[1:] for tile in tiles if tile[0] == 2]
