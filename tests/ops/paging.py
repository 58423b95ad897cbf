"""Random pages for the operators that read and write them: heads of any lengths, in any dtype."""

import torch

from snello.ops.narrow import SCALES
from snello.ops.narrow import narrow as round_row
from snello.ops.pages import Lists, Narrow, News, Slots, count_survivor_slots, view_codes

EMPTY = 2**30


def invent_pages(
    lengths, shape, *, S=16, dtype=torch.float32, evicted=0.0, first_position=0, extra=0
):
    """Pages for `lengths[b][k]` tokens of each head, on shuffled pages wider than the shape needs.

    Tokens stand at ascending positions from `first_position` on; slots behind them hold NaN at
    position EMPTY. `extra` pages are nobody's.
    """
    num_held = torch.tensor([[-(-length // S) for length in row] for row in lengths])
    P, M = int(num_held.sum()) + extra + 1, int(num_held.max()) + 1
    D, E = shape.key_size, 0 if shape.value_in_key else shape.value_size
    slots = Slots(
        torch.randn(P, S, D + 3).to(dtype),
        torch.randn(P, S, E + 2 * bool(E)).to(dtype),
        torch.full((P, S), EMPTY, dtype=torch.int32),
        torch.rand(P, S) < evicted,
    )
    pages, order = torch.full((*num_held.shape, M), P - 1), torch.randperm(P - 1).split(1)
    order = iter(order)
    for b, row in enumerate(lengths):
        for k, length in enumerate(row):
            for column in range(num_held[b, k]):
                page = next(order)
                pages[b, k, column] = page
                first = column * S
                count = min(S, length - first)
                positions = torch.arange(first, first + count) + first_position
                slots.positions[page, :count] = positions.int()
    is_empty = slots.positions == EMPTY
    slots.keys[is_empty] = torch.nan
    slots.values[is_empty] = torch.nan
    return slots, Lists(pages, num_held)


def tell_news(positions, *, rows=None):
    """One new token of each sequence."""
    B = len(positions)
    rows = torch.arange(B) if rows is None else torch.tensor(rows)
    return News(rows, torch.tensor(positions), torch.arange(B))


def mend(slots):
    """The same with zeros for NaN: the reference multiplies hidden values by 0."""
    keys, values = slots.keys.nan_to_num(0.0), slots.values.nan_to_num(0.0)
    return slots._replace(keys=keys, values=values)


def invent_narrow_pages(  # noqa: PLR0913  (all that pages differ in)
    lengths,
    shape,
    *,
    ring_tokens,
    survivors,
    S=16,
    dtype=torch.float32,
    evicted=0.0,
    first_position=0,
):
    """Pages for `lengths[b][k]` (tokens in a ring, and behind it) of each head, oldest behind.

    Of narrow pages, each slot without a token has NaN for a scale.
    """
    ring_pages, V = -(-ring_tokens // S), count_survivor_slots(S, dtype, survivors)
    num_held = torch.tensor(
        [[-(-ring // S) + -(-behind // V) for ring, behind in row] for row in lengths]
    )
    P, M = int(num_held.sum()) + 1, int(num_held.max()) + 1
    sizes = shape.key_size, 0 if shape.value_in_key else shape.value_size
    D, E = ((size + 4) // 2 * 2 if size else 0 for size in sizes)  # wider, and even
    slots = Slots(
        torch.full((P, S, D), torch.nan, dtype=dtype),
        torch.full((P, S, E), torch.nan, dtype=dtype),
        torch.full((P, V), EMPTY, dtype=torch.int32),
        torch.zeros(P, S, dtype=torch.bool),
    )
    scales = torch.full((P, V, 2), torch.nan, dtype=SCALES[survivors])
    narrow = Narrow(scales, survivors, ring_pages)
    pages, order = torch.full((*num_held.shape, M), P - 1), iter(torch.randperm(P - 1))
    for b, row in enumerate(lengths):
        for k, (ring, behind) in enumerate(row):
            pages[b, k, : num_held[b, k]] = torch.stack(
                [next(order) for _ in range(num_held[b, k])] or [torch.tensor(0)]
            )[: num_held[b, k]]
            for i in range(ring):
                place = pages[b, k, i // S], i % S
                slots.keys[place], slots.values[place] = torch.randn(D), torch.randn(E)
                slots.positions[place] = first_position + behind + i
                slots.evict[place] = bool(torch.rand(()) < evicted)
            for i in range(behind):
                place = pages[b, k, ring_pages + i // V], i % V
                for which, part in enumerate(slots[:2]):
                    codes, scales[(*place, which)] = round_row(torch.randn(sizes[which]), survivors)
                    view_codes(part, V)[place][: len(codes)] = codes
                slots.positions[place] = first_position + i
    return slots, Lists(pages, num_held), narrow
