"""Append and retire on a GPU, one program a head. Knows nothing of layers, pools or queries."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.narrow.triton import (
    NIBBLES,
    choose_scale,
    choose_shrink,
    choose_step,
    find_extreme,
    pack_nibbles,
    rotate,
    round_numbers,
    round_to_nibbles,
    unpack_narrow,
)
from snello.ops.pages import Lists, Narrow, News, Slots, Tails
from snello.ops.retain.triton import in_sight, unpack_horizon


@triton.jit
@no_type_check
def find_slot(listed_pages, position, RING: tl.constexpr, S: tl.constexpr, V: tl.constexpr):
    """Where a position and its mark lie in the ring, and where it is noted; 0 for nobody's."""
    place = tl.maximum(position, 0) % RING
    page = tl.load(listed_pages + place // S)
    return page * S + place % S, page * V + place % S


@triton.jit
@no_type_check
def retire_row(
    row,
    codes,
    scale,
    target,
    fits,
    STRIDE: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Round a row (WIDE), of which SIZE numbers count, into a survivor's slot."""
    d = tl.arange(0, WIDE)
    is_number = fits & (d < SIZE)
    row = tl.where(is_number, row.to(tl.float32), 0.0)
    if FORMAT == NIBBLES:
        MIXED: tl.constexpr = (SIZE & -SIZE) if SIZE > 0 else 1
        rotated = rotate(tl.reshape(row, (1, WIDE)), MIXED)
        extreme = find_extreme(rotated)
        pairs = pack_nibbles(round_to_nibbles(rotated, extreme))
        c = tl.arange(0, WIDE // 2)
        tl.store(codes + target * (STRIDE // 2) + c, pairs, mask=fits & (2 * c < SIZE))
        step = tl.sum(choose_step(extreme), 0) * (1.0 / MIXED)
        tl.store(scale, step.to(scale.dtype.element_ty), mask=fits)
    else:
        most = tl.max(tl.abs(row), 0)
        rounded = round_numbers(row * choose_shrink(most, FORMAT), FORMAT)
        tl.store(codes + target * STRIDE + d, rounded, mask=is_number)
        tl.store(scale, choose_scale(most, FORMAT), mask=fits)


@triton.jit
@no_type_check
def append_to_heads(
    k,
    v,
    marks,
    rows,
    new_positions,
    sequences,
    about,
    keys,
    values,
    positions,
    evict,
    pages,
    num_held,
    num_survivors,
    spare,
    key_codes,
    value_codes,
    scales,
    num_heads_listed,
    width,
    marks_stride,
    span,
    K: tl.constexpr,
    S: tl.constexpr,
    V: tl.constexpr,
    RING: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr,
    HORIZON: tl.constexpr,
    FORMAT: tl.constexpr,
    KEY_WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
):
    b, head = tl.program_id(0), tl.program_id(1)
    new, told_position = tl.load(new_positions + b), tl.load(about + b)
    listed = tl.load(sequences + b) * num_heads_listed + head
    row = tl.load(rows + b)
    token = row * K + head
    listed_pages = pages + listed * width
    mark = tl.load(marks + row * marks_stride + head) != 0
    is_own = told_position == new
    is_told = (told_position >= 0) & (told_position != new)
    told, _ = find_slot(listed_pages, told_position, RING, S, V)
    slot, place = find_slot(listed_pages, new, RING, S, V)
    old = new - RING

    is_marked = tl.load(evict + slot) != 0
    is_marked = (is_told & (told == slot) & mark) | (~(is_told & (told == slot)) & is_marked)
    kept = (old >= 0) & in_sight(new, old, span, HORIZON) & ~is_marked
    count = tl.load(num_survivors + listed)
    held = tl.load(num_held + listed)
    column = (RING + S - 1) // S + count // V
    opens = kept & (count % V == 0)
    tail = tl.load(listed_pages + column, mask=kept & ~opens, other=-1)
    tail = tl.where(opens, tl.load(spare + listed), tail)
    fits = kept & (tail >= 0) & (column < width)
    tl.device_assert(fits | ~kept, "append_token: a head needs a page and was given no spare one")
    target = tail * V + count % V

    d = tl.arange(0, KEY_WIDE)
    is_key = d < KEY_STRIDE
    old_key = tl.load(keys + slot * KEY_STRIDE + d, mask=fits & is_key, other=0.0)
    old_position = tl.load(positions + place)
    if VALUE_STRIDE > 0:
        e = tl.arange(0, VALUE_WIDE)
        is_value = e < VALUE_STRIDE
        old_value = tl.load(values + slot * VALUE_STRIDE + e, mask=fits & is_value, other=0.0)
    tl.debug_barrier()  # all has been read that is overwritten from here on, also by other threads

    if FORMAT == 0:
        tl.store(keys + target * KEY_STRIDE + d, old_key, mask=fits & is_key)
        tl.store(evict + target, 0, mask=fits)
    else:
        retire_row(
            old_key,
            key_codes,
            scales + 2 * target,
            target,
            fits,
            KEY_STRIDE,
            KEY_SIZE,
            KEY_WIDE,
            FORMAT,
        )
    tl.store(positions + target, old_position, mask=fits)
    key = tl.load(k + token * KEY_SIZE + d, mask=d < KEY_SIZE, other=0.0)
    tl.store(keys + slot * KEY_STRIDE + d, key.to(keys.dtype.element_ty), mask=d < KEY_SIZE)
    if VALUE_STRIDE > 0:
        if FORMAT == 0:
            tl.store(values + target * VALUE_STRIDE + e, old_value, mask=fits & is_value)
        else:
            retire_row(
                old_value,
                value_codes,
                scales + 2 * target + 1,
                target,
                fits,
                VALUE_STRIDE,
                VALUE_SIZE,
                VALUE_WIDE,
                FORMAT,
            )
        value = tl.load(v + token * VALUE_SIZE + e, mask=e < VALUE_SIZE, other=0.0)
        value = value.to(values.dtype.element_ty)
        tl.store(values + slot * VALUE_STRIDE + e, value, mask=e < VALUE_SIZE)
    tl.store(positions + place, new.to(tl.int32))
    tl.store(evict + slot, mark & is_own)
    tl.store(evict + told, mark, mask=is_told & (told != slot))
    tl.store(listed_pages + column, tail, mask=fits & opens)
    tl.store(num_held + listed, held + 1, mask=fits & opens)
    tl.store(spare + listed, -1, mask=fits & opens)
    tl.store(num_survivors + listed, count + 1, mask=fits)


def append_token(
    k: Float[Tensor, "T K D"],
    v: Float[Tensor, "T K E"],
    marks: Bool[Tensor, "T K"],
    news: News,
    about: Int[Tensor, " B"],
    slots: Slots,
    lists: Lists,
    tails: Tails,
    shape: CacheShape,
    ring_tokens: int,
    narrow: Narrow | None = None,
) -> None:
    """As `reference.append_token`; a head without the spare page that it needs gains nothing.

    That is a bug of whoever calls, and with TRITON_DEBUG=1 the device says so.
    """
    kind, span = unpack_horizon(shape.horizon)
    key_stride, value_stride = slots.keys.shape[2], slots.values.shape[2]
    coded, form, _ = unpack_narrow(narrow, slots.keys, slots.values)
    append_to_heads[(len(news.rows), shape.num_heads)](
        k.contiguous(),
        v.contiguous(),
        marks,
        *news,
        about,
        *slots,
        *lists,
        *tails,
        *coded,
        lists.pages.shape[1],
        lists.pages.shape[2],
        marks.stride(0),
        span,
        K=shape.num_heads,
        S=slots.keys.shape[1],
        V=slots.positions.shape[1],
        RING=ring_tokens,
        KEY_SIZE=k.shape[2],
        VALUE_SIZE=v.shape[2],
        KEY_STRIDE=key_stride,
        VALUE_STRIDE=value_stride,
        HORIZON=kind,
        FORMAT=form,
        KEY_WIDE=triton.next_power_of_2(key_stride),
        VALUE_WIDE=triton.next_power_of_2(value_stride),
        num_warps=1 if key_stride <= 128 else 4,
    )
