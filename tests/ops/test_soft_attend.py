import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import flex_attention

from snello.config.model import Horizon
from snello.ops.soft_attend import Layout, positions_within, resolve
from snello.ops.soft_attend.blockwise import SoftAttention, plan_blocks
from snello.ops.soft_attend.flex import FlexAttend, hide_unseen, soften

FULL = Horizon()
SLIDING = Horizon(kind="sliding", span_tokens=37)
CHUNKED = Horizon(kind="chunked", span_tokens=50)


def one_document(num_rows, num_tokens):
    return torch.zeros(num_rows, num_tokens, dtype=torch.long)


def packed_documents(num_rows, num_tokens):
    """Documents of lengths drawn for each row, the last of them padding."""
    segments = one_document(num_rows, num_tokens)
    for row in segments:
        for cut in torch.randint(0, num_tokens, (3,)).tolist():
            row[cut:] += 1
        row[row == row.max()] = -1
    return segments


def make_inputs(num_rows, num_tokens, *, heads=(4, 2), sizes=(8, 6), dtype=torch.float64):
    num_query_heads, num_heads = heads
    key_size, value_size = sizes
    shapes = [
        (num_rows, num_query_heads, num_tokens, key_size),
        (num_rows, num_heads, num_tokens, key_size),
        (num_rows, num_heads, num_tokens, value_size),
    ]
    q, k, v = (torch.randn(shape, dtype=dtype) for shape in shapes)
    logits = 4 * torch.randn(num_rows, num_heads, num_tokens, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, functional.logsigmoid(logits))]


def attend_and_differentiate(attend, inputs, layout, grad):
    with_keep = inputs if len(inputs) == 4 else [*inputs, None]
    out = attend(*with_keep, layout, scale=0.3)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def assert_equal_to_reference(name, inputs, layout, tolerance=1e-10):
    query, value = inputs[0], inputs[2]
    grad = torch.randn(*query.shape[:3], value.shape[-1], dtype=value.dtype)
    wanted = attend_and_differentiate(resolve("reference"), inputs, layout, grad)
    found = attend_and_differentiate(resolve(name), inputs, layout, grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def weights_of(attend, log_keep, layout):
    """Attend with equal scores and one-hot values: the answer is the attention weights."""
    num_tokens = log_keep.shape[-1]
    queries, values = torch.zeros(1, 1, num_tokens, num_tokens), torch.eye(num_tokens)[None, None]
    return attend(queries, queries, values, log_keep, layout, scale=1.0)[0, 0]


@pytest.mark.parametrize("name", ["reference", "blockwise"])
class TestOnPaper:
    def test_soft_mask_on_a_page_of_paper(self, name):
        """Window 1, token 0 is gone by 3/4: query 3 sees 1/4 of it, 1/2 of token 1, all of 2, 3."""
        log_keep = torch.tensor([[[0.25, 0.5, 0.001, 0.001]]]).log()
        weights = weights_of(resolve(name), log_keep, Layout(one_document(1, 4), 1, FULL))
        assert weights[0].tolist() == pytest.approx([1, 0, 0, 0])
        assert weights[1].tolist() == pytest.approx([1 / 2, 1 / 2, 0, 0])
        assert weights[2].tolist() == pytest.approx([0.25 / 2.25, 1 / 2.25, 1 / 2.25, 0])
        total = 0.25 + 0.5 + 1 + 1
        assert weights[3].tolist() == pytest.approx(
            [0.25 / total, 0.5 / total, 1 / total, 1 / total]
        )

    def test_a_hard_eviction_leaves_the_window_whole_and_nothing_behind_it(self, name):
        """Window 2: the key two behind is still seen, the one three behind is gone."""
        log_keep = torch.full((1, 1, 5), -torch.inf)
        weights = weights_of(resolve(name), log_keep, Layout(one_document(1, 5), 2, FULL))
        assert weights[4].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])
        assert weights[2].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])

    def test_a_document_does_not_see_the_one_before(self, name):
        segments = torch.tensor([[0, 0, 1, 1, 1]])
        weights = weights_of(resolve(name), torch.zeros(1, 1, 5), Layout(segments, 9, FULL))
        assert weights[2].tolist() == pytest.approx([0, 0, 1, 0, 0])
        assert weights[4].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])

    def test_eviction_counts_distance_within_a_document(self, name):
        segments = torch.tensor([[0, 0, 1, 1, 1]])
        log_keep = torch.full((1, 1, 5), math.log(0.5))
        weights = weights_of(resolve(name), log_keep, Layout(segments, 1, FULL))
        assert weights[4].tolist() == pytest.approx([0, 0, 0.2, 0.4, 0.4])

    def test_sliding_and_chunked_horizons(self, name):
        keep = torch.zeros(1, 1, 5)
        for kind, seen in (("sliding", [0, 0, 0, 1 / 2, 1 / 2]), ("chunked", [0, 0, 0, 0, 1])):
            layout = Layout(one_document(1, 5), 9, Horizon(kind=kind, span_tokens=2))
            assert weights_of(resolve(name), keep, layout)[4].tolist() == pytest.approx(seen)


def test_positions_start_again_with_each_document():
    segments = torch.tensor([[4, 4, 7, -1, -1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 3]])
    wanted = [[0, 1, 0, 0, 1], [0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert positions_within(segments).tolist() == wanted
    assert Layout(segments, 1, FULL).positions.tolist() == wanted


@pytest.mark.parametrize("num_tokens", [1, 63, 128, 200])
@pytest.mark.parametrize("window_tokens", [1, 16, 1000])
@pytest.mark.parametrize("horizon", [FULL, SLIDING, CHUNKED], ids=lambda horizon: horizon.kind)
@pytest.mark.parametrize("packing", [one_document, packed_documents])
def test_blockwise_equals_reference(num_tokens, window_tokens, horizon, packing):
    layout = Layout(packing(2, num_tokens), window_tokens, horizon)
    inputs = make_inputs(2, num_tokens)
    assert_equal_to_reference("blockwise", inputs, layout)
    assert_equal_to_reference("blockwise", inputs[:3], layout)


@pytest.mark.parametrize("heads", [(3, 3), (6, 2), (5, 1)])
@pytest.mark.parametrize("sizes", [(4, 4), (5, 12), (12, 1)])
def test_blockwise_equals_reference_for_any_groups_and_sizes(heads, sizes):
    layout = Layout(packed_documents(3, 70), 9, FULL)
    assert_equal_to_reference("blockwise", make_inputs(3, 70, heads=heads, sizes=sizes), layout)


@pytest.mark.parametrize("block_tokens", [1, 7, 64, 500])
def test_any_block_of_queries_gives_the_same(block_tokens, monkeypatch):
    monkeypatch.setattr(
        "snello.ops.soft_attend.blockwise._choose_block_tokens", lambda _: block_tokens
    )
    layout = Layout(packed_documents(2, 90), 11, SLIDING)
    assert_equal_to_reference("blockwise", make_inputs(2, 90), layout)


def test_blockwise_in_single_precision_and_with_scores_that_overflow_an_exponential():
    inputs = make_inputs(2, 200, dtype=torch.float32)
    inputs[0] = (100 * inputs[0]).detach().requires_grad_()
    layout = Layout(one_document(2, 200), 16, FULL)
    assert_equal_to_reference("blockwise", inputs, layout, tolerance=1e-3)


def test_gradients_of_blockwise_are_those_of_its_values():
    inputs = make_inputs(1, 9, heads=(2, 1), sizes=(3, 2))
    layout = Layout(torch.tensor([[0] * 3 + [1] * 6]), 2, FULL)
    assert torch.autograd.gradcheck(
        lambda *tensors: SoftAttention.apply(*tensors, layout, 0.7), inputs
    )


def test_blockwise_takes_and_gives_back_half_precision():
    inputs = [x.detach().bfloat16() for x in make_inputs(1, 40)]
    layout = Layout(one_document(1, 40), 4, FULL)
    out = resolve("blockwise")(*inputs, layout, scale=0.3)
    wanted = resolve("reference")(*(x.double() for x in inputs), layout, scale=0.3)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, rtol=1e-2, atol=1e-2)


def test_blockwise_takes_tensors_that_are_views():
    """Heads come as a transposed view of the flat batch, and an MLA value as part of its key."""
    layout = Layout(one_document(2, 50), 4, FULL)
    flat = torch.randn(2, 50, 2, 8, dtype=torch.float64)
    k = flat.transpose(1, 2).requires_grad_()
    q, _, _, log_keep = make_inputs(2, 50)
    outs, grads = [], []
    for name in ("reference", "blockwise"):
        out = resolve(name)(q, k, k[..., :5], log_keep, layout, scale=0.3)
        outs.append(out)
        grads.append(torch.autograd.grad(out.square().sum(), k)[0])
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", ["reference", "blockwise"])
def test_a_window_longer_than_the_text_is_plain_attention(name):
    q, k, v, log_keep = make_inputs(2, 60)
    layout = Layout(one_document(2, 60), 60, FULL)
    out = resolve(name)(q, k, v, log_keep, layout, scale=0.3)
    wanted = functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(out, wanted)
    assert not torch.autograd.grad(out.sum(), log_keep)[0].any()


def test_a_plan_covers_every_pair_and_skips_the_future():
    """Blocks of 4 over 10 tokens with window 3: see the regions in `Block`."""
    blocks = plan_blocks(Layout(one_document(1, 10), 3, FULL), 4)
    assert [tuple(block) for block in blocks] == [
        (0, 4, 0, 0, 0, True),
        (4, 8, 0, 1, 4, True),
        (8, 10, 0, 5, 6, True),
    ]
    assert all(one.stop == other.start for one, other in pairwise(blocks))


def test_a_plan_skips_documents_that_no_row_can_see():
    segments = torch.tensor([[0] * 5 + [1] * 7, [0] * 6 + [1] * 6])
    blocks = plan_blocks(Layout(segments, 2, FULL), 4)
    assert [block.first_key for block in blocks] == [0, 0, 5]
    assert [block.is_clear for block in blocks] == [True, False, False]


@pytest.mark.filterwarnings("ignore:.*(_FLEX_ATTENTION|flex_attention called without)")
def test_flex_gives_the_values_of_the_reference(monkeypatch):
    """Without tracing, which cannot see through the shape checks."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    flex = FlexAttend(is_compiled=False)
    layout = Layout(packed_documents(2, 70), 5, SLIDING)
    q, k, v, log_keep = (
        x.detach() for x in make_inputs(2, 70, sizes=(16, 32), dtype=torch.float32)
    )
    for keep in (log_keep, None):
        out = flex(q, k, v, keep, layout, scale=0.3)
        torch.testing.assert_close(out, resolve("reference")(q, k, v, keep, layout, scale=0.3))


def test_the_functions_that_flex_is_given_are_the_soft_mask():
    """Applied to a full matrix they give the reference, in values and in gradients."""

    def attend(q, k, v, log_keep, layout, *, scale):
        group = q.shape[1] // k.shape[1]
        places = [torch.arange(n) for n in (*q.shape[:3], k.shape[2])]
        indices = torch.meshgrid(*places, indexing="ij")
        scores = scale * q @ k.repeat_interleave(group, 1).mT
        scores = soften(log_keep, layout, group)(scores, *indices)
        scores = scores.masked_fill(~hide_unseen(layout)(*indices), -torch.inf)
        return scores.softmax(-1) @ v.repeat_interleave(group, 1)

    layout, inputs = Layout(packed_documents(2, 40), 5, CHUNKED), make_inputs(2, 40)
    grad = torch.randn(2, 4, 40, 6, dtype=torch.float64)
    wanted = attend_and_differentiate(resolve("reference"), inputs, layout, grad)
    found = attend_and_differentiate(attend, inputs, layout, grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernel needs CUDA")
@pytest.mark.parametrize("packing", [one_document, packed_documents])
def test_compiled_flex_equals_reference_with_gradients(packing):
    flex = FlexAttend(is_compiled=True)
    layout = Layout(packing(2, 200).cuda(), 16, FULL)
    inputs = [
        x.detach().cuda().requires_grad_()
        for x in make_inputs(2, 200, sizes=(32, 32), dtype=torch.float32)
    ]
    grad = torch.randn(2, 4, 200, 32, device="cuda")
    wanted = attend_and_differentiate(resolve("reference"), inputs, layout, grad)
    found = attend_and_differentiate(flex, inputs, layout, grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_an_unknown_backend_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'flash'; it must be one of auto, reference, blockwise"):
        resolve("flash")


def test_auto_needs_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") is resolve("blockwise")
