"""How a family's tensors are called on disk, and where each belongs in the decoder.

Knows nothing of files or of values. In the decoder names are Hugging Face's Llama names for all
families, with the experts of a layer stacked (`mlp.experts.gate_up_proj`, `mlp.experts.down_proj`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

GATE_UP = "mlp.experts.gate_up_proj"
DOWN = "mlp.experts.down_proj"
LINEAR_NAMES = ("gate_proj", "up_proj", "down_proj")


class Place(NamedTuple):
    """A parameter of the decoder, or the piece of it that one tensor on disk fills."""

    parameter: str
    expert: int | None = None
    half: int | None = None
    """Of a stacked `gate_up_proj`: 0 the gate's rows, 1 the up-projection's."""

    transposed: bool = False

    def view(self, parameter: Tensor) -> Tensor:
        """The part of the parameter that this place names; writing to it writes the parameter."""
        part = parameter if self.expert is None else parameter[self.expert]
        part = part if self.half is None else part.chunk(2, dim=0)[self.half]
        return part.transpose(-1, -2) if self.transposed else part


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """In what a family's names on disk differ from Llama's."""

    prefix: str = ""
    """Before `model.` and `lm_head.`."""

    block: str = "mlp"
    router: str = "gate"
    shared: str = "shared_experts"
    matrices: tuple[str, str, str] = LINEAR_NAMES
    """One expert's gate, up and down, where each expert's stand alone."""

    fused: bool = False
    """Whether experts stand stacked on disk, each matrix transposed; else each stands alone."""

    others: tuple[str, ...] = ()
    """Prefixes of tensors that belong to other parts of the model than its language decoder."""

    def locate(self, name: str) -> Place:
        """Where the tensor of this name belongs; names that are not known pass unchanged."""
        name = name.removeprefix(self.prefix)
        layer, dot, rest = split_layer(name)
        if rest.startswith(self.block + "."):
            rest = "mlp." + rest.removeprefix(self.block + ".")
        rest = rest.replace(f"mlp.{self.router}.", "mlp.gate.", 1)
        rest = rest.replace(f"mlp.{self.shared}.", "mlp.shared_experts.", 1)
        if match := re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)\.weight", rest):
            return self._locate_single(layer + dot, int(match[1]), match[2], name)
        return Place(layer + dot + rest, transposed=self.fused and rest in (GATE_UP, DOWN))

    def _locate_single(self, layer: str, expert: int, matrix: str, name: str) -> Place:
        for names in (self.matrices, LINEAR_NAMES):
            if matrix in names[:2]:
                return Place(layer + GATE_UP, expert, names.index(matrix))
            if matrix == names[2]:
                return Place(layer + DOWN, expert)
        return Place(name)

    def spread(self, parameter: str, num_experts: int) -> Iterator[tuple[str, Place]]:
        """The tensors on disk that make up one parameter: their names, and which part each is."""
        layer, dot, rest = split_layer(parameter)
        before = self.prefix + layer + dot
        if rest in (GATE_UP, DOWN) and not self.fused:
            halves = (0, 1) if rest == GATE_UP else (None,)
            for expert in range(num_experts):
                for half in halves:
                    matrix = self.matrices[2 if half is None else half]
                    name = f"{before}{self.block}.experts.{expert}.{matrix}.weight"
                    yield name, Place(parameter, expert, half)
            return
        rest = rest.replace("mlp.shared_experts.", f"mlp.{self.shared}.", 1)
        rest = rest.replace("mlp.gate.", f"mlp.{self.router}.", 1)
        if rest.startswith("mlp."):
            rest = self.block + "." + rest.removeprefix("mlp.")
        yield (
            before + rest,
            Place(parameter, transposed=self.fused and parameter.endswith((GATE_UP, DOWN))),
        )

    def is_beside(self, name: str, num_layers: int, num_extra_layers: int) -> bool:
        """Whether the tensor is a known part of the model that the decoder does not run."""
        if name.startswith(self.others):
            return True
        match = re.match(r"model\.layers\.(\d+)\.", name.removeprefix(self.prefix))
        return match is not None and 0 <= int(match[1]) - num_layers < num_extra_layers


def ways_to_fill(parameter: str, num_experts: int) -> list[set[Place]]:
    """The sets of places that each fill a parameter: in one piece, or expert by expert."""
    ways = [{Place(parameter)}, {Place(parameter, transposed=True)}]
    if parameter.endswith(GATE_UP):
        ways.append({Place(parameter, e, half) for e in range(num_experts) for half in (0, 1)})
    elif parameter.endswith(DOWN):
        ways.append({Place(parameter, e) for e in range(num_experts)})
    return ways


def split_layer(name: str) -> tuple[str, str, str]:
    """Split `model.layers.3.mlp.x` into its layer, a dot and the rest; else all is rest."""
    match = re.match(r"(model\.layers\.\d+)(\.)(.+)", name)
    return (match[1], match[2], match[3]) if match else ("", "", name)


def is_derived(name: str) -> bool:
    """Whether a tensor on disk is one that follows from config.json (old Llama files have them)."""
    return name.endswith(".rotary_emb.inv_freq")


def is_of_decision(parameter: str) -> bool:
    """Whether a parameter belongs to the eviction decision, which no base checkpoint holds."""
    return ".decision." in parameter
