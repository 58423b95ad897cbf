"""Tokens whose keys the model's typical queries will look at from afar, stay.

Source: TriAttention, arXiv:2604.04921, and the authors' code: before their rotation, the queries of
a head gather around a centre; how a key scores against that centre as the distance grows is a sum
of cosines, which is averaged over distances 1, 2, 4 ... ahead, and a term for what the queries
scatter around it. Scores of each query head are standardised, and the largest of a group counts.
As in the authors' scripts, prompts count as anything else does; the layer and the head choose for
themselves. Query norms are in the centres; no noise breaks ties. Knows nothing of pages.
Dims: L layers, H query heads, g of each of K key-value heads, R pairs that rotate, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from snello.config.model import CacheShape
from snello.ops.place.reference import rotate
from snello.policies.rule import Sight, Verdict, count_leaving, keep_best

FARTHEST_TOKENS = 65536


@dataclass(frozen=True, slots=True, eq=False)
class Centres:
    """Where the queries of each head gather before they are rotated, measured on texts."""

    mean: Float[Tensor, "L H D"]
    spread: Float[Tensor, "L H R"]
    """Mean length of each pair that rotates, minus the length of the mean pair."""

    frequencies: Float[Tensor, " R"]
    """Radians per position."""

    interleaved: bool
    """How numbers are paired, see `RopeConfig`."""

    def save(self, path: Path) -> None:
        """Write them to a file."""
        tensors = {"mean": self.mean, "spread": self.spread, "frequencies": self.frequencies}
        tidy = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        save_file(tidy, path, metadata={"interleaved": str(int(self.interleaved))})

    @classmethod
    def load(cls, path: Path) -> "Centres":
        """Read a file that `save` has written.

        Raises:
            ValueError: there is none, or it holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                interleaved = (file.metadata() or {})["interleaved"] == "1"
                tensors = [file.get_tensor(name) for name in ("mean", "spread", "frequencies")]
                return cls(tensors[0], tensors[1], tensors[2], interleaved)
        except (SafetensorError, OSError, KeyError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"{path} holds no centres of queries ({reason}); write them with "
                "snello.retrofit.centres.measure_centres for this model."
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class Trigonometric:
    """Keeps what future queries are expected to look at, and the newest `recent`.

    Decided whenever a head is full, for `every` tokens at once. The budget is the most that a head
    holds, as with all rules; the paper's is what remains, and its 128 new tokens come on top.
    """

    budget: int
    centres: Centres
    every: int | None = None
    """How many tokens come between decisions; None: 128, or a quarter of the budget if less."""

    recent: int = 1
    num_notes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.recent <= self.budget - self.interval:
            raise ValueError(
                f"tri has a budget of {self.budget}, cuts {self.interval} at once, and keeps "
                f"recent={self.recent} newest tokens; give a larger budget, or less of the others."
            )

    @classmethod
    def open(cls, budget: int, centres: str, **settings: int) -> "Trigonometric":
        """Build the rule with centres from a file.

        Raises:
            ValueError: the file holds none, or settings do not go together.
        """
        return cls(budget, Centres.load(Path(centres)), **settings)

    @property
    def interval(self) -> int:
        """How many tokens leave at once."""
        return count_leaving(self.budget, self.every)

    @property
    def chunk_limit(self) -> int:
        """The budget."""
        return self.budget

    @property
    def limit(self) -> int:
        """The budget."""
        return self.budget

    def check_suits(self, shapes: Sequence[CacheShape]) -> None:
        """Refuse centres that are another model's.

        Raises:
            ValueError: another number of layers, or heads of another kind or size.
        """
        L, H, D = self.centres.mean.shape
        are_heads = all(s.key_size == D and H % s.num_heads == 0 for s in shapes)
        if len(shapes) != L or not are_heads or any(s.value_in_key for s in shapes):
            raise ValueError(
                f"the centres given to tri are of {L} layers with {H} query heads of {D} numbers, "
                f"and this model has {len(shapes)} layers whose heads do not fit; measure them for "
                "this model with snello.retrofit.centres.measure_centres."
            )

    def decide(self, sight: Sight) -> Verdict:
        """Cut full heads down; in all others everybody stays."""
        is_full = sight.is_live.sum(-1, keepdim=True) > self.budget  # (B, K, 1)
        if not bool(is_full.any()):
            return Verdict(sight.is_live, sight.notes)
        values = self.expect(sight).masked_fill(sight.age() < self.recent, torch.inf)
        best = keep_best(values, sight.is_live, self.budget - self.interval)
        return Verdict(torch.where(is_full, best, sight.is_live), sight.notes)

    def expect(self, sight: Sight) -> Float[Tensor, "B K N"]:
        """Score each token by the queries to come.

        A key is stored rotated, so it is the centre that is rotated to the distances ahead.
        """
        keys, centres = sight.keys, self.centres
        mean, spread = (p[sight.layer].to(keys.device) for p in (centres.mean, centres.spread))
        ahead = look_ahead(mean, sight.last, centres)  # (B, H, D)
        expected = sight.group(ahead) @ keys.transpose(2, 3)  # (B, K, g, N)
        lengths = measure_pairs(keys, spread.shape[-1], interleaved=centres.interleaved)
        scattered = spread.view(keys.shape[1], -1, spread.shape[-1]) @ lengths.transpose(2, 3)
        return standardise(expected + scattered, sight.is_live).amax(2)


def look_ahead(
    mean: Float[Tensor, "H D"], last: Tensor, centres: Centres
) -> Float[Tensor, "B H D"]:
    """Rotate the centres to the positions 1, 2, 4 ... behind the last one, and average."""
    steps = torch.tensor([2.0**i for i in range(FARTHEST_TOKENS.bit_length())], device=last.device)
    positions = (last[:, None] + steps).flatten()  # (B * steps,)
    angles = positions[:, None].double() * centres.frequencies.to(last.device).double()
    heads = mean.expand(len(positions), *mean.shape)
    turned = rotate(
        heads, angles.cos().float(), angles.sin().float(), interleaved=centres.interleaved
    )
    return turned.view(len(last), len(steps), *mean.shape).mean(1)


def measure_pairs(
    x: Float[Tensor, "*rows D"], num_pairs: int, *, interleaved: bool
) -> Float[Tensor, "*rows R"]:
    """Return the length of each pair of numbers that rotate together."""
    turned = x[..., : 2 * num_pairs]
    if interleaved:
        return torch.hypot(turned[..., 0::2], turned[..., 1::2])
    return torch.hypot(*turned.chunk(2, dim=-1))


def standardise(
    scores: Float[Tensor, "B K g N"], is_live: Bool[Tensor, "B K N"]
) -> Float[Tensor, "B K g N"]:
    """Give the scores of the tokens that are held mean 0 and variance 1."""
    is_held = is_live[:, :, None]
    count = is_held.sum(-1, keepdim=True).clamp_min(1)
    mean = scores.where(is_held, 0.0).sum(-1, keepdim=True) / count
    centred = (scores - mean).where(is_held, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp_min(1e-6)
