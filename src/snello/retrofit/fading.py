"""The warm-up of borrowed neurons: their rows shrink to nothing before anything is evicted.

Knows nothing of losses or schedules. A row that is zero reads zero, so that the ramp starts with
every logit at `-offset`, as the adapter does; the rest of the model learns to do without it.
"""

import torch
from torch import Tensor

from snello.models.borrowed import find_borrowed_rows
from snello.models.decoder import Decoder


class Fading:
    """Shrinks the borrowed rows of a decoder, in place; without any it does nothing.

    Invariant: rows that do not train are always the base's rows times the latest fade.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._found = list(find_borrowed_rows(decoder))
        self._base: dict[str, Tensor] = {
            found.name: found.parameter.detach()[found.rows].clone() for found in self._found
        }

    @torch.no_grad()
    def set(self, fade: float, *, before: float) -> None:
        """Go from one fade to the next; what trains is scaled, for it has moved on its own."""
        if fade == before == 0.0:
            return
        share = fade / before
        for found in self._found:
            if found.parameter.requires_grad:
                found.parameter[found.rows] *= share
            else:
                found.parameter[found.rows] = self._base[found.name] * fade
            if found.companion is not None:
                found.companion[found.rows] *= share

    @torch.no_grad()
    def resume(self, fade: float) -> None:
        """Bring the rows that do not train, and so are in no saved state, to a fade."""
        for found in self._found:
            if not found.parameter.requires_grad:
                found.parameter[found.rows] = self._base[found.name] * fade
