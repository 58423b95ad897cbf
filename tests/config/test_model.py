"""What a decoder is made of: what configs refuse, and what a token costs."""

from dataclasses import replace

import pytest

from snello.config.model import (
    CacheShape,
    ExpertsConfig,
    Horizon,
    LatentConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
)

CONFIG = ModelConfig(
    family="llama",
    vocab_size=10,
    hidden_size=8,
    mlp_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=4,
    layers=(LayerConfig(), LayerConfig(horizon=Horizon(kind="sliding", span_tokens=3))),
    rope=RopeConfig(size=4),
    max_positions=32,
    attention_scale=0.5,
)


def test_a_token_costs_a_key_and_a_value_for_each_key_value_head():
    shape = CacheShape(num_heads=2, key_size=4, value_size=4)
    near = replace(shape, horizon=Horizon(kind="sliding", span_tokens=3))
    assert CONFIG.cache_shapes == (shape, near)
    assert shape.numbers_per_slot == 8


def test_a_latent_costs_itself_and_its_rotated_part():
    latent = LatentConfig(q_rank=None, kv_rank=6, nope_size=3, rope_size=2, value_size=5)
    shape = replace(CONFIG, latent=latent).cache_shapes[0]
    assert shape == CacheShape(num_heads=1, key_size=8, value_size=6, value_in_key=True)
    assert shape.numbers_per_slot == 8


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: Horizon(kind="sliding"), r"'sliding' with span_tokens None"),
        (lambda: Horizon(span_tokens=4), r"'full' with span_tokens 4; 'full' takes no span"),
        (lambda: Horizon(kind="chunked", span_tokens=0), r"span_tokens is 0; it must be at least"),
        (lambda: RopeConfig(size=5), r"size is 5; it must be even and at least 2"),
        (lambda: replace(CONFIG, num_kv_heads=3), r"4 query heads and 3 key-value heads"),
        (lambda: replace(CONFIG, vocab_size=0), r"vocab_size is 0; it must be at least 1"),
        (lambda: replace(CONFIG, layers=()), r"layers is empty"),
        (lambda: replace(CONFIG, layers=(LayerConfig(routed=True),)), r"experts is None; give"),
        (lambda: ExpertsConfig(num_experts=4, num_active=5, size=1), r"num_active is 5; it must"),
        (
            lambda: ExpertsConfig(num_experts=4, num_active=1, size=1, num_groups=3),
            r"4 experts in 3 groups, 1 kept; groups must divide",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(make, pattern):
    with pytest.raises(ValueError, match=pattern):
        make()
