"""Writing a model folder whose weights are quantized: what `snello quantize` leaves.

Knows nothing of commands. The folder is one that vLLM and transformers read too (compressed.py);
adapters are part of its weights, a decision of its own stands beside them in float32.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snello.models.adapter import LoadedModel, copy_beside, write_adapter
from snello.models.checkpoint import EMBEDDING, base_parameters
from snello.models.compressed import describe_scheme, narrow_floats, split_weight
from snello.models.families import find_family
from snello.models.names import is_of_decision
from snello.models.packing import check_packable, list_products
from snello.models.weight_writer import count_bytes, write_tensors
from snello.models.whole import write_whole
from snello.ops.matmul.packing import Bits
from snello.quant.rounding import dequantize, quantize

SHARD_BYTES = 5_000_000_000
Advance = Callable[[int], None]


class Figures(NamedTuple):
    """What quantizing made of the weights."""

    num_weights: int
    """How many numbers were rounded."""

    original_bytes: int
    written_bytes: int
    relative_error: float
    """Root mean square of what rounding changed, over that of the rounded weights."""


@torch.no_grad()
def write_quantized(
    folder: Path,
    loaded: LoadedModel,
    bits: Bits,
    group: int,
    *,
    advance: Advance = lambda _: None,
) -> Figures:
    """Round a loaded model's products and write all of it to a folder.

    An embedding stays float, also where it is the output matrix: on loading that is rounded anew,
    by the same rule.

    Raises:
        ValueError: the model is quantized already, has products that the group does not divide or
            experts that its family stores stacked, or the folder cannot be written.
    """
    decoder = loaded.decoder
    check_writable(loaded, group)
    names = find_family(decoder.config.family).names
    products = dict(list_products(decoder))
    tensors = {name: narrow_floats(tensor) for name, tensor in decoder.set_aside.items()}
    ignored = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    tally = Tally()
    for done, (name, parameter) in enumerate(base_parameters(decoder).items()):
        for disk_name, place in names.spread(name, len(parameter)):
            part, module = place.view(parameter), disk_name.removesuffix(".weight")
            if name in products and name != EMBEDDING:
                quantized = quantize(part, bits, group)
                tally.count(part, dequantize(quantized))
                tensors |= split_weight(module, quantized)
                continue
            tensors[disk_name] = narrow_floats(part)
            tally.original_bytes += count_bytes(part)
            if part.ndim == 2 and name != EMBEDDING:
                ignored.append(module)
        advance(done + 1)
    if decoder.config.tied:
        ignored.append(f"{names.prefix}lm_head")
    write_tensors(tensors, folder, shard_bytes=SHARD_BYTES)
    _write_rest(folder, loaded, describe_scheme(bits, group, ignored))
    return tally.sum_up(sum(count_bytes(tensor) for tensor in tensors.values()))


def check_writable(loaded: LoadedModel, group: int) -> None:
    """Refuse a model that cannot be written quantized, before hours of work.

    Raises:
        ValueError: it is quantized already, the group does not fit, or experts stand stacked.
    """
    decoder = loaded.decoder
    if decoder.stored is not None:
        raise ValueError(
            f"{loaded.folder} has weights in int{decoder.stored.bits} already; give the folder of "
            "the original model."
        )
    check_packable(decoder, group)
    if find_family(decoder.config.family).names.fused and decoder.config.experts is not None:
        raise ValueError(
            f"a {decoder.config.family} model stores its experts stacked, for which the layout on "
            "disk has no name; quantize it on loading instead, with --weights."
        )


class Tally:
    """Bytes and squares so far."""

    def __init__(self) -> None:
        self.num_weights = 0
        self.original_bytes = 0
        self.changed = 0.0
        self.total = 0.0

    def count(self, weight: Tensor, rounded: Tensor) -> None:
        """Count one weight and what rounding made of it."""
        wide = weight.float()
        self.num_weights += weight.numel()
        self.original_bytes += count_bytes(weight)
        self.changed += float((wide - rounded).square().sum())
        self.total += float(wide.square().sum())

    def sum_up(self, written_bytes: int) -> Figures:
        """The figures of all of it."""
        error = (self.changed / max(self.total, 1e-30)) ** 0.5
        return Figures(self.num_weights, self.original_bytes, written_bytes, error)


def _write_rest(folder: Path, loaded: LoadedModel, scheme: dict[str, object]) -> None:
    """Config, tokenizer, and the decision with its card."""
    copy_beside(loaded.folder, folder)
    described = json.loads((loaded.folder / "config.json").read_text(encoding="utf-8"))
    described["quantization_config"] = scheme
    write_whole(folder / "config.json", (json.dumps(described, indent=2) + "\n").encode())
    if loaded.card is None:
        return
    decision: dict[str, Tensor] = {
        name: parameter
        for name, parameter in loaded.decoder.named_parameters()
        if is_of_decision(name)
    }
    write_adapter(folder, replace(loaded.card, base_model=None, lora=None), decision)
