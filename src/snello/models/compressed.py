"""Quantized weights on disk: what config.json says of them, and the tensors that make one weight.

Knows nothing of decoders. Source: the compressed-tensors layout that vLLM and transformers read,
formats `pack-quantized` and `int-quantized`, symmetric integers without activation order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor

from snello.models.hf_values import Values
from snello.models.weight_files import stream_tensors
from snello.ops.matmul.packing import Bits
from snello.quant.rounding import Quantized, dequantize

METHOD, PACKED, PLAIN = "compressed-tensors", "pack-quantized", "int-quantized"
CODES, PACKED_CODES = ".weight", ".weight_packed"
SCALE, SHAPE = ".weight_scale", ".weight_shape"
ADVICE = (
    "allowed are plain bf16, fp16 and fp32 weights, and those of compressed-tensors in symmetric "
    "int8 or int4, one scale for each row or for 32, 64 or 128 inputs. Use the unquantized "
    "checkpoint of this model."
)


class Scheme(NamedTuple):
    """How the weights of a folder are quantized."""

    bits: Bits
    group: int | None
    """Inputs that share a scale; None: all inputs of a row."""


def read_scheme(values: Values) -> Scheme | None:
    """Read the `quantization_config` of a config.json; None where there is none.

    Raises:
        ValueError: weights quantized in a way that is not read here.
    """
    if not values.has("quantization_config"):
        return None
    outer = values.inner("quantization_config")
    method = outer.text("quant_method", "unnamed")
    kind = outer.text("format", "unnamed")
    groups = outer.inner("config_groups")
    if method != METHOD or kind not in (PACKED, PLAIN):
        said = f"{method}, {kind}" if method == METHOD else method
        raise ValueError(f"config.json says the weights are quantized ({said}); {ADVICE}")
    schemes = {_read_group(groups.inner(name).inner("weights")) for name in groups.names()}
    if len(schemes) != 1:
        raise ValueError(f"config.json has {len(schemes)} formats of quantized weights; {ADVICE}")
    return schemes.pop()


def _read_group(weights: Values) -> Scheme:
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    strategy = weights.text("strategy", "tensor")
    group = weights.integer("group_size") if strategy == "group" else None
    symmetric = weights.flag("symmetric", True) and not weights.has("actorder")
    known = group in (32, 64, 128) or strategy == "channel"
    if not (bits in (4, 8) and kind == "int" and symmetric and known):
        raise ValueError(
            f"config.json says the weights are quantized ({bits} bits, {kind}, {strategy} "
            f"{group or ''}, symmetric {symmetric}); {ADVICE}"
        )
    return Scheme(cast(Bits, bits), group)


def describe_scheme(bits: Bits, group: int, ignored: list[str]) -> dict[str, Any]:
    """Return the `quantization_config` of a folder whose `Linear` modules, but some, are quantized.

    vLLM reads weights in groups from `pack-quantized` alone, int8 too.
    """
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
    }
    one = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": METHOD,
        "format": PACKED,
        "quantization_status": "compressed",
        "config_groups": {"group_0": one},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def split_weight(module: str, quantized: Quantized) -> dict[str, Tensor]:
    """The tensors on disk that make up one module's quantized weight."""
    return {
        module + PACKED_CODES: pack_words(quantized.codes, quantized.bits),
        module + SCALE: quantized.scales,
        module + SHAPE: torch.tensor(quantized.codes.shape),
    }


def pack_words(codes: Int8[Tensor, "N C"], bits: Bits) -> Int32[Tensor, "N words"]:
    """Codes plus 2**(bits - 1), the first input in the lowest bits of a word."""
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    return unsigned.contiguous().view(torch.int32)


def unpack_words(words: Int32[Tensor, "N words"], bits: Bits) -> Int8[Tensor, "N C"]:
    """The inverse of `pack_words`."""
    unsigned = words.contiguous().view(torch.uint8)
    if bits == 4:
        unsigned = torch.stack((unsigned & 15, unsigned >> 4), dim=-1).flatten(1)
    return (unsigned.to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


class Weight(NamedTuple):
    """One weight as a decoder is filled with it."""

    name: str
    tensor: Tensor
    quantized: Quantized | None
    """What the tensor stands for, where it was stored quantized."""


def stream_weights(folder: Path, scheme: Scheme | None) -> Iterator[Weight]:
    """Yield each weight of a folder once, quantized ones as the float32 that they stand for.

    Scales are rounded to bfloat16, if they are not already.

    Raises:
        ValueError: a damaged file, or part of a quantized weight is missing or does not fit.
    """
    if scheme is None:
        for name, tensor in stream_tensors(folder):
            yield Weight(name, tensor, None)
        return
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stream_tensors(folder, integers=True):
        module, dot, part = name.rpartition(".")
        is_part = dot + part in (SCALE, SHAPE, PACKED_CODES) or tensor.dtype == torch.int8
        if not is_part:
            yield Weight(name, tensor, None)
            continue
        parts = waiting.setdefault(module, {})
        parts[dot + part] = tensor
        if SCALE in parts and (CODES in parts or {PACKED_CODES, SHAPE} <= parts.keys()):
            quantized = join_parts(module, waiting.pop(module), scheme)
            yield Weight(module + CODES, dequantize(quantized), quantized)
    if waiting:
        module, parts = next(iter(waiting.items()))
        raise ValueError(
            f"{folder} holds {module + next(iter(parts))!r} without the tensors that belong to "
            "it; a file is missing: download the folder again."
        )


def join_parts(module: str, parts: dict[str, Tensor], scheme: Scheme) -> Quantized:
    """One quantized weight of its tensors; a scale for a row is repeated for its groups.

    Raises:
        ValueError: shapes that do not fit each other or the scheme.
    """
    codes, scales, shape = parts.get(CODES), parts[SCALE], parts.get(SHAPE)
    if codes is None:
        words = parts[PACKED_CODES]
        codes = unpack_words(words, scheme.bits) if words.ndim == 2 else words
    if codes.ndim != 2:
        raise ValueError(
            f"{module!r} is a stack of {codes.ndim} dimensions; quantized weights are read one "
            "matrix at a time. Use the unquantized checkpoint of this model."
        )
    num_outputs, num_inputs = codes.shape
    group = scheme.group or fit_group(num_inputs)
    if scheme.group is None and scales.numel() == num_outputs:
        scales = scales.reshape(-1, 1).expand(-1, num_inputs // group)
    fits = shape is None or shape.tolist() == [num_outputs, num_inputs]
    if not fits or scales.shape != (num_outputs, num_inputs // group) or num_inputs % group:
        raise ValueError(
            f"{module!r} has codes of shape {tuple(codes.shape)} and scales of shape "
            f"{tuple(scales.shape)}, which do not fit groups of {group}; config.json and weights "
            "belong to different models, or one of them is damaged."
        )
    return Quantized(codes, scales.to(torch.bfloat16).contiguous(), scheme.bits)


def fit_group(num_inputs: int) -> int:
    """The largest group that divides the inputs; 32 where none does."""
    return next((size for size in (128, 64) if num_inputs % size == 0), 32)


def narrow_floats(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same numbers in bfloat16, if it holds all of them exactly; else unchanged."""
    half = tensor.to(torch.bfloat16)
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor
