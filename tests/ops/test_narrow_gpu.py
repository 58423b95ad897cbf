"""Narrow survivors on the kernels for a GPU, against the reference; else in the interpreter."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops import append, chunk_attend, page_attend
from snello.ops.narrow import FORMATS
from snello.ops.pages import Fresh
from tests.ops.page_scene import place, widen
from tests.ops.paging import invent_narrow_pages, tell_news
from tests.ops.test_narrow import Heads, mend_all

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
formats = pytest.mark.parametrize("survivors", FORMATS.values(), ids=FORMATS)
PLAIN = CacheShape(num_heads=2, key_size=20, value_size=12)
LATENT = CacheShape(num_heads=1, key_size=24, value_size=16, value_in_key=True)
ODD = CacheShape(num_heads=1, key_size=21, value_size=9, value_in_key=True)
SLIDING = CacheShape(
    num_heads=2, key_size=20, value_size=12, horizon=Horizon(kind="sliding", span_tokens=30)
)
CASES = [
    (PLAIN, torch.float32),
    (PLAIN, torch.bfloat16),
    (LATENT, torch.float32),
    (ODD, torch.float32),
    (SLIDING, torch.float32),
]
cases = pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)


def invent(shape, dtype, survivors, ring_tokens, lengths, *, evicted=0.0):
    rows = [row[: shape.num_heads] for row in lengths]
    given = {"S": 4, "dtype": dtype, "survivors": survivors, "ring_tokens": ring_tokens}
    return invent_narrow_pages(rows, shape, evicted=evicted, **given)


def run_both(attend, given, pages, shape, size, device, *rule):
    results = []
    for backend, (slots, lists, _, narrow) in (
        ("reference", mend_all(pages, shape)),
        ("triton", (*pages[:2], shape, pages[2])),
    ):
        asked = place([*given, slots, widen(lists)], device)
        narrow = narrow._replace(scales=narrow.scales.to(device))
        out = torch.full((len(given[0]), given[0].shape[1], size), 7.0, device=device)
        num_seen = torch.zeros(len(given[1].rows), dtype=torch.int64, device=device)
        to = {"scale": 0.2, "out": out, "num_seen": num_seen, "narrow": narrow}
        attend.resolve(backend)(*asked, shape, *rule, **to)
        results.append((out, num_seen))
    (expected, num_expected), (out, num_seen) = results
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)
    assert torch.equal(num_seen, num_expected)


@formats
@cases
def test_decode_attention(shape, dtype, survivors, device):
    lengths = [[(0, 0), (9, 1)], [(9, 63), (9, 0)], [(9, 400), (4, 0)]]
    pages = invent(shape, dtype, survivors, 9, lengths)
    news = tell_news([200, 60, 310])
    q = torch.randn(3, 3 * shape.num_heads, shape.key_size)
    news = news._replace(sequences=news.sequences + 1)
    run_both(page_attend, (q, news), pages, shape, shape.value_size, device)


def test_rotated_queries_stay_within_float16(device):
    """All numbers alike add up to as many times as much in one of them."""
    shape, lengths = CacheShape(num_heads=1, key_size=16, value_size=16), [[(9, 90)]]
    slots, lists, narrow = invent(shape, torch.float16, FORMATS["int4"], 9, lengths)
    given = place([tell_news([98]), slots, lists], device)
    narrow = narrow._replace(scales=narrow.scales.to(device))
    q = torch.full((1, 2, 16), 60000.0, device=device)
    outs = []
    for dtype in (torch.float16, torch.float32):
        to = {"out": torch.zeros_like(q), "num_seen": torch.zeros_like(given[0].rows)}
        attend = page_attend.resolve("triton")
        attend(q.to(dtype), *given, shape, scale=1e-5, **to, narrow=narrow)
        outs.append(to["out"])
    torch.testing.assert_close(*outs, atol=5e-3, rtol=0)


@formats
@cases
@pytest.mark.parametrize("window_tokens", [8, 40])
def test_prefill_attention(window_tokens, shape, dtype, survivors, device):
    ring = window_tokens + 1
    lengths = [[(ring, 50), (ring, 50)], [(4, 0), (4, 0)]]
    pages = invent(shape, dtype, survivors, ring, lengths, evicted=0.3)
    T, K, width = 60, shape.num_heads, 0 if shape.value_in_key else shape.value_size
    fresh = Fresh(
        torch.randn(T, K, shape.key_size).to(dtype),
        torch.randn(T, K, width).to(dtype),
        torch.rand(T, K) < 0.3,
    )
    news = tell_news([ring + 50, 4], rows=[0, 55])
    news = news._replace(sequences=news.sequences + 1)
    q = torch.randn(T, 2 * K, shape.key_size)
    given = q, news, torch.tensor([55, 5]), fresh
    run_both(chunk_attend, given, pages, shape, shape.value_size, device, window_tokens)


@formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_retires_the_same_bytes_as_the_reference(dtype, survivors, device):
    shape = CacheShape(num_heads=2, key_size=13, value_size=5)
    two = []
    for backend in ("reference", "triton"):
        heads = Heads(backend, 2, shape, 3, S=2, dtype=dtype, survivors=survivors)
        for name in ("slots", "lists", "tails"):
            setattr(heads, name, place(getattr(heads, name), device))
        heads.narrow = heads.narrow._replace(scales=heads.narrow.scales.to(device))
        two.append(heads)
    for step in range(24):
        k, v = (torch.randn(2, 2, size, device=device).to(dtype) * 10 for size in (13, 5))
        marks = torch.rand(2, 2, device=device) < 0.3
        where = torch.arange(2, device=device), torch.tensor([step, step], device=device)
        for heads in two:
            heads.step(*where, k, v, marks)
        for part, expected in zip(two[1].everything(), two[0].everything(), strict=True):
            bits = [t.view(torch.uint8) if t.is_floating_point() else t for t in (part, expected)]
            assert torch.equal(*bits)
    assert two[0].tails.num_survivors.min() > 8
    assert append.resolve("triton") is not append.resolve("reference")
