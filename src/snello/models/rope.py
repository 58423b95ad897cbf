"""Rotary position embedding: the angles of each row, and turning queries and keys by them.

Knows nothing of config files or of attention. Cosine and sine are float32 whatever the model is.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from snello.config.model import RopeConfig


class Rotary(nn.Module):
    """From positions to cosines and sines.

    Invariant: the angles of a row depend on its own position and its own sequence's length only,
    never on the rest of the batch. The frequencies are derived, so no checkpoint holds them.
    """

    frequencies: Tensor

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("frequencies", compute_frequencies(config), persistent=False)

    def reset(self) -> None:
        """Compute the frequencies again, after the module got new memory."""
        self.frequencies.copy_(compute_frequencies(self.config))

    def forward(
        self, positions: Int[Tensor, " T"], lengths: Int[Tensor, " T"]
    ) -> tuple[Float[Tensor, "T R"], Float[Tensor, "T R"]]:
        """Return cosine and sine for R = size / 2 pairs of dimensions."""
        if self.config.scaling == "dynamic":
            frequencies = stretch_dynamically(self.config, lengths)  # (T, R)
        else:
            frequencies = self.frequencies[None, :]
        angles = positions[:, None].float() * frequencies
        factor = self.config.attention_factor
        return angles.cos() * factor, angles.sin() * factor


def compute_frequencies(config: RopeConfig) -> Float[Tensor, " R"]:
    """How fast each pair of dimensions turns, in radians per position."""
    exponents = torch.arange(0, config.size, 2, dtype=torch.float32, device="cpu") / config.size
    plain = 1.0 / (config.theta**exponents)
    match config.scaling:
        case "linear":
            return plain / config.factor
        case "llama3":
            return stretch_llama3(config, plain)
        case "yarn":
            return stretch_yarn(config, plain)
        case _:
            return plain


def stretch_dynamically(config: RopeConfig, lengths: Int[Tensor, " T"]) -> Float[Tensor, "T R"]:
    """Frequencies for sequences that outgrew the trained context: the base grows with the length.

    Source: "dynamic NTK" scaling, as in transformers; there the longest row of the batch decides.
    """
    original = config.original_positions
    grown = lengths.clamp(min=original).float() / original
    stretch = config.factor * grown - (config.factor - 1.0)
    theta = config.theta * stretch ** (config.size / (config.size - 2))
    exponents = torch.arange(0, config.size, 2, dtype=torch.float32, device=lengths.device)
    return 1.0 / (theta[:, None] ** (exponents / config.size))


def stretch_llama3(config: RopeConfig, plain: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Slow pairs are slowed by the factor, fast ones kept, those between blended.

    Source: Llama 3.1's released code.
    """
    turns = config.original_positions * plain / (2 * math.pi)
    low, high = config.low_frequency_factor, config.high_frequency_factor
    span = max(high - low, 1e-9)  # Llama 4 Scout gives both as one: no blend, an edge
    kept = ((turns - low) / span).clamp(0.0, 1.0)
    return plain / config.factor * (1.0 - kept) + plain * kept


def stretch_yarn(config: RopeConfig, plain: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    """As llama3, but the blend is linear in the pair's index between two numbers of turns.

    Source: YaRN, arXiv:2309.00071, section 3.2.
    """
    low, high = (find_pair(config, turns) for turns in (config.beta_fast, config.beta_slow))
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.size - 1)
    if low == high:
        high += 0.001  # the ramp must not divide by zero
    index = torch.arange(len(plain), dtype=torch.float32, device="cpu")
    slowed = ((index - low) / (high - low)).clamp(0.0, 1.0)
    return plain / config.factor * slowed + plain * (1.0 - slowed)


def find_pair(config: RopeConfig, turns: float) -> float:
    """The (fractional) index of the pair that turns this often over the trained context."""
    span = math.log(config.original_positions / (turns * 2 * math.pi))
    return config.size * span / (2 * math.log(config.theta))
