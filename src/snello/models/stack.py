"""The layers of a packed decoder as one compiled call, for steps of single tokens.

Knows nothing of requests. A row's numbers are those that the layers give one by one, bit for bit;
what is gained is the time between their operators, most of a step where the batch is small.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.cache.dense import DenseMemory, DenseStep
from snello.cache.memory import Step
from snello.cache.refill import is_single
from snello.cache.sparse import SparseMemory, SparseStep
from snello.models.attention import Angles, Attention
from snello.models.decision import AdapterDecision
from snello.models.decoder import Decoder
from snello.models.packed import (
    PackedAttention,
    PackedFeedForward,
    PackedLayer,
    PackedLinear,
)

NORM = "model.norm.weight"


class CompiledStack:
    """A packed decoder on one memory, whose single-token steps are one call.

    Invariant: the compiled call holds the same tensors as the modules; the decoder must not be
    packed or moved afterwards.
    """

    def __init__(self, decoder: Decoder, memory: DenseMemory | SparseMemory) -> None:
        self._decoder, self._memory = decoder, memory
        self._stack = _build(decoder)
        horizons = [shape.horizon for shape in memory.shapes]
        self._rules = [
            memory.ring_sizes,
            [horizon.span_tokens or 0 for horizon in horizons],
            [int(horizon.kind == "chunked") for horizon in horizons],
        ]

    def __call__(self, tokens: Int[Tensor, " T"], step: Step) -> Float[Tensor, "T C"]:
        """Compute a step; those that read prompts go layer by layer."""
        assert isinstance(step, DenseStep | SparseStep), "this step was begun by no paged memory"
        if not is_single(step):
            hidden: Tensor = self._decoder(tokens, step)
            return hidden
        body = self._decoder.model
        angles = body.rotary(step.positions, step.lengths)
        return self._run(body.embed_tokens(tokens), angles, step)

    @torch.no_grad()
    def _run(
        self, x: Float[Tensor, "T C"], angles: Angles, step: DenseStep | SparseStep
    ) -> Float[Tensor, "T C"]:
        memory, (work,) = self._memory, step.works
        store = memory.store
        scales = None if store.survivors is None else store.scales
        out: Tensor = self._stack.run(
            x,
            *angles,
            [*work.news, work.about],
            work.num_seen,
            list(store.slots),
            [memory.table.pages, memory.table.num_held],
            [*memory.tails, step.announce(), scales],
            self._rules,
            step.wants_decisions,
            store.survivors == torch.float8_e4m3fn,
        )
        return out


def can_stack(decoder: Decoder, memory: DenseMemory | SparseMemory) -> bool:
    """Tell whether the compiled call knows all that the layers of a decoder do."""
    if memory.backend != "cpu" or decoder.get_parameter(NORM).dtype != torch.float32:
        return False
    return all(_find_parts(layer) is not None for layer in decoder.model.layers)


class Parts(NamedTuple):
    """What a layer is made of, if the compiled call knows it."""

    decision: AdapterDecision | None
    attention: Attention
    products: tuple[PackedLinear, PackedLinear, PackedLinear, PackedLinear]
    """In the order they run."""


def _find_parts(layer: nn.Module) -> Parts | None:
    """Take a layer apart; None if it has a part that is not known."""
    if not isinstance(layer, PackedLayer):
        return None
    outer, mlp = layer.attention, layer.mlp
    if not isinstance(outer, PackedAttention) or not isinstance(mlp, PackedFeedForward):
        return None
    products = outer.qkv, outer.output, mlp.gate_up, mlp.down
    if not outer.attention.is_plain or any(linear.before is not None for linear in products):
        return None
    return Parts(layer.decision, outer.attention, products)


def _build(decoder: Decoder) -> Any:
    """Hand every layer's tensors to a new compiled stack."""
    config, norm = decoder.config, decoder.get_parameter(NORM).detach()
    layers = [parts for layer in decoder.model.layers if (parts := _find_parts(layer))]
    first, decision = layers[0].products[0].packed, layers[0].decision
    sizes = [
        config.hidden_size, config.mlp_size, config.num_heads, config.num_kv_heads,
        config.head_size, first.bits, first.group,
    ]  # fmt: skip
    rule = (0.0, 0.0) if decision is None else (float(decision.scale), float(decision.offset))
    numbers = [config.norm_eps, config.attention_scale, *rule]
    stack = torch.classes.snello.Stack(sizes, numbers, config.rope.interleaved, norm)
    for parts in layers:
        _add_layer(stack, parts)
    return stack


def _add_layer(stack: Any, parts: Parts) -> None:
    """Hand over one layer's tensors."""
    qkv, _, gate_up, _ = parts.products
    attention, decision = parts.attention, parts.decision
    others = [norm and norm.weight.detach() for norm in (attention.q_norm, attention.k_norm)]
    if decision is not None:
        others += [decision.norm.weight.detach(), decision.proj.weight.detach()]
    stack.add_layer(
        [linear.packed.data for linear in parts.products],
        [linear.bias for linear in parts.products],
        [linear.norm[0] for linear in (qkv, gate_up) if linear.norm is not None],
        [*others, None, None][:4],
    )
