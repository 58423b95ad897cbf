"""Attention of some rows over one block of keys, added to what they read before.

Knows nothing of pages: it is handed where each key and value begins.
Rows are queries of heads that share a key-value head. Dims: M rows, N keys.
"""

from typing import no_type_check

import triton
import triton.language as tl

from snello.ops.narrow.triton import round_trip


@triton.jit
@no_type_check
def attend_block(
    q_first,
    q_rest,
    keys,
    values,
    wanted,
    seen,
    scale,
    peak,
    total,
    part,
    key_scales,
    value_scales,
    D: tl.constexpr,
    E: tl.constexpr,
    VALUE_IN_KEY: tl.constexpr,
    ALL_WRITTEN: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    SCALED: tl.constexpr = False,
    ROUNDED: tl.constexpr = 0,
):
    """Return the largest score so far, the sum of weights and the weighted sum of values.

    A key is read in two parts where its first numbers are the value (MLA). `wanted` (N) says what
    to load, `seen` (M, N) who sees it; `scale` makes powers of 2 of scores. What is loaded is
    ALL_WRITTEN, or all rows see the same, (1, N), and nothing else. PRECISION is that of products
    of float32. SCALED: what is loaded are bytes, to be multiplied by `key_scales` and
    `value_scales` (N). ROUNDED: read what the rows would be in that format of `ops.narrow`.
    """
    FIRST: tl.constexpr = E if VALUE_IN_KEY else D
    d = tl.arange(0, D_FIRST)
    k = tl.load(keys[:, None] + d[None, :], mask=wanted[:, None] & (d < FIRST)[None, :], other=0.0)
    k_rest = k
    if D_REST > 0:
        rest = FIRST + tl.arange(0, D_REST)
        is_rest = wanted[:, None] & (rest < D)[None, :]
        k_rest = tl.load(keys[:, None] + rest[None, :], mask=is_rest, other=0.0)
    if ROUNDED > 0:
        k = k.to(tl.float32)
        most = tl.max(tl.abs(k), 1)
        if D_REST > 0:
            k_rest = k_rest.to(tl.float32)
            most = tl.maximum(most, tl.max(tl.abs(k_rest), 1))
            k_rest = round_trip(k_rest, most, ROUNDED)
        k = round_trip(k, most, ROUNDED)
    k = k.to(PRODUCT)
    scores = tl.dot(q_first, tl.trans(k), input_precision=PRECISION)
    if D_REST > 0:
        k_rest = k_rest.to(PRODUCT)
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision=PRECISION)
    if SCALED:
        scores = scores * key_scales[None, :]
    scores = tl.where(seen, scores * scale, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    level = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # where nothing was seen so far
    weights = tl.exp2(scores - level[:, None])
    fade = tl.exp2(peak - level)
    if VALUE_IN_KEY:
        v = k
    else:
        e = tl.arange(0, E_WIDE)
        is_number = wanted[:, None] & (e < E)[None, :]
        v = tl.load(values[:, None] + e[None, :], mask=is_number, other=0.0)
        if ROUNDED > 0:
            v = v.to(tl.float32)
            v = round_trip(v, tl.max(tl.abs(v), 1), ROUNDED)
        v = v.to(PRODUCT)
    if not ALL_WRITTEN:  # nothing times a number that is none is none
        v = tl.where(tl.trans(seen), v, 0.0)
    total = total * fade + tl.sum(weights, 1)
    if SCALED:  # a slot without a token may have any scale
        weights = tl.where(seen, weights * value_scales[None, :], 0.0)
    part = tl.dot(weights.to(PRODUCT), v, part * fade[:, None], input_precision=PRECISION)
    return new_peak, total, part
