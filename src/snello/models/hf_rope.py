"""Reading how a config.json stretches its rotary embedding, in the old and the new spelling.

Old: `rope_theta` beside `rope_scaling`; new: both inside `rope_parameters`. Knows nothing of
angles: those are computed in rope.py.
"""

import math
from typing import cast, get_args

from snello.config.model import RopeConfig, RopeScaling
from snello.models.hf_values import Values


def read_rope(
    values: Values,
    head_size: int,
    *,
    theta: float = 10_000.0,
    rotated_fraction: float = 1.0,
    interleaved: bool = False,
) -> RopeConfig:
    """Read the rotary embedding; `theta` and `rotated_fraction` are the family's defaults.

    Raises:
        ValueError: a scaling this project does not know, or a value of the wrong type.
    """
    scaled = values.inner("rope_scaling" if values.has("rope_scaling") else "rope_parameters")
    outer_fraction = values.number("partial_rotary_factor", rotated_fraction)
    fraction = scaled.number("partial_rotary_factor", outer_fraction)
    max_positions = values.integer("max_position_embeddings", 2048)
    scaling = read_scaling(scaled)
    factor = read_factor(scaled, scaling, max_positions)
    original = max_positions
    if scaling in ("llama3", "yarn"):
        outer_original = values.integer("original_max_position_embeddings", max_positions)
        original = scaled.integer("original_max_position_embeddings", outer_original)
    return RopeConfig(
        size=int(head_size * fraction),
        theta=scaled.number("rope_theta", values.number("rope_theta", theta)),
        interleaved=interleaved,
        scaling=scaling,
        factor=factor,
        attention_factor=read_attention_factor(scaled, factor) if scaling == "yarn" else 1.0,
        original_positions=original,
        low_frequency_factor=scaled.number("low_freq_factor", 1.0),
        high_frequency_factor=scaled.number("high_freq_factor", 4.0),
        beta_fast=scaled.number("beta_fast", 32.0),
        beta_slow=scaled.number("beta_slow", 1.0),
        truncate=scaled.flag("truncate", True),
    )


def read_scaling(scaled: Values) -> RopeScaling:
    """Read the kind of scaling: `rope_type`, or `type` in older files."""
    key = "rope_type" if scaled.has("rope_type") else "type"
    return cast(RopeScaling, scaled.word(key, get_args(RopeScaling), "default"))


def read_factor(scaled: Values, scaling: RopeScaling, max_positions: int) -> float:
    """Read by how much the context was stretched; YaRN may leave it to the two contexts."""
    if scaling == "default":
        return 1.0
    if scaling == "yarn" and not scaled.has("factor"):
        return max_positions / scaled.integer("original_max_position_embeddings")
    return scaled.number("factor")


def read_attention_factor(scaled: Values, factor: float) -> float:
    """YaRN's multiplier of cosine and sine, given or derived from the factor.

    Source: YaRN, arXiv:2309.00071, section 3.4; `mscale` keys as DeepSeek's configs have them.
    """
    if scaled.has("attention_factor"):
        return scaled.number("attention_factor")
    mscale, mscale_all = scaled.number("mscale", 0.0), scaled.number("mscale_all_dim", 0.0)
    if mscale and mscale_all:
        return yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all)
    return yarn_mscale(factor)


def read_latent_mscale(values: Values) -> float:
    """What DeepSeek multiplies the softmax scale by, once for queries and once for keys."""
    scaled = values.inner("rope_scaling" if values.has("rope_scaling") else "rope_parameters")
    mscale_all = scaled.number("mscale_all_dim", 0.0)
    scaling = read_scaling(scaled)
    if scaling == "default" or not mscale_all:
        return 1.0
    factor = read_factor(scaled, scaling, values.integer("max_position_embeddings", 2048))
    return yarn_mscale(factor, mscale_all) ** 2


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """The logarithmic growth of attention scores with the stretch of the context."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0
