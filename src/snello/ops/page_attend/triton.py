"""Attention of single queries over pages on a GPU, in equal tiles. Knows nothing of layers.

A tile is so many slots of one head; how many depends on the shape of a layer alone, so that a
sequence is cut the same way whatever else is in the batch. As many programs as the device runs at
once share out the tiles that are really there: each looks up in the running sum of all heads' tiles
which head its next one belongs to, so uneven heads cost nothing and the host learns no length. A
second kernel merges the parts of a head in order, the largest score of all subtracted.

Source: FlashDecoding (split keys, merged by logsumexp); the work list by search over running sums
is from stream-K, arXiv:2301.03598, but with tiles of fixed size, for the sake of equal bits.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.attend.triton import attend_block, choose_widths
from snello.ops.gpu import LOG2_E, choose_product, count_programs
from snello.ops.narrow.triton import NIBBLES, rotate, rotate_query, unpack_narrow
from snello.ops.pages import Lists, Narrow, News, Slots
from snello.ops.retain.triton import in_sight, unpack_horizon

PARTS = 16
"""Parts of a head that are merged at once."""


@triton.jit
@no_type_check
def count_tiles(
    held,
    S: tl.constexpr,
    V: tl.constexpr,
    FORMAT: tl.constexpr,
    RING_PAGES: tl.constexpr,
    TILE: tl.constexpr,
):
    """How many tiles a head's exact pages make, and how many all of them; held pages or vectors."""
    if FORMAT == 0:
        exact = (held * S + TILE - 1) // TILE
        every = exact
    else:
        exact = (tl.minimum(held, RING_PAGES) * S + TILE - 1) // TILE
        every = exact + (tl.maximum(held - RING_PAGES, 0) * V + TILE - 1) // TILE
    return exact.to(tl.int32), every.to(tl.int32)


@triton.jit
@no_type_check
def read_slots(
    q_first,
    q_rest,
    keys,
    values,
    scales,
    positions,
    listed_pages,
    begin,
    end,
    query,
    span,
    scale,
    peak,
    total,
    part,
    num_seen,
    D: tl.constexpr,
    E: tl.constexpr,
    SLOTS: tl.constexpr,
    V: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr,
    VALUE_IN_KEY: tl.constexpr,
    HORIZON: tl.constexpr,
    PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    MIXED: tl.constexpr,
    VALUE_MIXED: tl.constexpr,
    CODES: tl.constexpr,
):
    """Add what stands in slots [begin, end) of a head's pages of one kind, SLOTS in each."""
    for first in tl.range(begin, end, BLOCK):
        n = first + tl.arange(0, BLOCK)
        is_slot = n < end
        page = tl.load(listed_pages + n // SLOTS, mask=is_slot, other=0)
        slot = page * SLOTS + n % SLOTS
        position = tl.load(positions + page * V + n % SLOTS, mask=is_slot, other=0)
        seen = is_slot & in_sight(query, position, span, HORIZON)
        # Without a horizon all but the newest slots are seen, and loads need not wait for that.
        wanted = is_slot if HORIZON == 0 else seen
        key_scales = scale
        value_scales = scale
        if CODES > 0:
            key_scales = tl.load(scales + 2 * slot, mask=wanted, other=0.0).to(tl.float32)
            value_scales = key_scales
            if not VALUE_IN_KEY:
                value_scales = tl.load(scales + 2 * slot + 1, mask=wanted, other=0.0)
                value_scales = value_scales.to(tl.float32)
        peak, total, part = attend_block(
            q_first,
            q_rest,
            keys + slot * KEY_STRIDE,
            values + slot * VALUE_STRIDE,
            wanted,
            seen[None, :],
            scale,
            peak,
            total,
            part,
            key_scales,
            value_scales,
            D,
            E,
            VALUE_IN_KEY,
            False,
            PRODUCT,
            "ieee",
            FIRST,
            D_FIRST,
            D_REST,
            E_WIDE,
            MIXED,
            VALUE_MIXED,
            CODES,
            0,
            True,
        )
        num_seen += tl.sum(seen.to(tl.int32), 0)
    return peak, total, part, num_seen


@triton.jit
@no_type_check
def read_tiles(
    q,
    rows,
    query_positions,
    sequences,
    keys,
    values,
    positions,
    pages,
    num_held,
    key_codes,
    value_codes,
    scales,
    parts,
    peaks,
    totals,
    counts,
    num_heads_listed,
    width,
    num_rows,
    most_tiles,
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
    VALUE_IN_KEY: tl.constexpr,
    HORIZON: tl.constexpr,
    PRODUCT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    FIRST: tl.constexpr,
    D_FIRST: tl.constexpr,
    D_REST: tl.constexpr,
    E_WIDE: tl.constexpr,
    MIXED: tl.constexpr,
    VALUE_MIXED: tl.constexpr,
):
    BLOCKS_OF_HEADS: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    every = tl.arange(0, ROWS)
    is_row = every < num_rows
    owner = tl.load(sequences + every // K, mask=is_row, other=0)
    held = tl.load(num_held + owner * num_heads_listed + every % K, mask=is_row, other=0)
    _exact, num_tiles = count_tiles(held, S, V, FORMAT, RING_PAGES, TILE)
    ends = tl.cumsum(tl.where(is_row, num_tiles, 0), 0)
    num_items = tl.max(ends, 0) * BLOCKS_OF_HEADS
    head = tl.arange(0, HEADS)
    d = tl.arange(0, D_FIRST)
    e = tl.arange(0, E_WIDE)

    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        work = item // BLOCKS_OF_HEADS
        g = item % BLOCKS_OF_HEADS * HEADS + head
        is_head = g < GROUP
        row = tl.sum((ends <= work).to(tl.int32), 0)
        tile = work - tl.max(tl.where(ends <= work, ends, 0), 0)
        b = row // K
        sequence = tl.load(sequences + b)
        query = tl.load(query_positions + b).to(tl.int32)
        listed = sequence * num_heads_listed + row % K
        listed_pages = pages + listed * width
        num_pages = tl.load(num_held + listed).to(tl.int32)
        num_exact, _every = count_tiles(num_pages, S, V, FORMAT, RING_PAGES, TILE)
        num_slots = num_pages * S
        num_narrow = 0
        if FORMAT != 0:
            num_slots = tl.minimum(num_pages, RING_PAGES) * S
            num_narrow = tl.maximum(num_pages - RING_PAGES, 0) * V
        asked = q + ((tl.load(rows + b) * K + row % K) * GROUP + g[:, None]) * D
        is_number = is_head[:, None] & (d < FIRST)[None, :]
        q_first = tl.load(asked + d[None, :], mask=is_number, other=0.0).to(PRODUCT)
        q_rest = q_first
        if D_REST > 0:
            rest = FIRST + tl.arange(0, D_REST)
            is_rest = (rest < D)[None, :]
            q_rest = tl.load(asked + rest[None, :], mask=is_head[:, None] & is_rest, other=0.0)
            q_rest = q_rest.to(PRODUCT)

        peak = tl.full([HEADS], float("-inf"), tl.float32)
        total = tl.zeros([HEADS], tl.float32)
        part = tl.zeros([HEADS, E_WIDE], tl.float32)
        num_seen = 0
        # Of the two loops, one has nothing to do.
        peak, total, part, num_seen = read_slots(
            q_first,
            q_rest,
            keys,
            values,
            scales,
            positions,
            listed_pages,
            tile * TILE,
            tl.minimum((tile + 1) * TILE, num_slots),
            query,
            span,
            scale,
            peak,
            total,
            part,
            num_seen,
            D,
            E,
            S,
            V,
            KEY_STRIDE,
            VALUE_STRIDE,
            VALUE_IN_KEY,
            HORIZON,
            PRODUCT,
            BLOCK,
            FIRST,
            D_FIRST,
            D_REST,
            E_WIDE,
            MIXED,
            VALUE_MIXED,
            0,
        )
        if FORMAT != 0:
            begin = tl.maximum(tile - num_exact, 0) * TILE
            end = tl.where(tile >= num_exact, tl.minimum(begin + TILE, num_narrow), 0)
            # Rows of nibbles are rotated: queries too, and back what is read.
            q_first, q_rest = rotate_query(q_first, q_rest, MIXED, D_REST > 0)
            peak, total, part, num_seen = read_slots(
                q_first,
                q_rest,
                key_codes,
                value_codes,
                scales,
                positions,
                listed_pages + RING_PAGES,
                begin,
                end,
                query,
                span,
                scale,
                peak,
                total,
                part,
                num_seen,
                D,
                E,
                V,
                V,
                KEY_STRIDE // 2 if FORMAT == NIBBLES else KEY_STRIDE,
                VALUE_STRIDE // 2 if FORMAT == NIBBLES else VALUE_STRIDE,
                VALUE_IN_KEY,
                HORIZON,
                PRODUCT,
                BLOCK,
                FIRST,
                D_FIRST,
                D_REST,
                E_WIDE,
                MIXED,
                VALUE_MIXED,
                FORMAT,
            )
            back = rotate(part, VALUE_MIXED) * (1.0 / VALUE_MIXED)
            part = tl.where(tile >= num_exact, back, part)

        place = row.to(tl.int64) * most_tiles + tile
        stat = place * GROUP + g
        tl.store(peaks + stat, peak, mask=is_head)
        tl.store(totals + stat, total, mask=is_head)
        goal = parts + stat[:, None] * E + e[None, :]
        tl.store(goal, part, mask=is_head[:, None] & (e < E)[None, :])
        tl.store(counts + place, num_seen, mask=item % BLOCKS_OF_HEADS == 0)


@triton.jit
@no_type_check
def merge_parts(
    out,
    rows,
    sequences,
    num_held,
    parts,
    peaks,
    totals,
    counts,
    num_seen,
    num_heads_listed,
    most_tiles,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    E: tl.constexpr,
    S: tl.constexpr,
    V: tl.constexpr,
    FORMAT: tl.constexpr,
    RING_PAGES: tl.constexpr,
    TILE: tl.constexpr,
    E_WIDE: tl.constexpr,
    PARTS: tl.constexpr,
):
    b, head = tl.program_id(0), tl.program_id(1)
    row, g = b * K + head // GROUP, head % GROUP
    listed = tl.load(sequences + b) * num_heads_listed + head // GROUP
    _, num_tiles = count_tiles(tl.load(num_held + listed), S, V, FORMAT, RING_PAGES, TILE)
    first_tile = row.to(tl.int64) * most_tiles
    e = tl.arange(0, E_WIDE)

    largest = tl.full([PARTS], float("-inf"), tl.float32)
    count = tl.zeros([PARTS], tl.int64)
    for first in range(0, num_tiles, PARTS):
        tile = first + tl.arange(0, PARTS)
        is_tile, place = tile < num_tiles, first_tile + tile
        peak = tl.load(peaks + place * GROUP + g, mask=is_tile, other=float("-inf"))
        largest = tl.maximum(largest, peak)
        count += tl.load(counts + place, mask=is_tile, other=0)
    level = tl.max(largest, 0)
    level = tl.where(level == float("-inf"), 0.0, level)

    total = tl.zeros([PARTS], tl.float32)
    whole = tl.zeros([E_WIDE], tl.float32)
    for first in range(0, num_tiles, PARTS):
        tile = first + tl.arange(0, PARTS)
        is_tile, stat = tile < num_tiles, (first_tile + tile) * GROUP + g
        weight = tl.exp2(tl.load(peaks + stat, mask=is_tile, other=float("-inf")) - level)
        total += weight * tl.load(totals + stat, mask=is_tile, other=0.0)
        part = parts + stat[:, None] * E + e[None, :]
        part = tl.load(part, mask=is_tile[:, None] & (e < E)[None, :], other=0.0)
        whole += tl.sum(weight[:, None] * part, 0)
    weight_sum = tl.sum(total, 0)
    whole = whole / tl.where(weight_sum > 0, weight_sum, 1.0)
    answer = out + (tl.load(rows + b) * K * GROUP + head) * E + e
    tl.store(answer, whole.to(out.dtype.element_ty), mask=e < E)
    if g == 0:
        tl.atomic_add(num_seen + b, tl.sum(count, 0))


class Tiling(NamedTuple):
    """How work is cut for one shape of layer; the batch has no say in it."""

    tile_tokens: int
    block_tokens: int
    head_block: int
    num_warps: int
    num_stages: int


def choose_tiling(shape: CacheShape, group: int, item_bytes: int) -> Tiling:
    """Tiles so large that writing and reading parts costs little beside reading their slots."""
    slot_bytes = shape.numbers_per_slot * item_bytes
    wanted = 256 * group * shape.value_size // slot_bytes  # parts move a 32nd of the tile's bytes
    tile_tokens = min(1024, max(256, triton.next_power_of_2(wanted)))
    is_wide = shape.key_size > 256
    head_block = min(32, max(16, triton.next_power_of_2(group)))
    block_tokens = 32 if is_wide or item_bytes > 2 else 64
    return Tiling(tile_tokens, block_tokens, head_block, 8 if is_wide else 4, 2 if is_wide else 3)


def attend_pages(
    q: Float[Tensor, "T H D"],
    news: News,
    slots: Slots,
    lists: Lists,
    shape: CacheShape,
    *,
    scale: float,
    out: Float[Tensor, "T H E"],
    num_seen: Int[Tensor, " B"],
    narrow: Narrow | None = None,
) -> None:
    """As `reference.attend_pages`; products in the dtype of `q`, sums in float32.

    Shared memory and the number of programs follow from shapes alone, so the call can be captured
    in a CUDA graph. With equal bits whoever shares the call.
    """
    q = q.contiguous()
    assert out.is_contiguous(), "out must be contiguous"
    B, K = len(news.rows), shape.num_heads
    S, V = slots.keys.shape[1], slots.positions.shape[1]
    group, num_rows = q.shape[1] // K, B * K
    cut = choose_tiling(shape, group, slots.keys.element_size())
    coded, form, ring_pages = unpack_narrow(narrow, slots.keys, slots.values)
    most_tiles = -(-lists.pages.shape[2] * V // cut.tile_tokens) + bool(form)
    parts = out.new_empty(num_rows, most_tiles, group, shape.value_size, dtype=torch.float32)
    peaks, totals = out.new_empty(2, num_rows, most_tiles, group, dtype=torch.float32)
    counts = news.rows.new_empty(num_rows, most_tiles, dtype=torch.int32)
    kind, span = unpack_horizon(shape.horizon)
    widths = choose_widths(shape, form)._asdict()
    common = {"K": K, "GROUP": group, "E": shape.value_size, "S": S, "TILE": cut.tile_tokens}
    common |= {"V": V, "FORMAT": form, "RING_PAGES": ring_pages}
    common["E_WIDE"] = widths.pop("E_WIDE")
    read_tiles[(count_programs(q.device),)](
        q,
        *news,
        *slots[:3],
        *lists,
        *coded,
        parts,
        peaks,
        totals,
        counts,
        lists.pages.shape[1],
        lists.pages.shape[2],
        num_rows,
        most_tiles,
        span,
        scale * LOG2_E,
        **common,
        **widths,
        D=shape.key_size,
        KEY_STRIDE=slots.keys.shape[2],
        VALUE_STRIDE=slots.values.shape[2],
        VALUE_IN_KEY=shape.value_in_key,
        HORIZON=kind,
        PRODUCT=choose_product(q.dtype),
        ROWS=triton.next_power_of_2(num_rows),
        BLOCK=cut.block_tokens,
        HEADS=cut.head_block,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    merge_parts[(B, q.shape[1])](
        out,
        news.rows,
        news.sequences,
        lists.num_held,
        parts,
        peaks,
        totals,
        counts,
        num_seen,
        lists.pages.shape[1],
        most_tiles,
        **common,
        PARTS=PARTS,
        num_warps=4,
    )
