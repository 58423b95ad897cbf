"""The GPU kernel of prefill attention against the reference; without a GPU, in the interpreter."""

import pytest
import torch

from snello.config.model import CacheShape, Horizon
from snello.ops.chunk_attend import resolve
from snello.ops.pages import Fresh
from tests.ops.page_scene import place, widen
from tests.ops.paging import invent_pages, mend, tell_news

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu


def read(backend, device, given, slots, rule):
    (q, news, counts, fresh), (lists, shape, window_tokens) = given, rule
    q = q if backend == "triton" else q.float()
    out = torch.full((*q.shape[:2], shape.value_size), 7.0, dtype=q.dtype, device=device)
    num_seen = torch.full((len(counts),), 5, device=device)
    given = place((q, news, torch.tensor(counts), fresh or (), slots, lists), device)
    given[3] = given[3] or None
    resolve(backend)(*given, shape, window_tokens, scale=0.3, out=out, num_seen=num_seen)
    return out.float(), num_seen.tolist()


def compare(counts, shape, device, *, group=2, window_tokens=6, fresh=True, dtype=torch.float32):
    """Chunks of `counts` tokens behind sequences of 37 and 0, or themselves stored already."""
    stored, K = (37, 0)[: len(counts)], shape.num_heads
    held = [before + (0 if fresh else count) for before, count in zip(stored, counts, strict=True)]
    lengths = [[length, max(0, length - 3)][:K] for length in held]
    slots, lists = invent_pages(lengths, shape, S=4, dtype=dtype, evicted=0.4)
    firsts = [1 + sum(counts[:b]) for b in range(len(counts))]
    news = tell_news(list(stored), rows=firsts)
    news = news._replace(sequences=news.sequences + 1)
    T, width = sum(counts) + 2, 0 if shape.value_in_key else shape.value_size
    new = Fresh(
        torch.randn(T, K, shape.key_size).to(dtype),
        torch.randn(T, K, width).to(dtype),
        torch.rand(T, K + 1)[:, :K] < 0.4,
    )
    q = torch.randn(T, K * group, shape.key_size).to(dtype)
    given = q, news, list(counts), new if fresh else None
    rule = widen(lists), shape, window_tokens
    expected, num_expected = read("reference", device, given, mend(slots), rule)
    out, num_seen = read("triton", device, given, slots, rule)
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    assert num_seen == num_expected


PLAIN = CacheShape(num_heads=2, key_size=8, value_size=8)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "stored"])
@pytest.mark.parametrize("group", [1, 4, 7])
def test_ragged_chunks_behind_ragged_heads(group, fresh, device):
    compare((40, 1), PLAIN, device, group=group, fresh=fresh)


def test_more_keys_than_a_block_holds(device):
    shape = CacheShape(num_heads=1, key_size=8, value_size=8)
    compare((200,), shape, device, group=1, window_tokens=70)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_sizes_that_are_no_power_of_two(dtype, device):
    shape = CacheShape(num_heads=1, key_size=20, value_size=12)
    compare((5, 3), shape, device, dtype=dtype)


@pytest.mark.parametrize("kind", ["sliding", "chunked"])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "stored"])
def test_a_horizon_narrower_than_a_block_of_queries(kind, fresh, device):
    shape = CacheShape(
        num_heads=1, key_size=8, value_size=8, horizon=Horizon(kind=kind, span_tokens=9)
    )
    compare((40, 3), shape, device, fresh=fresh)


def test_a_value_in_the_key_with_more_heads_than_one_block_holds(device):
    shape = CacheShape(num_heads=1, key_size=24, value_size=16, value_in_key=True)
    compare((5, 3), shape, device, group=40)
