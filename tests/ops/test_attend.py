"""Attention over gathered keys: on paper, fast against plain, and parts against the whole."""

import math

import pytest
import torch

from snello.ops.attend import Part, attend, attend_part, merge


def make(*, Q=3, K=2, N=17, E=8, dtype=torch.float32):
    B, H, D, seen = 2, 4, 8, 0.7
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(B, Q, H, D, generator=generator, dtype=dtype)
    keys = torch.randn(B, K, N, D, generator=generator, dtype=dtype)
    values = torch.randn(B, K, N, E, generator=generator, dtype=dtype)
    visible = torch.rand(B, K, Q, N, generator=generator) < seen
    return q, keys, values, visible


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_two_keys_on_paper():
    """Scores ln 3 and 0: weights 3/4 and 1/4; hiding the first leaves the second alone."""
    q, keys = torch.ones(1, 1, 1, 1), torch.tensor([math.log(3.0), 0.0]).view(1, 1, 2, 1)
    values = torch.tensor([8.0, 4.0]).view(1, 1, 2, 1)
    both = attend_part(q, keys, values, torch.tensor([[[[True, True]]]]), scale=1.0)
    close(both.out.flatten(), torch.tensor([7.0]))
    close(both.lse.flatten(), torch.tensor([math.log(4.0)]))
    one = attend_part(q, keys, values, torch.tensor([[[[False, True]]]]), scale=1.0)
    close(one.out.flatten(), torch.tensor([4.0]))


def test_query_heads_belong_to_the_key_value_head_of_their_group():
    """Head h reads key-value head h // 2: values 1 and 5 tell them apart."""
    q, keys = torch.zeros(1, 1, 4, 2), torch.zeros(1, 2, 3, 2)
    values = torch.tensor([1.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 3, 1)
    visible = torch.ones(1, 2, 1, 3, dtype=torch.bool)
    for out in (
        attend(q, keys, values, visible, scale=1.0),
        attend_part(q, keys, values, visible, scale=1.0).out,
    ):
        close(out.flatten(), torch.tensor([1.0, 1.0, 5.0, 5.0]))


@pytest.mark.parametrize("num_keys", [1, 63, 200], ids="N{}".format)
@pytest.mark.parametrize("num_queries", [1, 2, 63, 128], ids="Q{}".format)
@pytest.mark.parametrize("num_groups", [1, 2, 4], ids="K{}".format)
def test_fast_agrees_with_plain(num_queries, num_keys, num_groups):
    given = make(Q=num_queries, N=num_keys, K=num_groups)
    close(attend(*given, scale=0.3), attend_part(*given, scale=0.3).out)


@pytest.mark.parametrize("num_queries", [1, 5])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_fast_agrees_with_plain_in_half_precision(dtype, atol, num_queries):
    given = make(Q=num_queries, dtype=dtype)
    close(attend(*given, scale=0.3), attend_part(*given, scale=0.3).out, atol)


@pytest.mark.parametrize("num_queries", [1, 5])
def test_values_may_be_narrower_than_keys(num_queries):
    given = make(Q=num_queries, E=3)
    out = attend(*given, scale=0.3)
    assert out.shape == (2, num_queries, 4, 3)
    close(out, attend_part(*given, scale=0.3).out)


@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("num_keys", [0, 5])
def test_a_row_that_sees_nothing_gives_zeros_and_never_nan(num_queries, num_keys):
    q, keys, values, visible = make(Q=num_queries, N=num_keys)
    visible[0, 1, 0] = False
    visible[1] = False
    out, lse = attend_part(q, keys, values, visible, scale=0.3)
    for read in (out, attend(q, keys, values, visible, scale=0.3)):
        assert not read.isnan().any()
        assert (read[1] == 0).all()
        assert (read[0, 0, 2:] == 0).all()
    assert (lse[1] == -torch.inf).all()


@pytest.mark.parametrize("scale", [0.3, 1000.0], ids=["ordinary", "exp(lse) overflows"])
def test_parts_merge_to_the_whole(scale):
    """Mistake 5: with large scores, raw exp(lse) is infinite and the quotient is NaN."""
    q, keys, values, visible = make(N=40)
    whole = attend_part(q, keys, values, visible, scale=scale)
    parts = [
        attend_part(q, keys[:, :, a:b], values[:, :, a:b], visible[..., a:b], scale=scale)
        for a, b in [(0, 1), (1, 16), (16, 40)]
    ]
    merged = merge(parts)
    close(merged.out, whole.out)
    torch.testing.assert_close(merged.lse, whole.lse)


def test_an_empty_part_weighs_nothing():
    """Mistake 5: exp(0) = 1 for a part that saw nothing would halve what the other read."""
    read = Part(torch.full((1, 1, 1, 2), 6.0), torch.zeros(1, 1, 1))
    empty = Part(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1), -torch.inf))
    for parts in ([read, empty], [empty, read]):
        assert merge(parts).out.tolist() == read.out.tolist()
        assert merge(parts).lse.tolist() == read.lse.tolist()


def test_nothing_but_empty_parts_gives_zeros():
    empty = Part(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1), -torch.inf))
    merged = merge([empty, empty])
    assert merged.out.flatten().tolist() == [0.0, 0.0]
    assert merged.lse.item() == -torch.inf
