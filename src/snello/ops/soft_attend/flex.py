"""Soft attention through torch's FlexAttention: one fused kernel on CUDA, without a score matrix.

Knows nothing of visibility rules: the functions it hands to FlexAttention ask `ops.retain`.
"""

from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from snello.ops.retain import in_sight, is_recent
from snello.ops.soft_attend import Layout

Mod = Callable[..., Tensor]


class FlexAttend:
    """A `SoftAttend`. Invariant: a block mask lives as long as the layout it was made for.

    Eager FlexAttention computes the full matrix; it is there to be tested on any machine.
    """

    def __init__(self, *, is_compiled: bool) -> None:
        """Choose, once, between the fused kernels and eager ones."""
        self._masks: WeakKeyDictionary[Layout, BlockMask] = WeakKeyDictionary()
        self._kernel: Callable[..., Any] = flex_attention
        self._make_mask: Callable[..., BlockMask] = create_block_mask
        if is_compiled:
            self._kernel = torch.compile(flex_attention)
            self._make_mask = torch.compile(create_block_mask)

    def __call__(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T E"],
        log_keep: Float[Tensor, "B K T"] | None,
        layout: Layout,
        *,
        scale: float,
    ) -> Float[Tensor, "B H T E"]:
        """Attend as `SoftAttend` says; products are of the precision of `v`."""
        if layout not in self._masks:
            batch, num_tokens = layout.segments.shape
            self._masks[layout] = self._make_mask(
                hide_unseen(layout), batch, None, num_tokens, num_tokens, device=str(q.device)
            )
        group = q.shape[1] // k.shape[1]
        answer = self._kernel(
            q.to(v.dtype).contiguous(),
            k.to(v.dtype).contiguous(),
            v.contiguous(),
            score_mod=None if log_keep is None else soften(log_keep, layout, group),
            block_mask=self._masks[layout],
            scale=scale,
            enable_gqa=True,
        )
        return cast(Tensor, answer)


def hide_unseen(layout: Layout) -> Mod:
    """Make the mask: what a query may see before any forgetting.

    FlexAttention counts the arguments of what it is handed: a lambda, which no check can wrap.
    """
    segments, positions, horizon = layout.segments, layout.positions, layout.horizon
    return lambda row, _head, query, key: (
        (segments[row, query] == segments[row, key])
        & in_sight(positions[row, query], positions[row, key], horizon)
    )


def soften(log_keep: Float[Tensor, "B K T"], layout: Layout, group: int) -> Mod:
    """Make the change of scores: log_keep of a key, once it left the window of the query.

    Masked pairs never reach it, so the distance of two places in the row is that of two positions.
    """
    window_tokens = layout.window_tokens
    return lambda score, row, head, query, key: torch.where(
        is_recent(query - key, window_tokens), score, score + log_keep[row, head // group, key]
    )
