"""Attention of some rows over one block of keys, added to what they read before.

Knows nothing of pages: it is handed where each key and value begins.
Rows are queries of heads that share a key-value head. Dims: M rows, N keys.
"""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl

from snello.config.model import CacheShape
from snello.ops.narrow.hadamard import count_mixed
from snello.ops.narrow.triton import NIBBLES, find_extreme, rotate, round_trip


class Widths(NamedTuple):
    """How the numbers of a key and of a value lie in registers, by the names of kernels.

    A key is read in two parts where its first numbers are the value (MLA): FIRST, and the rest.
    Blocks of MIXED numbers of keys, and of VALUE_MIXED of values, are rotated where that is asked.
    """

    FIRST: int
    D_FIRST: int
    D_REST: int
    E_WIDE: int
    MIXED: int
    VALUE_MIXED: int


def choose_widths(shape: CacheShape, form: int) -> Widths:
    """Powers of 2 of at least 16; where rows are rotated, no block belongs to both parts."""
    D, E = shape.key_size, shape.value_size
    mixed = count_mixed(D) if form == NIBBLES.value else 1
    value_mixed = count_mixed(E) if form == NIBBLES.value else 1
    first, value_wide = D, E
    if shape.value_in_key:
        whole = max(mixed, 2) if form == NIBBLES.value else 1  # no byte belongs to both, either
        first, value_mixed = min(D, -(-E // whole) * whole), mixed
        value_wide = first
    first_wide, rest_wide, value_wide = (
        max(16, triton.next_power_of_2(size)) for size in (first, D - first, value_wide)
    )
    return Widths(first, first_wide, rest_wide if first < D else 0, value_wide, mixed, value_mixed)


@triton.jit
@no_type_check
def load_numbers(
    rows,
    wanted,
    BEGIN: tl.constexpr,
    END: tl.constexpr,
    WIDE: tl.constexpr,
    CODES: tl.constexpr,
    MIXED: tl.constexpr,
):
    """Load numbers [BEGIN, END) of each row: what is stored, or what stands for it.

    Of nibbles, rows are rotated back in blocks of MIXED, and divided by it; 1: left as they are.
    """
    if CODES == NIBBLES:
        c = BEGIN // 2 + tl.arange(0, WIDE // 2)
        is_pair = wanted[:, None] & (c < (END + 1) // 2)[None, :]
        pairs = tl.load(rows[:, None] + c[None, :], mask=is_pair, other=0).to(tl.int32)
        both = tl.join((pairs << 28) >> 28, (pairs << 24) >> 28)
        numbers = tl.reshape(both, (rows.shape[0], WIDE)).to(tl.float32)
        numbers = rotate(numbers, MIXED) * (1.0 / MIXED)
    else:
        d = BEGIN + tl.arange(0, WIDE)
        is_number = wanted[:, None] & (d < END)[None, :]
        numbers = tl.load(rows[:, None] + d[None, :], mask=is_number, other=0.0)
    return numbers


@triton.jit
@no_type_check
def round_rows(first, rest, MIXED: tl.constexpr, HAS_REST: tl.constexpr, ROUNDED: tl.constexpr):
    """What rows (N, D), perhaps in two parts, are after they were stored narrow."""
    first, rest = first.to(tl.float32), rest.to(tl.float32)
    if ROUNDED == NIBBLES:
        first = rotate(first, MIXED)
        most = find_extreme(first)
        if HAS_REST:
            rest = rotate(rest, MIXED)
            other = find_extreme(rest)
            is_farther = tl.abs(other) > tl.abs(most)
            most = tl.where(
                is_farther,
                other,
                tl.where(tl.abs(other) == tl.abs(most), tl.minimum(most, other), most),
            )
    else:
        most = tl.max(tl.abs(first), 1)
        if HAS_REST:
            most = tl.maximum(most, tl.max(tl.abs(rest), 1))
    if HAS_REST:
        rest = round_trip(rest, most, ROUNDED, MIXED)
    return round_trip(first, most, ROUNDED, MIXED), rest


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
    FIRST: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    MIXED: tl.constexpr,
    VALUE_MIXED: tl.constexpr,
    CODES: tl.constexpr = 0,
    ROUNDED: tl.constexpr = 0,
    ROTATED: tl.constexpr = False,
):
    """Return the largest score so far, the sum of weights and the weighted sum of values.

    `wanted` (N) says what to load, `seen` (M, N) who sees it; `scale` makes powers of 2 of scores.
    What is loaded is ALL_WRITTEN, or all rows see the same, (1, N), and nothing else. PRECISION is
    that of products of float32. CODES: what is loaded is in that format of `ops.narrow`, to be
    multiplied by `key_scales` and `value_scales` (N). ROUNDED: read what the rows would be in that
    format. ROTATED: of nibbles, queries are rotated instead of rows (see `rotate_query`), and so is
    the part, which is VALUE_MIXED times as large.
    """
    BACK: tl.constexpr = 1 if ROTATED else MIXED
    k = load_numbers(keys, wanted, 0, FIRST, D_FIRST, CODES, BACK)
    k_rest = k
    if D_REST > 0:
        k_rest = load_numbers(keys, wanted, FIRST, D, D_REST, CODES, BACK)
    if ROUNDED > 0:
        k, k_rest = round_rows(k, k_rest, MIXED, D_REST > 0, ROUNDED)
    k = k.to(PRODUCT)
    scores = tl.dot(q_first, tl.trans(k), input_precision=PRECISION)
    if D_REST > 0:
        k_rest = k_rest.to(PRODUCT)
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision=PRECISION)
    if CODES > 0:
        scores = scores * (key_scales * MIXED)[None, :]
    scores = tl.where(seen, scores * scale, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1))
    level = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # where nothing was seen so far
    weights = tl.exp2(scores - level[:, None])
    fade = tl.exp2(peak - level)
    if VALUE_IN_KEY:
        v = k
    else:
        VALUE_BACK: tl.constexpr = 1 if ROTATED else VALUE_MIXED
        v = load_numbers(values, wanted, 0, E, E_WIDE, CODES, VALUE_BACK)
        if ROUNDED > 0:
            v, _ = round_rows(v, v, VALUE_MIXED, False, ROUNDED)
        v = v.to(PRODUCT)
    if not ALL_WRITTEN:  # nothing times a number that is none is none
        v = tl.where(tl.trans(seen), v, 0.0)
    total = total * fade + tl.sum(weights, 1)
    if CODES > 0:  # a slot without a token may have any scale
        weights = tl.where(seen, weights * (value_scales * VALUE_MIXED)[None, :], 0.0)
    part = tl.dot(weights.to(PRODUCT), v, part * fade[:, None], input_precision=PRECISION)
    return new_peak, total, part
