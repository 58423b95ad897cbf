"""What some heads of one layer hold, copied out of their pages, and where it goes back to.

Knows nothing of rules or of who owns a page.
Dims: B sequences, K key-value heads, N places, Q new tokens, R notes, S slots per page.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from snello.cache.store import EMPTY, PageStore


class Tokens(NamedTuple):
    """M tokens, taken out of their places."""

    keys: Float[Tensor, "M D"]
    values: Float[Tensor, "M E"]
    positions: Int[Tensor, " M"]
    notes: Float[Tensor, "M R"]


@dataclass(frozen=True, slots=True)
class Places:
    """Tokens of B * K heads: the first `num_old` places are slots, those behind are new tokens.

    A place without a token has the position EMPTY.
    """

    keys: Float[Tensor, "B K N D"]
    values: Float[Tensor, "B K N E"]
    positions: Int[Tensor, "B K N"]
    notes: Float[Tensor, "B K N R"]
    num_old: int

    @property
    def is_live(self) -> Bool[Tensor, "B K N"]:
        """Where there is a token."""
        return self.positions < EMPTY

    def append(
        self,
        keys: Float[Tensor, "B Q K D"],
        values: Float[Tensor, "B Q K E"],
        positions: Int[Tensor, "B Q"],
    ) -> "Places":
        """Return the same places, and one more for each new token; nothing is noted about it."""
        num_heads = self.keys.shape[1]
        shown = positions[:, None].expand(-1, num_heads, -1).to(self.positions.dtype)
        notes = self.notes.new_zeros(*shown.shape, self.notes.shape[-1])
        return replace(
            self,
            keys=torch.cat([self.keys[..., : keys.shape[-1]], keys.transpose(1, 2)], dim=2),
            values=torch.cat([self.values[..., : values.shape[-1]], values.transpose(1, 2)], dim=2),
            positions=torch.cat([self.positions, shown], dim=2),
            notes=torch.cat([self.notes, notes], dim=2),
        )

    def take(self, chosen: Bool[Tensor, "B K N"]) -> Tokens:
        """Return the chosen tokens, head by head."""
        parts = self.keys, self.values, self.positions, self.notes
        return Tokens(*(part[chosen] for part in parts))

    def name_slots(self, pages: Int[Tensor, "B K M"], slots_per_page: int) -> Int[Tensor, "B K N"]:
        """Name the slot of each place; behind the pages, whichever slot."""
        place = torch.arange(self.keys.shape[2], device=pages.device)
        columns = (place // slots_per_page).clamp_max(pages.shape[-1] - 1)
        return pages[..., columns] * slots_per_page + place % slots_per_page


class Moves(NamedTuple):
    """What happens to places: tokens go from `sources` to `targets`, as many, in order."""

    stays: Bool[Tensor, "B K N"]
    leaves: Bool[Tensor, "B K N"]
    """Slots behind those that are filled afterwards."""

    sources: Bool[Tensor, "B K N"]
    targets: Bool[Tensor, "B K N"]


def gather_places(
    store: PageStore,
    notes: Float[Tensor, "P S R"],
    pages: Int[Tensor, "B K M"],
    num_places: int,
) -> Places:
    """Copy the first slots of each head."""
    place = torch.arange(num_places, device=pages.device)
    slots = pages[..., place // store.page_tokens] * store.page_tokens + place % store.page_tokens
    return Places(
        keys=store.keys.flatten(0, 1)[slots],
        values=store.values.flatten(0, 1)[slots],
        positions=store.positions_of(slots),
        notes=notes.flatten(0, 1)[slots],
        num_old=num_places,
    )


def arrange_kept(keep: Bool[Tensor, "B K N"], num_old: int) -> Moves:
    """Plan how the kept tokens of each head come to fill its first slots, with few moves."""
    place = torch.arange(keep.shape[-1], device=keep.device)
    is_old = place < num_old
    is_filled = place < keep.sum(-1, keepdim=True)  # (B, K, N)
    stays = keep & is_filled & is_old
    return Moves(stays, ~is_filled & is_old, keep & ~stays, is_filled & ~stays)
