"""Rounding of weights on a page of paper, its errors, and what it refuses."""

import pytest
import torch

from snello.quant.rounding import RANGES, check_group, dequantize, quantize


def place(values, size=32):
    """One row of one group that begins with these values; the others are zero."""
    return torch.tensor([[*values, *[0.0] * (size - len(values))]])


def test_int8_on_a_page_of_paper():
    """The largest is 127 steps of 0.5; ties go to the even neighbour."""
    rounded = quantize(place([63.5, -63.5, 0.75, 1.25, 0.2]), 8, 32)
    assert rounded.scales.tolist() == [[0.5]]
    assert rounded.codes[0, :5].tolist() == [127, -127, 2, 2, 0]


def test_int4_on_a_page_of_paper():
    """The largest is 7.5 steps of 2: a positive one stops at 7, a negative one rounds to -8."""
    rounded = quantize(place([15.0, -15.0, 2.9, -3.1, 1.0]), 4, 32)
    assert rounded.scales.tolist() == [[2.0]]
    assert rounded.codes[0, :5].tolist() == [7, -8, 1, -2, 0]


def test_each_group_has_its_own_scale_and_zeros_stay_zero():
    weight = torch.cat((place([127.0]), place([1.27 / 4]), place([])), dim=1)
    rounded = quantize(weight, 8, 32)
    assert rounded.scales.shape == (1, 3)
    assert rounded.codes[0, [0, 32, 64]].tolist() == [127, 127, 0]
    assert dequantize(rounded)[0, 64:].abs().sum() == 0


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_no_weight_moves_by_more_than_half_a_step(bits, group):
    weight = torch.randn(40, 256)
    rounded = quantize(weight, bits, group)
    steps = rounded.scales.float().repeat_interleave(group, dim=1)
    moved = (dequantize(rounded) - weight).abs() / steps
    assert moved.max() <= 0.5 + 2**-8 * RANGES[bits].spread / 2  # scales are bfloat16


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
