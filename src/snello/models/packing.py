"""From a decoder of floats to one whose products read int8 or int4, layer by layer, in place.

Knows nothing of files. Packed: every product of attention, feed-forward blocks and experts, and the
output matrix; an embedding that is the output matrix is looked up in the same bytes. Floats stay:
norms, routers, decisions, an untied embedding, and the latent's `kv_b_proj`, which is read as a
matrix.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from snello.models.attention import Attention
from snello.models.checkpoint import EMBEDDING
from snello.models.decoder import Decoder, DecoderLayer
from snello.models.experts import ExpertBlock, StackedExperts
from snello.models.layers import FeedForward, RMSNorm
from snello.models.packed import (
    Added,
    PackedAttention,
    PackedEmbedding,
    PackedExperts,
    PackedFeedForward,
    PackedLayer,
    PackedLinear,
    PackedNorm,
)
from snello.ops import decide, norm, place
from snello.ops.matmul import resolve, resolve_look_up
from snello.ops.matmul.packing import Bits, Packed, pack, pack_gated
from snello.ops.native import Backend, choose_backend
from snello.quant.rounding import Quantized, check_group, dequantize, quantize

READ_AS_MATRIX = "kv_b_proj"


@torch.no_grad()
def pack_decoder(decoder: Decoder, bits: Bits, group: int) -> None:
    """Round a decoder's weights and pack them; adapters must have been applied before.

    Weights that came quantized keep their scales, as long as an adapter has not changed them.

    Raises:
        ValueError: the decoder is not on the CPU, or has a product whose inputs the group does not
            divide; nothing has changed then.
    """
    check_packable(decoder, group)
    packer = Packer(decoder, bits, group)
    layers = decoder.model.layers
    for index in range(len(layers)):
        layers[index] = packer.pack_layer(cast(DecoderLayer, layers[index]))
    if isinstance(decoder.model.norm, RMSNorm):
        decoder.model.norm = PackedNorm(decoder.model.norm, norm.resolve(packer.heads_backend))
    if decoder.lm_head is None:
        embedding = decoder.get_parameter(EMBEDDING)
        packed = packer.pack_parameter(EMBEDDING, embedding)
        look_up = resolve_look_up(packer.backend)
        decoder.model.embed_tokens = PackedEmbedding(packed, embedding.dtype, look_up)
        decoder.lm_head = PackedLinear(packed, None, None, packer.multiply)
    else:
        decoder.lm_head = packer.join([cast(nn.Linear, decoder.lm_head)])


def check_packable(decoder: Decoder, group: int) -> None:
    """Refuse what cannot be packed.

    Raises:
        ValueError: it is elsewhere than on the CPU, or a product does not suit the group.
    """
    device = decoder.get_parameter(EMBEDDING).device
    if device.type != "cpu":
        raise ValueError(
            f"device is {device.type!r}, and weights in int8 or int4 run on the CPU only; leave "
            "--weights out, or take --device cpu."
        )
    for name, parameter in list_products(decoder):
        check_group(parameter.shape[-1], group, name)


def list_products(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """The parameters that are packed, by name: `(N, C)`, or `(E, N, C)` of experts."""
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and ".decision." not in name:
            if not name.endswith(READ_AS_MATRIX):
                yield f"{name}.weight", module.weight
        elif isinstance(module, StackedExperts):
            yield f"{name}.gate_up_proj", module.gate_up_proj
            yield f"{name}.down_proj", module.down_proj
    if decoder.lm_head is None:
        yield EMBEDDING, decoder.get_parameter(EMBEDDING)


def round_weight(weight: Tensor, bits: Bits, group: int, scales: Tensor | None) -> Quantized:
    """Round one weight: with the scales it came with if it is still what they gave, else anew."""
    if scales is not None:
        again = quantize(weight, bits, group, scales=scales)
        if torch.equal(dequantize(again).to(weight.dtype), weight):
            return again
    return quantize(weight, bits, group)


class Packer:
    """Rounds and packs the modules of one decoder, with one format and one backend."""

    def __init__(self, decoder: Decoder, bits: Bits, group: int) -> None:
        stored = decoder.stored
        fits = stored is not None and (stored.bits, stored.group) == (bits, group)
        self.scales = stored.scales if stored is not None and fits else {}
        self.is_silu = decoder.config.activation == "silu"
        self.bits: Bits = bits
        self.group = group
        self.backend = choose_backend(torch.device("cpu"))
        self.multiply = resolve(self.backend)
        is_float = decoder.get_parameter(EMBEDDING).dtype == torch.float32
        self.heads_backend: Backend = self.backend if is_float else "reference"
        self.names = {module: name for name, module in decoder.named_modules()}

    def pack_layer(self, layer: DecoderLayer) -> PackedLayer:
        """A layer's packed twin; the layer itself is used up."""
        if layer.decision is not None:
            layer.decision.decide = decide.resolve(self.heads_backend)
        return PackedLayer(layer.decision, self._pack_attention(layer), self._pack_mlp(layer))

    def join(self, linears: list[nn.Linear], norm: nn.Module | None = None) -> PackedLinear:
        """Several products with the same inputs as one, after a norm if there is one."""
        rounded = [self._round(linear) for linear in linears]
        codes = torch.cat([each.codes for each in rounded])
        packed = pack(codes, torch.cat([each.scales for each in rounded]), self.bits)
        bias = None
        if linears[0].bias is not None:
            bias = torch.cat([cast(Tensor, linear.bias) for linear in linears])
        return PackedLinear(packed, bias, norm, self.multiply)

    def pack_parameter(self, name: str, weight: Tensor) -> Packed:
        """One weight of two dimensions, packed."""
        rounded = self._round_one(name, weight)
        return pack(rounded.codes, rounded.scales, self.bits)

    def _round(self, linear: nn.Linear) -> Quantized:
        return self._round_one(f"{self.names[linear]}.weight", linear.weight)

    def _round_one(self, name: str, weight: Tensor, expert: int | None = None) -> Quantized:
        """Round a parameter, or one expert's part of it."""
        scales = self.scales.get(name)
        if expert is not None:
            weight, scales = weight[expert], None if scales is None else scales[expert]
        return round_weight(weight, self.bits, self.group, scales)

    def _pack_attention(self, layer: DecoderLayer) -> nn.Module:
        attention, norm = layer.self_attn, layer.input_layernorm
        if not isinstance(attention, Attention):
            return Added(norm, self._pack_inside(attention))
        attention.place = place.resolve(self.heads_backend)
        qkv = self.join([attention.q_proj, attention.k_proj, attention.v_proj], norm)
        output = self.join([attention.o_proj])
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            delattr(attention, name)
        return PackedAttention(attention, qkv, output)

    def _pack_mlp(self, layer: DecoderLayer) -> nn.Module:
        mlp, norm = layer.mlp, layer.post_attention_layernorm
        if isinstance(mlp, FeedForward):
            gate, up = mlp.gate_proj, mlp.up_proj
            if self.is_silu and gate is not None and gate.bias is None:
                gate_up = self._pack_gated(self._round(gate), self._round(up))
                inner = PackedLinear(gate_up, None, norm, self.multiply)
                return PackedFeedForward(inner, self.join([mlp.down_proj]))
        elif isinstance(mlp, ExpertBlock):
            mlp.experts = self._pack_experts(mlp.experts)
        return Added(norm, self._pack_inside(mlp))

    def _pack_gated(self, gate: Quantized, up: Quantized) -> Packed:
        codes, scales = torch.stack((gate.codes, up.codes)), torch.stack((gate.scales, up.scales))
        return pack_gated(codes, scales, self.bits)

    def _pack_inside(self, module: nn.Module) -> nn.Module:
        """Replace every product inside a module, in place."""
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and name != READ_AS_MATRIX:
                    setattr(parent, name, self.join([child]))
        return module

    def _pack_experts(self, experts: nn.Module) -> PackedExperts:
        assert isinstance(experts, StackedExperts)
        name, every = self.names[experts], range(len(experts.down_proj))
        down = [self._round_one(f"{name}.down_proj", experts.down_proj, e) for e in every]
        return PackedExperts(
            [self._pack_gate_up(f"{name}.gate_up_proj", experts.gate_up_proj, e) for e in every],
            [pack(each.codes, each.scales, self.bits) for each in down],
            act=experts.act,
            weigh_input=experts.weigh_input,
            multiply=self.multiply,
        )

    def _pack_gate_up(self, name: str, weight: Tensor, expert: int) -> Packed:
        both = self._round_one(name, weight, expert)
        if not self.is_silu:
            return pack(both.codes, both.scales, self.bits)
        codes, scales = both.codes.chunk(2), both.scales.chunk(2)
        gate, up = (Quantized(codes[i], scales[i], self.bits) for i in range(2))
        return self._pack_gated(gate, up)
