"""Soft attention a block of queries at a time: memory of one block, exact gradients, any device.

Knows nothing of visibility rules: which keys a block sees, and how, is asked of `ops.retain`.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from snello.ops.retain import in_sight, is_recent
from snello.ops.soft_attend import Layout

SCORES_PER_BLOCK = 2**20


class Block(NamedTuple):
    """Queries [start, stop) against keys [first_key, stop).

    Keys [first_key, far_end)   left the window of every query of the block: softened
    Keys [far_end, mixed_end)   left the window of some of them
    Keys [mixed_end, start)     recent for all: at full strength
    Keys [start, stop)          the diagonal: some lie in the future
    """

    start: int
    stop: int
    first_key: int
    far_end: int
    mixed_end: int
    is_clear: bool
    """Whether every query of every row may see all keys before the diagonal."""


def see(
    layout: Layout, queries: Int[Tensor, " Q"], keys: Int[Tensor, " N"]
) -> Bool[Tensor, "B Q N"]:
    """Tell which keys each query may see before any forgetting, by places in the row."""
    segments, positions = layout.segments, layout.positions
    same = segments[:, queries, None] == segments[:, None, keys]
    return same & in_sight(positions[:, queries, None], positions[:, None, keys], layout.horizon)


def plan_blocks(layout: Layout, block_tokens: int) -> list[Block]:
    """Cut the queries into blocks, and find for each the keys that matter.

    What the first and the last query of a block both see, all between them see; and no query sees
    a key before the first one that the block's first query sees.
    """
    num_tokens = layout.segments.shape[1]
    index = torch.arange(num_tokens, device=layout.segments.device)
    firsts = index[::block_tokens]
    lasts = (firsts + block_tokens - 1).clamp_max(num_tokens - 1)
    by_first, by_last = see(layout, firsts, index), see(layout, lasts, index)
    first_keys = by_first.any(0).int().argmax(-1)
    is_blocked = ~(by_first & by_last).all(0)
    is_left = (index >= first_keys[:, None]) & (index < firsts[:, None])
    is_clear = ~(is_blocked & is_left).any(-1)
    far_ends = (~is_recent(firsts[:, None] - index, layout.window_tokens)).sum(-1)
    far_ends = far_ends.maximum(first_keys)
    mixed_ends = (~is_recent(lasts[:, None] - index, layout.window_tokens)).sum(-1)
    columns = torch.stack(
        (firsts, lasts + 1, first_keys, far_ends, mixed_ends.maximum(far_ends), is_clear.long())
    )
    return [Block._make((*row[:5], bool(row[5]))) for row in columns.t().tolist()]


class Fold(NamedTuple):
    """Keys, values and log_keep with rows and key-value heads folded into one batch of B * K."""

    k: Float[Tensor, "BK T D"]
    v: Float[Tensor, "BK T E"]
    log_keep: Float[Tensor, "BK T"] | None
    layout: Layout
    group: int
    """How many query heads share a key-value head."""

    def gather(
        self, x: Float[Tensor, "B H T D"], block: Block, factor: float = 1.0
    ) -> Float[Tensor, "BK R D"]:
        """Copy a block of queries, times `factor`, with the heads of a group one below another."""
        rows = x[:, :, block.start : block.stop]
        return (rows * factor).reshape(self.k.shape[0], -1, x.shape[-1])

    def weigh(
        self, q: Float[Tensor, "BK R D"], block: Block, room: Float[Tensor, " numbers"]
    ) -> Float[Tensor, "BK R N"]:
        """Compute the attention weights of a block, in `room`."""
        keys = self.k[:, block.first_key : block.stop]
        scores = take(room, q.shape[0], q.shape[1], keys.shape[1])
        torch.bmm(q, keys.mT, out=scores)
        if self.log_keep is not None:
            self.soften(scores, block)
        self.hide(scores, block)
        return torch.softmax(scores, dim=-1, out=scores)

    def soften(self, scores: Float[Tensor, "BK R N"], block: Block) -> None:
        """Add log_keep to the scores of keys that left the window."""
        assert self.log_keep is not None
        far = block.far_end - block.first_key
        mixed = block.mixed_end - block.first_key
        log_keep = self.log_keep[:, None, block.first_key : block.mixed_end]
        if far > 0:
            scores[:, :, :far] += log_keep[:, :, :far]
        if mixed > far:
            recent = self.find_recent(block)
            strip = split(scores, self.group)[..., far:mixed]
            strip += log_keep[:, :, None, far:].masked_fill(recent, 0.0)

    def find_recent(self, block: Block) -> Bool[Tensor, "Q N"]:
        """Tell which of the mixed keys are recent for which query of a block."""
        queries = torch.arange(block.start, block.stop, device=self.k.device)
        keys = torch.arange(block.far_end, block.mixed_end, device=self.k.device)
        return is_recent(queries[:, None] - keys, self.layout.window_tokens)

    def hide(self, scores: Float[Tensor, "BK R N"], block: Block) -> None:
        """Put -inf where a query may not look."""
        first_seen = block.start if block.is_clear else block.first_key
        queries = torch.arange(block.start, block.stop, device=self.k.device)
        keys = torch.arange(first_seen, block.stop, device=self.k.device)
        hidden = ~see(self.layout, queries, keys)[:, None]
        by_head = scores.view(len(hidden), -1, len(queries), scores.shape[-1])
        by_head[..., first_seen - block.first_key :].masked_fill_(hidden, -torch.inf)


def split(scores: Float[Tensor, "BK R N"], group: int) -> Float[Tensor, "BK G Q N"]:
    """View the rows of a block by the query head of the group they belong to."""
    return scores.view(scores.shape[0], group, -1, scores.shape[-1])


def take(room: Float[Tensor, " numbers"], *shape: int) -> Float[Tensor, "..."]:
    """Use the start of a workspace as a tensor of this shape."""
    num_numbers = 1
    for size in shape:
        num_numbers *= size
    return room[:num_numbers].view(shape)


class SoftAttention(torch.autograd.Function):
    """The forward and backward pass; saves the inputs and the output, never a score."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T E"],
        log_keep: Float[Tensor, "B K T"] | None,
        layout: Layout,
        scale: float,
    ) -> Float[Tensor, "B H T E"]:
        """Attend a block of queries at a time."""
        fold = _fold(q, k, v, log_keep, layout)
        blocks = plan_blocks(layout, _choose_block_tokens(q))
        room = q.new_empty(_count_scores(q, blocks))
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        for block in blocks:
            weights = fold.weigh(fold.gather(q, block, scale), block, room)
            answer = weights @ fold.v[:, block.first_key : block.stop]
            rows = out[:, :, block.start : block.stop]
            rows.copy_(answer.view(rows.shape))
        ctx.save_for_backward(q, k, v, log_keep, out)
        ctx.layout, ctx.scale, ctx.blocks = layout, scale, blocks
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "B H T E"]) -> tuple[Tensor | None, ...]:
        """Compute the weights of each block again, and from them all four gradients."""
        q, k, v, log_keep, out = ctx.saved_tensors
        fold = _fold(q, k, v, log_keep, ctx.layout)
        room, second_room = q.new_empty(2, _count_scores(q, ctx.blocks))
        grad_q = torch.empty_like(q)
        # (BK, D, T) and (BK, E, T): BLAS is a third faster when the long side comes last
        grad_k = fold.k.new_zeros(fold.k.mT.shape)
        grad_v = fold.v.new_zeros(fold.v.mT.shape)
        grad_keep = None if fold.log_keep is None else torch.zeros_like(fold.log_keep)
        # a last column of -delta and a last column of ones: the product is grad_weights - delta
        delta = (grad * out).sum(-1, keepdim=True)
        grad_ahead = torch.cat((grad, -delta), dim=-1)
        v_ahead = functional.pad(fold.v, (0, 1), value=1.0)
        for block in ctx.blocks:
            keys = slice(block.first_key, block.stop)
            queries = fold.gather(q, block, ctx.scale)
            weights = fold.weigh(queries, block, room)
            grads = fold.gather(grad_ahead, block)
            grad_v[..., keys] += grads[..., :-1].mT @ weights
            grad_scores = take(second_room, *weights.shape)
            torch.bmm(grads, v_ahead[:, keys].mT, out=grad_scores)
            grad_scores *= weights
            grad_k[..., keys] += queries.mT @ grad_scores
            rows = grad_q[:, :, block.start : block.stop]
            torch.mul((grad_scores @ fold.k[:, keys]).view(rows.shape), ctx.scale, out=rows)
            if grad_keep is not None:
                _add_keep_gradient(grad_keep, grad_scores, fold, block)
        shaped = None if log_keep is None or grad_keep is None else grad_keep.view(log_keep.shape)
        return grad_q, grad_k.mT.view(k.shape), grad_v.mT.view(v.shape), shaped, None, None


def _add_keep_gradient(
    grad_keep: Float[Tensor, "BK T"],
    grad_scores: Float[Tensor, "BK R N"],
    fold: Fold,
    block: Block,
) -> None:
    """Sum the gradients of the scores to which log_keep was added."""
    far, mixed = block.far_end - block.first_key, block.mixed_end - block.first_key
    if far > 0:
        grad_keep[:, block.first_key : block.far_end] += grad_scores[:, :, :far].sum(1)
    if mixed > far:
        strip = split(grad_scores, fold.group)[..., far:mixed].sum(1)
        strip = strip.masked_fill(fold.find_recent(block), 0.0).sum(1)
        grad_keep[:, block.far_end : block.mixed_end] += strip


def _fold(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T E"],
    log_keep: Float[Tensor, "B K T"] | None,
    layout: Layout,
) -> Fold:
    """Fold rows and key-value heads into one batch."""
    return Fold(
        k.flatten(0, 1).contiguous(),
        v.flatten(0, 1).contiguous(),
        None if log_keep is None else log_keep.flatten(0, 1),
        layout,
        q.shape[1] // k.shape[1],
    )


def _choose_block_tokens(q: Float[Tensor, "B H T D"]) -> int:
    """Choose how many queries make a block: as many as keep its scores in the processor's cache."""
    scores_per_query = q.shape[0] * q.shape[1] * q.shape[2]
    return max(32, min(128, SCORES_PER_BLOCK // scores_per_query // 32 * 32))


def _count_scores(q: Float[Tensor, "B H T D"], blocks: list[Block]) -> int:
    """Count the scores of the largest block, of all rows and heads."""
    largest = max((block.stop - block.start) * (block.stop - block.first_key) for block in blocks)
    return q.shape[0] * q.shape[1] * largest


def soft_attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T E"],
    log_keep: Float[Tensor, "B K T"] | None,
    layout: Layout,
    *,
    scale: float,
) -> Float[Tensor, "B H T E"]:
    """Attend as `SoftAttend` says; half precision is computed in float32.

    Source: DMS, arXiv:2506.05345 (the training mask); the block of queries with the weights
    computed again as in FlashAttention, arXiv:2205.14135, but with whole rows of scores.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        keep = None if log_keep is None else log_keep.to(dtype)
        return _attend(q.to(dtype), k.to(dtype), v.to(dtype), keep, layout, scale).to(v.dtype)


def _attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K T D"],
    v: Float[Tensor, "B K T E"],
    log_keep: Float[Tensor, "B K T"] | None,
    layout: Layout,
    scale: float,
) -> Float[Tensor, "B H T E"]:
    """Take torch's own causal kernel where it says the same, else ours."""
    is_one_document = bool((layout.segments == layout.segments[:, :1]).all())
    if log_keep is None and is_one_document and layout.horizon.kind == "full":
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=True
        )
    answer: Tensor = SoftAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, log_keep, layout, scale
    )
    return answer
