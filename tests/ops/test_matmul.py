"""Products with packed weights: layout, a page of paper, the kernel against the reference."""

import pytest
import torch

from snello.ops.matmul import resolve, resolve_look_up
from snello.ops.matmul.packing import pack, pack_gated, unpack_rows
from snello.ops.matmul.rounding import quantize_rows
from snello.ops.native import load_library
from snello.quant.rounding import dequantize, quantize

needs_kernels = pytest.mark.skipif(not load_library().is_loaded, reason=str(load_library().reason))


def make(num_outputs, num_inputs, bits, group):
    rounded = quantize(torch.randn(num_outputs, num_inputs), bits, group)
    return pack(rounded.codes, rounded.scales, bits), rounded


def make_gated(num_outputs, num_inputs, bits, group):
    rounded = quantize(torch.randn(2 * num_outputs, num_inputs), bits, group)
    codes, scales = (each.unflatten(0, (2, -1)) for each in rounded[:2])
    return pack_gated(codes, scales, bits), rounded


def assert_near(ours, theirs):
    """Sums of hundreds of float terms, in another order."""
    assert (ours - theirs).abs().max() <= 1e-5 * (1 + theirs.abs().max())


def test_activations_on_a_page_of_paper():
    """127 steps for the largest of each group; a group of zeros has scale zero."""
    x = torch.zeros(1, 96)
    x[0, 0], x[0, 1], x[0, 32] = -12.7, 0.26, 254.0
    codes, scales = quantize_rows(x, 32)
    assert codes[0, [0, 1, 32, 64]].tolist() == [-127, 3, 127, 0]
    assert scales[0].tolist() == pytest.approx([0.1, 2.0, 0.0])


def test_product_on_a_page_of_paper():
    """Weights 2 * 3 and 2 * -4, activations 127 and 64 at scale 1: 2 * (381 - 256) = 250."""
    codes, x = torch.zeros(1, 32, dtype=torch.int8), torch.zeros(1, 32)
    codes[0, 0], codes[0, 9], x[0, 0], x[0, 9] = 3, -4, 127.0, 64.0
    packed = pack(codes, torch.tensor([[2.0]], dtype=torch.bfloat16), 4)
    out = resolve("reference")(x, packed, bias=torch.tensor([1.0]), residual=torch.tensor([[9.0]]))
    assert out.tolist() == [[260.0]]


def test_a_code_stands_where_the_layout_says():
    """int8: input 5 of output 3 is byte 1 of lane 3 in the second pair of vectors. int4: a low
    nibble's neighbour four inputs on is its high nibble."""
    codes = torch.zeros(32, 32, dtype=torch.int8)
    codes[3, 5] = 7
    scales = torch.ones(32, 1, dtype=torch.bfloat16)
    data = pack(codes, scales, 8).data[0, 64:]
    assert (data != 128).nonzero().tolist() == [[128 + 3 * 4 + 1]]
    data = pack(codes, scales, 4).data[0, 64:]
    assert (data != 0x88).nonzero().tolist() == [[3 * 4 + 1]]
    assert data[3 * 4 + 1] == 0xF8


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("num_outputs", [1, 63, 128, 200])
def test_rows_come_back_as_they_were_packed(num_outputs, bits):
    packed, rounded = make(num_outputs, 192, bits, 64)
    rows = torch.randperm(num_outputs)
    codes, scales = unpack_rows(packed, rows)
    assert torch.equal(codes, rounded.codes[rows])
    assert torch.equal(scales, rounded.scales[rows].float())
    for backend in ["reference", *(["cpu"] if load_library().is_loaded else [])]:
        look_up = resolve_look_up(backend)
        assert torch.equal(look_up(packed, rows), dequantize(rounded)[rows])
        assert look_up(packed, rows[:0]).shape == (0, 192)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_reference_is_close_to_the_float_product(bits):
    x = torch.randn(9, 256)
    packed, rounded = make(50, 256, bits, 64)
    exact = x @ dequantize(rounded).T
    assert (resolve("reference")(x, packed) - exact).norm() < 0.01 * exact.norm()
    gated, rounded = make_gated(50, 256, bits, 64)
    gate, up = (x @ dequantize(rounded).T).chunk(2, dim=-1)
    exact = torch.nn.functional.silu(gate) * up
    assert (resolve("reference")(x, gated) - exact).norm() < 0.02 * exact.norm()


@needs_kernels
class TestKernel:
    @pytest.mark.parametrize("narrow", [False, True])
    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("group", [32, 64, 128])
    @pytest.mark.parametrize("num_rows", [0, 1, 7, 63, 128, 200])
    def test_gives_what_the_reference_gives(self, num_rows, group, bits, narrow):
        x = torch.randn(num_rows, 256)
        packed, _ = make(70, 256, bits, group)
        residual, bias = torch.randn(num_rows, 70), torch.randn(70)
        kernel, reference = resolve("cpu"), resolve("reference")
        for extra in ({}, {"bias": bias}, {"residual": residual, "bias": bias}):
            ours = kernel(x, packed, **extra, narrow=narrow)
            assert ours.shape == (num_rows, 70)
            if num_rows:
                assert_near(ours, reference(x, packed, **extra))

    @pytest.mark.parametrize("narrow", [False, True])
    @pytest.mark.parametrize("bits", [8, 4])
    @pytest.mark.parametrize("num_outputs", [1, 16, 63, 128, 200])
    def test_gated(self, num_outputs, bits, narrow):
        x = torch.randn(5, 128)
        packed, _ = make_gated(num_outputs, 128, bits, 64)
        assert_near(resolve("cpu")(x, packed, narrow=narrow), resolve("reference")(x, packed))

    @pytest.mark.parametrize("gate", [0.0, 3e4, -3e4])
    def test_gates_far_out_neither_overflow_nor_vanish(self, gate):
        codes = torch.full((2, 1, 32), 127, dtype=torch.int8)
        scales = torch.tensor([[[gate / 127**2]], [[1.0 / 127]]], dtype=torch.bfloat16)
        out = resolve("cpu")(torch.ones(1, 32), pack_gated(codes, scales, 8))
        reference = resolve("reference")(torch.ones(1, 32), pack_gated(codes, scales, 8))
        assert torch.allclose(out, reference, rtol=1e-5)

    def test_a_norm_before_is_the_norm_and_then_the_product(self):
        from snello.ops.norm import resolve as resolve_norm

        x, norm = torch.randn(63, 384), (torch.rand(384), 1e-6)
        packed, _ = make(70, 384, 8, 128)
        kernel = resolve("cpu")
        normed = resolve_norm("cpu")(x, *norm)
        assert torch.equal(kernel(x, packed, norm=norm), kernel(normed, packed))

    @pytest.mark.parametrize("bits", [8, 4])
    def test_a_row_is_the_same_bit_for_bit_whoever_shares_its_call(self, bits):
        x = torch.randn(23, 256)
        packed, _ = make_gated(40, 256, bits, 64)
        together = resolve("cpu")(x, packed)
        alone = [resolve("cpu")(row[None], packed) for row in x]
        assert torch.equal(together, torch.cat(alone))

    def test_extreme_codes_and_activations_are_exact_on_both_instruction_sets(self):
        """The largest products there are: a saturating instruction would show here."""
        codes = torch.tensor([[127, -128] * 32, [-128] * 64, [127] * 64], dtype=torch.int8)
        packed = pack(codes, torch.ones(3, 1, dtype=torch.bfloat16), 8)
        x = torch.tensor([[127.0] * 64, [-127.0] * 64, [127.0, -127.0] * 32])
        exact = (x.double() @ codes.double().T).float()
        for narrow in (False, True):
            assert torch.equal(resolve("cpu")(x, packed, narrow=narrow), exact)

    def test_what_does_not_fit_is_refused(self):
        packed, _ = make(40, 128, 8, 64)
        kernel = resolve("cpu")
        with pytest.raises(RuntimeError, match="96 inputs do not make groups of 64"):
            kernel(torch.randn(2, 96), packed)
        with pytest.raises(RuntimeError, match="not what packing makes"):
            kernel(torch.randn(2, 192), packed)
        with pytest.raises(RuntimeError, match="bias has 41 numbers; it must have 40"):
            kernel(torch.randn(2, 128), packed, bias=torch.randn(41))
