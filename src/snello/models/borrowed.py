"""Which rows of the query products carry borrowed neurons, and how they are saved alone.

Knows nothing of training or of cards.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from snello.models.decision import BorrowedDecision
from snello.models.decoder import Decoder

SUFFIX = ".borrowed_rows"


class BorrowedRows(NamedTuple):
    """The rows of one query product that carry borrowed neurons."""

    name: str
    """Of the product's parameter, as it is called without companions."""

    parameter: nn.Parameter
    companion: nn.Parameter | None
    """What LoRA adds to the same rows, where the product has a companion: its B."""

    rows: Int[Tensor, " K"]


def find_borrowed_rows(decoder: Decoder) -> Iterator[BorrowedRows]:
    """Yield the parameters of a decoder that borrows, layer by layer; none where it does not."""
    for path, attention in decoder.named_modules():
        borrowed = getattr(attention, "borrowed", None)
        if not isinstance(borrowed, BorrowedDecision):
            continue
        product = "q_b_proj" if hasattr(attention, "q_b_proj") else "q_proj"
        linear = attention.get_submodule(product)
        companions = [p for name, p in linear.named_parameters() if ".lora_B." in f".{name}"]
        linear = getattr(linear, "base_layer", linear)
        size = linear.weight.shape[0] // decoder.config.num_heads
        heads = torch.arange(0, decoder.config.num_heads, borrowed.stride)
        rows = (heads * size + size - 1).to(linear.weight.device)
        for name, parameter in linear.named_parameters():
            companion = companions[0] if companions and name == "weight" else None
            yield BorrowedRows(f"{path}.{product}.{name}", parameter, companion, rows)


def read_borrowed_rows(decoder: Decoder) -> dict[str, Tensor]:
    """Return the borrowed rows of all layers, under the names they have on disk."""
    return {
        found.name + SUFFIX: found.parameter.detach()[found.rows]
        for found in find_borrowed_rows(decoder)
    }


@torch.no_grad()
def write_borrowed_rows(decoder: Decoder, weights: dict[str, Tensor], source: Path) -> None:
    """Put saved rows back, in place, and take them out of `weights`; rows not saved stay.

    Raises:
        ValueError: rows of another shape.
    """
    for found in find_borrowed_rows(decoder):
        rows = weights.pop(found.name + SUFFIX, None)
        if rows is None:
            continue
        needed = found.parameter[found.rows].shape
        if rows.shape != needed:
            raise ValueError(
                f"{source}: {found.name}{SUFFIX} has the shape {tuple(rows.shape)}; the model "
                f"needs {tuple(needed)}."
            )
        found.parameter[found.rows] = rows.to(found.parameter)
