"""Rounding of weights on a page of paper, its errors, and what it refuses."""

import pytest
import torch

from snello.quant.rounding import check_group, dequantize, quantize


def place(values, size=32):
    """One row of one group that begins with these values; the others are zero."""
    return torch.tensor([[*values, *[0.0] * (size - len(values))]])


def test_int8_on_a_page_of_paper():
    """The largest is -128 steps of -0.5; 128 of them are one too many. Ties go to even."""
    rounded = quantize(place([64.0, -64.0, 0.75, 1.25, 0.2]), 8, 32)
    assert rounded.scales.tolist() == [[-0.5]]
    assert rounded.codes[0, :5].tolist() == [-128, 127, -2, -2, 0]


def test_int4_on_a_page_of_paper():
    """A negative largest weight makes a positive scale: -16 is -8 steps of 2."""
    rounded = quantize(place([15.0, -16.0, 2.9, -3.1, 1.0]), 4, 32)
    assert rounded.scales.tolist() == [[2.0]]
    assert rounded.codes[0, :5].tolist() == [7, -8, 1, -2, 0]


def test_each_group_has_its_own_scale_and_zeros_stay_zero():
    weight = torch.cat((place([128.0]), place([-0.25]), place([])), dim=1)
    rounded = quantize(weight, 8, 32)
    assert rounded.scales.shape == (1, 3)
    assert rounded.codes[0, [0, 32, 64]].tolist() == [-128, -128, 0]
    assert dequantize(rounded)[0, 64:].abs().sum() == 0


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_no_weight_moves_by_more_than_half_a_step_but_those_beyond_the_last(bits, group):
    weight = torch.randn(40, 256)
    rounded = quantize(weight, bits, group)
    steps = rounded.scales.float().repeat_interleave(group, dim=1)
    moved = ((dequantize(rounded) - weight) / steps).abs()
    inside = weight / steps <= (1 << (bits - 1)) - 1
    assert moved[inside].max() <= 0.5 + 2 ** (bits - 10)  # scales are bfloat16
    assert moved[~inside].max() <= 1 + 2 ** (bits - 9)


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_in_sixteen_bits_cost_nothing(bits):
    """Codes follow from the rounded scale."""
    weight = torch.randn(2000, 64)
    rounded = quantize(weight, bits, 64)
    largest = weight.abs().amax(dim=1, keepdim=True)
    step = largest / (1 << (bits - 1))
    plain = (weight / step).round() * step
    error = (dequantize(rounded) - weight).norm() / weight.norm()
    assert error < 1.1 * (plain - weight).norm() / weight.norm()


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_again_with_the_same_scales_changes_nothing(bits):
    rounded = quantize(torch.randn(7, 128), bits, 64)
    again = quantize(dequantize(rounded), bits, 64, scales=rounded.scales)
    assert torch.equal(again.codes, rounded.codes)


@pytest.mark.parametrize(
    ("num_inputs", "group", "message"),
    [
        (64, 48, "the group is 48; it must be one of 32, 64, 128"),
        (96, 64, "96 inputs, which is no multiple of the group 64; .* take 32"),
        (40, 32, "this model cannot be quantized"),
    ],
)
def test_bad_groups_are_told_in_one_line(num_inputs, group, message):
    with pytest.raises(ValueError, match=message):
        check_group(num_inputs, group)
