"""The layers of a packed decoder as one compiled call, for steps of single tokens.

Knows nothing of requests. A row's numbers are those that the layers give one by one, bit for bit;
what is gained is the time between their operators, most of a step where the batch is small.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.cache.dense import DenseMemory, DenseStep
from snello.cache.memory import Step
from snello.cache.refill import is_single
from snello.cache.sparse import SparseMemory, SparseStep
from snello.models.attention import Angles
from snello.models.decoder import Decoder
from snello.models.packed import (
    PackedAttention,
    PackedFeedForward,
    PackedLayer,
    PackedLinear,
)


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
        tails = memory.tails
        out: Tensor = self._stack.run(
            x,
            *angles,
            [*work.news, work.about],
            work.num_seen,
            list(memory.store.slots),
            [memory.table.pages, memory.table.num_held],
            [*tails, step.announce()],
            self._rules,
            step.wants_decisions,
        )
        return out


def can_stack(decoder: Decoder, memory: DenseMemory | SparseMemory) -> bool:
    """Tell whether the compiled call knows all that the layers of a decoder do."""
    if memory.backend != "cpu" or decoder.get_parameter(NORM).dtype != torch.float32:
        return False
    return all(_is_known(layer) for layer in decoder.model.layers)


NORM = "model.norm.weight"


def _is_known(layer: nn.Module) -> bool:
    if not isinstance(layer, PackedLayer) or not isinstance(layer.attention, PackedAttention):
        return False
    if not isinstance(layer.mlp, PackedFeedForward) or not layer.attention.attention.is_plain:
        return False
    return all(linear.before is None for linear in _list_linears(layer))


def _list_linears(layer: PackedLayer) -> list[PackedLinear]:
    """The four products of a layer, in the order they run."""
    attention, mlp = layer.attention, layer.mlp
    assert isinstance(attention, PackedAttention)
    assert isinstance(mlp, PackedFeedForward)
    return [attention.qkv, attention.output, mlp.gate_up, mlp.down]


def _build(decoder: Decoder) -> Any:
    """Hand every layer's tensors to a new compiled stack."""
    config = decoder.config
    first = _list_linears(decoder.model.layers[0])[0].packed  # type: ignore[arg-type]
    decision = decoder.model.layers[0].decision
    sizes = [
        config.hidden_size, config.mlp_size, config.num_heads, config.num_kv_heads,
        config.head_size, first.bits, first.group,
    ]  # fmt: skip
    scale, offset = (0.0, 0.0) if decision is None else (decision.scale, decision.offset)
    numbers = [config.norm_eps, config.attention_scale, float(scale), float(offset)]
    norm = decoder.get_parameter(NORM).detach()
    stack = torch.classes.snello.Stack(sizes, numbers, config.rope.interleaved, norm)
    for layer in decoder.model.layers:
        assert isinstance(layer, PackedLayer)
        _add_layer(stack, layer)
    return stack


def _add_layer(stack: Any, layer: PackedLayer) -> None:
    linears, decision = _list_linears(layer), layer.decision
    inner = layer.attention.attention  # type: ignore[union-attr]
    norms = [linears[i].norm[0] for i in (0, 2)]  # type: ignore[index]
    heads = [
        None if norm is None else norm.weight.detach() for norm in (inner.q_norm, inner.k_norm)
    ]
    rows = [None, None]
    if decision is not None:
        rows = [decision.norm.weight.detach(), decision.proj.weight.detach()]
    stack.add_layer(
        [linear.packed.data for linear in linears],
        [linear.bias for linear in linears],
        norms,
        [*heads, *rows],
    )
