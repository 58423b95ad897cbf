"""Rounding numbers to whole ones by a scale for each group. Knows nothing of weights."""

import torch
from jaxtyping import Float, Int8, Shaped
from torch import Tensor

SMALLEST = 1e-30
"""A group with nothing larger than this counts as zero."""

ACTIVATION_LIMIT = 127


def split_groups(x: Shaped[Tensor, "*rows C"], group: int) -> Shaped[Tensor, "*rows groups G"]:
    """The last dimension as groups of so many."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // group, group)


def round_codes(
    groups: Float[Tensor, "*rows G"],
    scales: Float[Tensor, "*rows"],
    lowest: int,
    highest: int,
) -> Int8[Tensor, "*rows G"]:
    """The whole number nearest to each value over its group's scale; ties go to even."""
    wide = scales[..., None]
    codes = torch.where(wide != 0, torch.round(groups / wide), 0.0)
    return codes.clamp(lowest, highest).to(torch.int8)


def quantize_rows(
    x: Float[Tensor, "T C"], group: int
) -> tuple[Int8[Tensor, "T C"], Float[Tensor, "T groups"]]:
    """Round activations to [-127, 127], the largest of each group to 127; scales are float32.

    The kernel multiplies by 127 / largest instead of dividing: so does this.
    """
    groups = split_groups(x, group)  # (T, groups, G)
    largest = groups.abs().amax(dim=-1)
    some = largest > SMALLEST
    inverse = torch.where(some, ACTIVATION_LIMIT / largest, 0.0)
    codes = torch.round(groups * inverse[..., None]).to(torch.int8)
    return codes.flatten(1), torch.where(some, largest / ACTIVATION_LIMIT, 0.0)
