"""Few bits a number: on paper, and what kernels make of it against the reference."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops import append, chunk_attend, native, page_attend
from snello.ops.narrow import FORMATS, INT4, SCALES, count_bytes, narrow, round_trip, widen
from snello.ops.narrow.hadamard import count_mixed, rotate
from snello.ops.native import load_library
from snello.ops.pages import (
    Fresh,
    Lists,
    Narrow,
    News,
    Slots,
    Tails,
    count_survivor_slots,
    view_codes,
)
from tests.ops.paging import EMPTY, invent_narrow_pages, tell_news

compiled = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))
formats = pytest.mark.parametrize("survivors", FORMATS.values(), ids=FORMATS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
HORIZONS = [
    Horizon(),
    Horizon(kind="sliding", span_tokens=70),
    Horizon(kind="chunked", span_tokens=64),
]


def test_int8_on_a_page_of_paper():
    """The largest number is 127 steps, here of 1; halves go to the even neighbour."""
    codes, scales = narrow(torch.tensor([[127.0, -126.4, 0.5, 1.5, -0.4]]), torch.int8)
    assert codes.tolist() == [[127, -126, 0, 2, 0]]
    assert scales.item() == pytest.approx(1.0)


def test_fp8_on_a_page_of_paper():
    """The largest number is 448, and there are 8 steps from 1 to 2, and from 16 to 32."""
    rows = torch.tensor([[448.0, 224.0, 1.0, 1.06, -17.0]])
    assert round_trip(rows, torch.float8_e4m3fn).tolist() == [[448.0, 224.0, 1.0, 1.0, -16.0]]


def test_int4_on_a_page_of_paper():
    """Rotated, (3, 5) is (8, -2): the largest becomes -8, so a step is -1; and back, halved."""
    codes, scale = narrow(torch.tensor([3.0, 5.0]), INT4)
    assert codes.tolist() == [0b0010_1000]
    assert scale.item() == -0.5
    assert round_trip(torch.tensor([3.0, 5.0]), INT4).tolist() == [3.0, 5.0]


def test_int4_cuts_what_is_as_large_as_the_largest_on_the_other_side():
    """Codes go from -8 to 7; of 8 and -8 one is 7. Nothing is rotated in rows of odd length."""
    row = torch.tensor([8.0, -8.0, 2.5])
    assert narrow(row, INT4)[0].tolist() == [-121, 2]  # 0x87: 7 and then -8; then 2
    assert round_trip(row, INT4).tolist() == [7.0, -8.0, 2.0]


def test_rotation_on_a_page_of_paper():
    assert rotate(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [10.0, -2.0, -4.0, 0.0]
    assert [count_mixed(size) for size in (0, 1, 12, 80, 96, 128, 576)] == [
        1,
        1,
        4,
        16,
        32,
        128,
        64,
    ]


@pytest.mark.parametrize("size", [1, 12, 37, 80, 128])
def test_rotating_twice_multiplies_and_keeps_products(size):
    rows = torch.randint(-9, 9, (2, 5, size)).float()
    mixed = count_mixed(size)
    assert rotate(rotate(rows)).equal(rows * mixed)
    products = [(part[0] * part[1]).sum(-1) for part in (rows, rotate(rows))]
    assert products[1].equal(products[0] * mixed)


def test_int4_spreads_a_channel_that_is_larger_than_others():
    """Without rotation, the step of rows with such a channel would swallow most other numbers."""
    rows = torch.randn(200, 128)
    rows[:, 5] *= 30.0
    others = torch.arange(128) != 5
    error = (round_trip(rows, INT4) - rows)[:, others]
    assert error.norm() < 0.4 * rows[:, others].norm()
    step = rows.abs().amax(-1, keepdim=True) / 8
    unrotated = ((rows / step).round() * step - rows)[:, others]
    assert unrotated.norm() > 2 * error.norm()


def test_how_many_bytes_a_row_takes():
    assert [count_bytes(size, INT4) for size in (0, 1, 13, 128)] == [0, 1, 7, 64]
    assert [count_bytes(size, torch.int8) for size in (0, 1, 13, 128)] == [0, 1, 13, 128]


@formats
def test_zeros_and_rows_without_numbers_stay_what_they_are(survivors):
    for rows in (torch.zeros(3, 5), torch.full((2, 3), 1e-35), torch.zeros(2, 0)):
        assert not round_trip(rows, survivors).any()


@formats
@pytest.mark.parametrize("size", [1, 63, 200])
def test_what_was_rounded_stays_what_it_is_and_is_near(survivors, size):
    rows = torch.randn(40, size) * torch.logspace(-9, 9, 40)[:, None]
    once, twice = (rotated(rows, survivors, times) for times in (1, 2))
    largest = rows.abs().amax(-1, keepdim=True)
    assert ((twice - once).abs() <= 2e-6 * largest).all()
    half_steps = {torch.int8: 254, torch.float8_e4m3fn: 28, INT4: 8}[survivors]
    assert ((once - rows).abs() <= 1.005 * largest / half_steps).all()


def rotated(rows, survivors, times):
    """Rows that were rounded, seen as they are rounded: rotated where the format does that."""
    mixed = count_mixed(rows.shape[-1]) if survivors == INT4 else 1
    for _ in range(times):
        given = rotate(rows) / mixed if survivors == INT4 else rows
        given = round_trip(given, survivors)
        rows = rotate(given) if survivors == INT4 else given
    return rows


def test_how_many_slots_a_page_of_survivors_has():
    assert count_survivor_slots(16, torch.float32, None) == 16
    assert count_survivor_slots(16, torch.float32, torch.int8) == 64
    assert count_survivor_slots(16, torch.bfloat16, torch.float8_e4m3fn) == 32
    assert count_survivor_slots(16, torch.float32, INT4) == 128
    assert count_survivor_slots(16, torch.bfloat16, INT4) == 64


def read_pages(backend, q, slots, lists, shape, narrow):
    out = torch.full((*q.shape[:2], shape.value_size), torch.nan)
    num_seen = torch.zeros(len(q), dtype=torch.int64)
    news = tell_news([130] * len(q))
    page_attend.resolve(backend)(
        q, news, slots, lists, shape, scale=0.2, out=out, num_seen=num_seen, narrow=narrow
    )
    return out, num_seen


@compiled
@pytest.mark.usefixtures("isa")
@formats
@dtypes
@pytest.mark.parametrize(("size", "group"), [(128, 2), (64, 8), (80, 1), (13, 3), (3, 5)])
def test_decode_attention_on_pages_of_both_kinds(size, group, dtype, survivors):
    shape = CacheShape(num_heads=3, key_size=size, value_size=size + 1)
    lengths = [[(0, 0), (9, 0), (9, 1)], [(9, 63), (9, 700), (9, 200)]]
    pages = invent_narrow_pages(lengths, shape, dtype=dtype, survivors=survivors, ring_tokens=9)
    q = torch.randn(2, 3 * group, size)
    expected, num_expected = read_pages("reference", q, *mend_all(pages, shape))
    out, num_seen = read_pages("cpu", q, *pages[:2], shape, pages[2])
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)
    assert torch.equal(num_seen, num_expected)


@compiled
@pytest.mark.usefixtures("isa")
@formats
@pytest.mark.parametrize("horizon", HORIZONS, ids=lambda horizon: horizon.kind)
@pytest.mark.parametrize("page_tokens", [1, 4, 48])
def test_decode_attention_with_every_horizon_and_values_in_keys(page_tokens, horizon, survivors):
    shape = CacheShape(num_heads=1, key_size=24, value_size=17, value_in_key=True, horizon=horizon)
    given = {"S": page_tokens, "survivors": survivors, "ring_tokens": 9}
    pages = invent_narrow_pages([[(9, 111)], [(9, 500)]], shape, **given)
    q = torch.randn(2, 5, 24)
    expected, num_expected = read_pages("reference", q, *mend_all(pages, shape))
    out, num_seen = read_pages("cpu", q, *pages[:2], shape, pages[2])
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)
    assert torch.equal(num_seen, num_expected)


def mend_all(pages, shape):
    """The same with zeros where no token is, see `mend`."""
    slots, lists, narrow = pages
    ring = lists.pages[..., : narrow.ring_pages].unique()
    is_empty = slots.positions == EMPTY
    keys, values = slots.keys.clone(), slots.values.clone()
    for part in (keys, values):
        exact = part[ring].nan_to_num(0.0)
        view_codes(part, narrow.scales.shape[1])[is_empty] = 0
        part[ring] = exact
    narrow = narrow._replace(scales=narrow.scales.nan_to_num(0.0))
    return slots._replace(keys=keys, values=values), lists, shape, narrow


@compiled
@pytest.mark.usefixtures("isa")
@formats
@dtypes
@pytest.mark.parametrize("window_tokens", [8, 40])
@pytest.mark.parametrize("in_key", [False, True])
def test_prefill_attention_sees_old_tokens_rounded(in_key, window_tokens, dtype, survivors):
    """Ring and chunk exact for those near, the same rounded for those beyond the window."""
    shape = CacheShape(num_heads=2, key_size=20, value_size=13, value_in_key=in_key)
    ring = window_tokens + 1
    lengths = [[(ring, 63), (ring, 0)], [(4, 0), (4, 0)]]
    given = {"dtype": dtype, "survivors": survivors, "ring_tokens": ring, "S": 4, "evicted": 0.3}
    pages = invent_narrow_pages(lengths, shape, first_position=0, **given)
    counts, T = [70, 5], 75
    news = tell_news([ring + 63, 4], rows=[0, 70])
    fresh = Fresh(
        torch.randn(T, 2, 20).to(dtype),
        torch.randn(T, 2, 0 if in_key else 13).to(dtype),
        torch.rand(T, 2) < 0.3,
    )
    q = torch.randn(T, 4, 20)
    results = []
    for backend, (slots, lists, _, stored) in (
        ("reference", mend_all(pages, shape)),
        ("cpu", (*pages[:2], shape, pages[2])),
    ):
        out = torch.full((T, 4, 13), torch.nan)
        num_seen = torch.zeros(2, dtype=torch.int64)
        to = {"scale": 0.2, "out": out, "num_seen": num_seen, "narrow": stored}
        given = q, news, torch.tensor(counts), fresh, slots, lists, shape, window_tokens
        chunk_attend.resolve(backend)(*given, **to)
        results.append((out, num_seen))
    (expected, num_expected), (out, num_seen) = results
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert torch.equal(num_seen, num_expected)


class Heads:
    """B sequences of two heads with full rings of pages; survivors are narrow."""

    def __init__(self, backend, B, shape, ring_tokens, *, S, dtype, survivors):
        self.append, self.shape, self.ring_tokens = append.resolve(backend), shape, ring_tokens
        K, ring_pages, num_pages = shape.num_heads, -(-ring_tokens // S), 200
        self.V = count_survivor_slots(S, dtype, survivors)
        self.slots = Slots(
            torch.zeros(num_pages, S, shape.key_size + 1, dtype=dtype),
            torch.zeros(num_pages, S, shape.value_size + 1, dtype=dtype),
            torch.full((num_pages, self.V), EMPTY, dtype=torch.int32),
            torch.zeros(num_pages, S, dtype=torch.bool),
        )
        scales = torch.zeros(num_pages, self.V, 2, dtype=SCALES[survivors])
        pages = torch.full((B, K, 24), num_pages - 1)
        pages[..., :ring_pages] = torch.arange(B * K * ring_pages).view(B, K, ring_pages)
        self.lists = Lists(pages, torch.full((B, K), ring_pages))
        self.tails = Tails(torch.zeros(B, K, dtype=torch.int64), torch.full((B, K), -1))
        self.narrow = Narrow(scales, survivors, ring_pages)
        self.next_page = B * K * ring_pages

    def step(self, sequences, positions, k, v, marks):
        is_full = self.tails.num_survivors % self.V == 0
        fresh = torch.arange(is_full.numel()).view(is_full.shape) + self.next_page
        self.tails.spare[:] = fresh.where(is_full, -1)
        news = News(torch.arange(len(sequences)).flip(0), positions, sequences)
        given = k, v, marks, news, positions - 1, self.slots, self.lists, self.tails
        self.append(*given, self.shape, self.ring_tokens, self.narrow)
        self.next_page = int(self.lists.pages.where(self.lists.pages < 199, 0).max()) + 1
        self.tails.spare[:] = -1

    def everything(self):
        return [*self.slots, *self.lists, self.tails.num_survivors, self.narrow.scales]


@compiled
@formats
@dtypes
def test_the_kernel_retires_the_same_bytes_as_the_reference(dtype, survivors):
    shape = CacheShape(num_heads=2, key_size=37, value_size=5)
    given = {"S": 2, "dtype": dtype, "survivors": survivors}
    two = [Heads(backend, 3, shape, 5, **given) for backend in ("reference", "cpu")]
    lengths = torch.zeros(3, dtype=torch.int64)
    for step in range(60):
        sequences = torch.randperm(3)[: 1 + step % 3]
        B, positions = len(sequences), lengths[sequences]
        news = torch.randn(B, 2, 37) * 10, torch.randn(B, 2, 5), torch.rand(B, 2) < 0.4
        for heads in two:
            heads.step(sequences, positions, *news)
        lengths[sequences] += 1
        for part, expected in zip(two[1].everything(), two[0].everything(), strict=True):
            assert torch.equal(view_bits(part), view_bits(expected))
    assert two[0].tails.num_survivors.min() > 8


def view_bits(tensor):
    return tensor.view(torch.uint8) if tensor.dtype.is_floating_point else tensor


@pytest.mark.parametrize("survivors", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_bytes_stand_for_the_same_numbers_whoever_widens_them(survivors):
    codes = torch.arange(-128, 128, dtype=torch.int8)
    codes = codes[codes.view(survivors).float().isfinite()]
    assert (
        codes.view(survivors).float().equal(widen(codes, torch.tensor(1.0), survivors, len(codes)))
    )


def test_a_gpu_without_float8_is_refused_float8_survivors(monkeypatch):
    monkeypatch.setattr(native, "find_triton", lambda: native.Library(True, None))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    asked = "triton", torch.device("cuda"), torch.bfloat16, 128
    refusal = native.explain_refusal(*asked, torch.float8_e4m3fn)
    assert refusal == "float8 needs a device of capability (8, 9), this one has (8, 0)"
    assert native.explain_refusal(*asked, torch.int8) is None
    assert native.explain_refusal(*asked) is None
