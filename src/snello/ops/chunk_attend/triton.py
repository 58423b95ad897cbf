"""Attention of chunks over pages and themselves on a GPU. Knows nothing of layers.

A program works on some queries of one key-value head, all heads of a group together: first over the
slots between the first and the last that one of them may see (found by a pass over positions
alone), then over those new tokens that are not ahead. Blocks of queries of all sequences are found
by a search in their running sum, so ragged chunks cost nothing and the host learns no length.

Source: FlashAttention-2, arXiv:2307.08691, with the rule of `ops.retain` as its mask.
"""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.attend.triton import attend_block, choose_widths
from snello.ops.gpu import LOG2_E, choose_product, count_programs
from snello.ops.narrow.triton import NIBBLES, unpack_narrow
from snello.ops.pages import Fresh, Lists, Narrow, News, Slots
from snello.ops.retain.triton import in_sight, is_recent, retain, unpack_horizon

GLANCE = tl.constexpr(1024)
"""Slots whose positions are looked at together."""

ROWS = 64
"""Queries times heads of a program: as many as the matrix units take at once."""


@triton.jit
@no_type_check
def find_slots_in_sight(
    positions,
    listed_pages,
    num_slots,
    oldest,
    newest,
    span,
    SLOTS: tl.constexpr,
    V: tl.constexpr,
    HORIZON: tl.constexpr,
):
    """Where the slots begin and end that any query from `oldest` to `newest` may see.

    A page has SLOTS of them, and V places for their positions.
    """
    begin, end = num_slots, 0
    for first in range(0, num_slots, GLANCE):
        n = first + tl.arange(0, GLANCE)
        is_slot = n < num_slots
        page = tl.load(listed_pages + n // SLOTS, mask=is_slot, other=0)
        position = tl.load(positions + page * V + n % SLOTS, mask=is_slot, other=0)
        is_near = (position >= oldest) | in_sight(oldest, position, span, HORIZON)
        found = is_slot & (position <= newest) & is_near
        begin = tl.minimum(begin, tl.min(tl.where(found, n, num_slots), 0))
        end = tl.maximum(end, tl.max(tl.where(found, n + 1, 0), 0))
    return begin, end


@triton.jit
@no_type_check
def read_twice(
    q_first,
    q_rest,
    keys,
    values,
    wanted,
    seen,
    recent,
    scale,
    peak,
    total,
    part,
    D: tl.constexpr,
    E: tl.constexpr,
    VALUE_IN_KEY: tl.constexpr,
    PRODUCT: tl.constexpr,
    FIRST: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    MIXED: tl.constexpr,
    VALUE_MIXED: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Attend over exact keys; who sees one behind its window sees it rounded, if there is a format.

    `seen` and `recent` are (M, N).
    """
    near = seen
    if FORMAT != 0:
        near = seen & recent
    peak, total, part = attend_block(
        q_first,
        q_rest,
        keys,
        values,
        wanted,
        near,
        scale,
        peak,
        total,
        part,
        scale,
        scale,
        D,
        E,
        VALUE_IN_KEY,
        True,
        PRODUCT,
        "tf32x3",
        FIRST,
        D_FIRST,
        D_REST,
        E_WIDE,
        MIXED,
        VALUE_MIXED,
    )
    if FORMAT != 0:
        far = seen & ~recent
        if tl.sum(tl.sum(far.to(tl.int32), 1), 0) > 0:
            peak, total, part = attend_block(
                q_first,
                q_rest,
                keys,
                values,
                wanted,
                far,
                scale,
                peak,
                total,
                part,
                scale,
                scale,
                D,
                E,
                VALUE_IN_KEY,
                True,
                PRODUCT,
                "tf32x3",
                FIRST,
                D_FIRST,
                D_REST,
                E_WIDE,
                MIXED,
                VALUE_MIXED,
                0,
                FORMAT,
            )
    return peak, total, part


@triton.jit
@no_type_check
def read_chunks(
    q,
    rows,
    starts,
    sequences,
    counts,
    fresh_keys,
    fresh_values,
    fresh_evict,
    keys,
    values,
    positions,
    evict,
    pages,
    num_held,
    key_codes,
    value_codes,
    scales,
    out,
    num_seen,
    num_heads_listed,
    width,
    num_sequences,
    fresh_stride,
    window,
    span,
    scale,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    S: tl.constexpr,
    V: tl.constexpr,
    FORMAT: tl.constexpr,
    RING_PAGES: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr,
    FRESH_VALUE_SIZE: tl.constexpr,
    VALUE_IN_KEY: tl.constexpr,
    HAS_FRESH: tl.constexpr,
    HORIZON: tl.constexpr,
    PRODUCT: tl.constexpr,
    SEQUENCES: tl.constexpr,
    QUERIES: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    MIXED: tl.constexpr,
    VALUE_MIXED: tl.constexpr,
):
    BLOCKS_OF_HEADS: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    SHARES: tl.constexpr = K * BLOCKS_OF_HEADS
    every = tl.arange(0, SEQUENCES)
    size = tl.load(counts + every, mask=every < num_sequences, other=0).to(tl.int32)
    ends = tl.cumsum((size + QUERIES - 1) // QUERIES, 0)
    num_items = tl.max(ends, 0) * SHARES
    m = tl.arange(0, QUERIES * HEADS)
    d = tl.arange(0, D_FIRST)
    e = tl.arange(0, E_WIDE)

    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        work = item // SHARES
        b = tl.sum((ends <= work).to(tl.int32), 0)
        block = work - tl.max(tl.where(ends <= work, ends, 0), 0)
        head = item % SHARES // BLOCKS_OF_HEADS
        g = item % BLOCKS_OF_HEADS * HEADS + m % HEADS
        count = tl.load(counts + b).to(tl.int32)
        start = tl.load(starts + b).to(tl.int32)
        first_row = tl.load(rows + b)
        index = block * QUERIES + m // HEADS
        is_row = (index < count) & (g < GROUP)
        query = start + index
        newest = start + tl.minimum((block + 1) * QUERIES, count) - 1
        answer = ((first_row + index) * K + head) * GROUP + g
        asked = q + answer[:, None] * D
        is_number = is_row[:, None] & (d < FIRST)[None, :]
        q_first = tl.load(asked + d[None, :], mask=is_number, other=0.0).to(PRODUCT)
        q_rest = q_first
        if D_REST > 0:
            rest = FIRST + tl.arange(0, D_REST)
            is_number = is_row[:, None] & (rest < D)[None, :]
            q_rest = tl.load(asked + rest[None, :], mask=is_number, other=0.0).to(PRODUCT)
        peak = tl.full([QUERIES * HEADS], float("-inf"), tl.float32)
        total = tl.zeros([QUERIES * HEADS], tl.float32)
        part = tl.zeros([QUERIES * HEADS, E_WIDE], tl.float32)
        seen_by_row = tl.zeros([QUERIES * HEADS], tl.int32)

        listed = tl.load(sequences + b) * num_heads_listed + head
        listed_pages = pages + listed * width
        num_pages = tl.load(num_held + listed).to(tl.int32)
        num_slots = num_pages * S
        if FORMAT != 0:
            num_slots = tl.minimum(num_pages, RING_PAGES) * S
        oldest = start + block * QUERIES
        begin, end = find_slots_in_sight(
            positions, listed_pages, num_slots, oldest, newest, span, S, V, HORIZON
        )
        for first in tl.range(begin, end, BLOCK):
            n = first + tl.arange(0, BLOCK)
            is_slot = n < end
            page = tl.load(listed_pages + n // S, mask=is_slot, other=0)
            slot, place = page * S + n % S, page * V + n % S
            position = tl.load(positions + place, mask=is_slot, other=0)
            mark = tl.load(evict + slot, mask=is_slot, other=0) != 0
            seen = retain(query[:, None], position[None, :], mark[None, :], window, span, HORIZON)
            seen = seen & is_slot[None, :] & is_row[:, None]
            seen_by_row += tl.sum(seen.to(tl.int32), 1)
            peak, total, part = read_twice(
                q_first,
                q_rest,
                keys + slot * KEY_STRIDE,
                values + slot * VALUE_STRIDE,
                is_slot & (position <= newest),  # slots without a token are ahead of every query
                seen,
                is_recent(query[:, None], position[None, :], window),
                scale,
                peak,
                total,
                part,
                D,
                E,
                VALUE_IN_KEY,
                PRODUCT,
                FIRST,
                D_FIRST,
                D_REST,
                E_WIDE,
                MIXED,
                VALUE_MIXED,
                FORMAT,
            )
        if FORMAT != 0:
            listed_narrow = listed_pages + RING_PAGES
            num_narrow = tl.maximum(num_pages - RING_PAGES, 0) * V
            begin, end = find_slots_in_sight(
                positions, listed_narrow, num_narrow, oldest, newest, span, V, V, HORIZON
            )
            KEY_BYTES: tl.constexpr = KEY_STRIDE // 2 if FORMAT == NIBBLES else KEY_STRIDE
            VALUE_BYTES: tl.constexpr = VALUE_STRIDE // 2 if FORMAT == NIBBLES else VALUE_STRIDE
            for first in tl.range(begin, end, BLOCK):
                n = first + tl.arange(0, BLOCK)
                is_slot = n < end
                slot = tl.load(listed_narrow + n // V, mask=is_slot, other=0) * V + n % V
                position = tl.load(positions + slot, mask=is_slot, other=0)
                seen = in_sight(query[:, None], position[None, :], span, HORIZON)
                seen = seen & is_slot[None, :] & is_row[:, None]
                seen_by_row += tl.sum(seen.to(tl.int32), 1)
                wanted = is_slot & (position <= newest)
                key_scales = tl.load(scales + 2 * slot, mask=wanted, other=0.0).to(tl.float32)
                value_scales = key_scales
                if not VALUE_IN_KEY:
                    value_scales = tl.load(scales + 2 * slot + 1, mask=wanted, other=0.0)
                    value_scales = value_scales.to(tl.float32)
                peak, total, part = attend_block(
                    q_first,
                    q_rest,
                    key_codes + slot * KEY_BYTES,
                    value_codes + slot * VALUE_BYTES,
                    wanted,
                    seen,
                    scale,
                    peak,
                    total,
                    part,
                    key_scales,
                    value_scales,
                    D,
                    E,
                    VALUE_IN_KEY,
                    True,
                    PRODUCT,
                    "tf32x3",
                    FIRST,
                    D_FIRST,
                    D_REST,
                    E_WIDE,
                    MIXED,
                    VALUE_MIXED,
                    FORMAT,
                )
        if HAS_FRESH:
            for first in tl.range(0, newest + 1 - start, BLOCK):
                n = first + tl.arange(0, BLOCK)
                is_token = n < newest + 1 - start
                row = first_row + n
                mark = tl.load(fresh_evict + row * fresh_stride + head, mask=is_token, other=0) != 0
                position = start + n
                seen = retain(
                    query[:, None], position[None, :], mark[None, :], window, span, HORIZON
                )
                seen = seen & is_token[None, :] & is_row[:, None]
                seen_by_row += tl.sum(seen.to(tl.int32), 1)
                peak, total, part = read_twice(
                    q_first,
                    q_rest,
                    fresh_keys + (row * K + head) * D,
                    fresh_values + (row * K + head) * FRESH_VALUE_SIZE,
                    is_token,
                    seen,
                    is_recent(query[:, None], position[None, :], window),
                    scale,
                    peak,
                    total,
                    part,
                    D,
                    E,
                    VALUE_IN_KEY,
                    PRODUCT,
                    FIRST,
                    D_FIRST,
                    D_REST,
                    E_WIDE,
                    MIXED,
                    VALUE_MIXED,
                    FORMAT,
                )

        part = part / tl.where(total > 0, total, 1.0)[:, None]
        goal = out + answer[:, None] * E + e[None, :]
        is_number = is_row[:, None] & (e < E)[None, :]
        tl.store(goal, part.to(out.dtype.element_ty), mask=is_number)
        is_first_head = g == 0
        tl.atomic_add(num_seen + b, tl.sum(tl.where(is_first_head, seen_by_row, 0).to(tl.int64), 0))


def attend_chunks(
    q: Float[Tensor, "T H D"],
    news: News,
    counts: Int[Tensor, " B"],
    fresh: Fresh | None,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    window_tokens: int,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """As `reference.attend_chunks`; products in the dtype of `q`, sums in float32."""
    q = q.contiguous()
    assert out.is_contiguous(), "out must be contiguous"
    group = q.shape[1] // shape.num_heads
    kind, span = unpack_horizon(shape.horizon)
    new_keys, new_values, new_evict = slots.keys, slots.values, slots.evict
    if fresh is not None:
        new_keys, new_values = fresh.keys.contiguous(), fresh.values.contiguous()
        new_evict = fresh.evict
    coded, form, ring_pages = unpack_narrow(narrow, slots.keys, slots.values)
    is_wide = shape.key_size > 256
    head_block = min(32, triton.next_power_of_2(group))
    read_chunks[(count_programs(q.device),)](
        q,
        *news,
        counts,
        new_keys,
        new_values,
        new_evict,
        *slots,
        *lists,
        *coded,
        out,
        num_seen,
        lists.pages.shape[1],
        lists.pages.shape[2],
        len(counts),
        new_evict.stride(0),
        window_tokens,
        span,
        scale * LOG2_E,
        K=shape.num_heads,
        GROUP=group,
        D=shape.key_size,
        E=shape.value_size,
        S=slots.keys.shape[1],
        V=slots.positions.shape[1],
        FORMAT=form,
        RING_PAGES=ring_pages,
        KEY_STRIDE=slots.keys.shape[2],
        VALUE_STRIDE=slots.values.shape[2],
        FRESH_VALUE_SIZE=new_values.shape[2],
        VALUE_IN_KEY=shape.value_in_key,
        HAS_FRESH=fresh is not None,
        HORIZON=kind,
        PRODUCT=choose_product(q.dtype),
        SEQUENCES=triton.next_power_of_2(len(counts)),
        QUERIES=ROWS // head_block,
        HEADS=head_block,
        BLOCK=16 if is_wide else 32 if form or q.element_size() > 2 else 64,
        **choose_widths(shape, form)._asdict(),
        num_warps=8 if is_wide or form or q.element_size() > 2 else 4,
        num_stages=2,
    )
