"""How quantized weights lie in memory for the products. Knows nothing of how they were rounded.

32 outputs make a block; a product reads it once, from its first byte to its last. For each group of
inputs it holds the 32 scales in bfloat16 (one cache line), then the group's codes, unsigned (code +
2**(bits - 1)):
    int8   `(G / 4, 32, 4)`: two vectors of 64 bytes are 32 outputs times 4 inputs;
    int4   `(G / 8, 32, 4)`: low nibbles are inputs 0 to 3 of eight, high nibbles inputs 4 to 7.
Outputs that fill up the last block have scale zero. A block of a gated weight is 16 outputs of the
gate, then the same 16 of the up-projection.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import BFloat16, Float, Int, Int8, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from snello.ops.huge import allocate_zeros

BLOCK = 32
HALF = BLOCK // 2
SCALE_BYTES = 2 * BLOCK  # of one group
Bits = Literal[4, 8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A weight as the products read it.

    Invariant: `data` is uint8 `(blocks, bytes of a block)`, contiguous, on the CPU.
    """

    data: Tensor
    bits: Bits
    group: int
    num_inputs: int
    num_outputs: int
    """Of the product: for a gated weight half the stored rows."""

    gated: bool = False

    @property
    def num_bytes(self) -> int:
        """What one product with few rows has to read."""
        return self.data.numel()


def pack(codes: Int8[Tensor, "N C"], scales: BFloat16[Tensor, "N groups"], bits: Bits) -> Packed:
    """Lay out one weight, or several with the same inputs one after the other."""
    num_outputs, num_inputs = codes.shape
    short = -num_outputs % BLOCK
    codes = functional.pad(codes, (0, 0, 0, short))
    scales = functional.pad(scales, (0, 0, 0, short))
    num_blocks, num_groups = len(codes) // BLOCK, scales.shape[1]
    group = num_inputs // num_groups
    data = _allocate(num_blocks, num_groups * (SCALE_BYTES + group * bits * BLOCK // 8))
    by_group = data.view(num_blocks, num_groups, -1)
    heads = scales.view(num_blocks, BLOCK, num_groups).transpose(1, 2).contiguous()
    by_group[..., :SCALE_BYTES] = heads.view(torch.uint8)
    by_group[..., SCALE_BYTES:] = _order(codes, group, bits).flatten(2)
    return Packed(data=data, bits=bits, group=group, num_inputs=num_inputs, num_outputs=num_outputs)


def pack_gated(
    codes: Int8[Tensor, "2 N C"], scales: BFloat16[Tensor, "2 N groups"], bits: Bits
) -> Packed:
    """Lay out a gate and its up-projection, which stand in this order, as one gated weight."""
    num_outputs = codes.shape[1]
    whole = pack(_take_turns(codes), _take_turns(scales), bits)
    return replace(whole, num_outputs=num_outputs, gated=True)


def unpack_rows(
    packed: Packed, rows: Int[Tensor, " R"]
) -> tuple[Int8[Tensor, "R C"], Float[Tensor, "R groups"]]:
    """Codes and scales of some stored rows, in the order of the blocks."""
    num_groups = packed.num_inputs // packed.group
    block, lane = rows // BLOCK, rows % BLOCK
    by_group = packed.data.view(len(packed.data), num_groups, -1)  # (blocks, groups, bytes)
    scales = by_group.view(torch.bfloat16)[..., :BLOCK][block, :, lane]  # (R, groups)
    num_vectors = packed.group * packed.bits // 32
    whole = by_group[..., SCALE_BYTES:].view(*by_group.shape[:2], num_vectors, BLOCK, 4)
    codes = whole[block, :, :, lane].flatten(1, 2)  # (R, vectors, 4)
    if packed.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), dim=-1)  # (R, vectors, 8)
    signed = codes.to(torch.int16) - (1 << (packed.bits - 1))
    return signed.to(torch.int8).flatten(1), scales.float()


def _take_turns(pair: Shaped[Tensor, "2 N X"]) -> Shaped[Tensor, "M X"]:
    """16 rows of the first, 16 of the second, and so on; rows of zeros fill up the last ones."""
    filled = functional.pad(pair, (0, 0, 0, -pair.shape[1] % HALF))
    sixteens = filled.reshape(2, filled.shape[1] // HALF, HALF, -1)
    return sixteens.transpose(0, 1).flatten(0, 2)


def _order(
    codes: Int8[Tensor, "N C"], group: int, bits: Bits
) -> UInt8[Tensor, "blocks groups vectors 32 4"]:
    """Codes of whole blocks, unsigned, in the order of the products."""
    num_blocks = len(codes) // BLOCK
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 8:
        return unsigned.view(num_blocks, BLOCK, -1, group // 4, 4).permute(0, 2, 3, 1, 4)
    halves = unsigned.view(num_blocks, BLOCK, -1, group // 8, 2, 4).permute(4, 0, 2, 3, 1, 5)
    return halves[0] | (halves[1] << 4)


def _allocate(num_blocks: int, block_bytes: int) -> UInt8[Tensor, "blocks bytes"]:
    """Memory for packed weights."""
    return allocate_zeros((num_blocks, block_bytes), torch.uint8, torch.device("cpu"))
