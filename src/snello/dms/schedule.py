"""How the target factor rises over a retrofit, and how a borrowed neuron fades before it does.

Knows nothing of losses, optimizers or tensors: steps, counted from 0, go in and numbers come out.
"""

from dataclasses import dataclass


def target_of(factor: float) -> float:
    """The share of tokens to evict for a factor: 8 keeps one in eight, so 0.875."""
    return 1.0 - 1.0 / factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A factor that is 1 during the warm-up, then rises linearly to `factor`, then holds it.

    Source: DMS, arXiv:2506.05345 (step / 100 + 1), and the authors' released recipe (1 to 16 over
    510 of 544 steps, whose step 238 is the published 8x model).
    """

    factor: float
    ramp_steps: int
    total_steps: int
    warmup_steps: int = 0
    """Steps before the ramp, in which a borrowed neuron fades out; 0 for the adapter."""

    def __post_init__(self) -> None:
        if self.factor < 1.0:
            raise ValueError(
                f"Ramp.factor is {self.factor}; it must be at least 1.0. It is dense size over "
                "sparse size: for 'keep one in eight' write 8.0, not 0.125."
            )
        if self.ramp_steps < 1:
            raise ValueError(f"Ramp.ramp_steps is {self.ramp_steps}; it must be at least 1.")
        if self.warmup_steps < 0:
            raise ValueError(f"Ramp.warmup_steps is {self.warmup_steps}; it must be at least 0.")
        if self.total_steps < self.warmup_steps + self.ramp_steps:
            raise ValueError(
                f"Ramp.total_steps is {self.total_steps}, but the warm-up takes "
                f"{self.warmup_steps} steps and the ramp {self.ramp_steps}; use more steps in "
                "all or a shorter ramp."
            )

    @classmethod
    def of_paper(cls, factor: float, *, warmup_steps: int = 0) -> "Ramp":
        """One more factor every hundred steps, then a hundred steps at the full factor."""
        ramp_steps = max(1, round((factor - 1.0) * 100))
        total_steps = warmup_steps + ramp_steps + 100
        return cls(
            factor=factor,
            ramp_steps=ramp_steps,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
        )

    @classmethod
    def of_released_recipe(cls) -> "Ramp":
        """The schedule of the public Qwen3-8B checkpoint."""
        return cls(factor=16.0, ramp_steps=510, total_steps=544)

    def factor_at(self, step: int) -> float:
        """The factor that step `step` (from 0) trains for."""
        progress = min(1.0, max(0, step - self.warmup_steps) / self.ramp_steps)
        return 1.0 + (self.factor - 1.0) * progress

    def target_at(self, step: int) -> float:
        """The share of tokens that step `step` asks to evict."""
        return target_of(self.factor_at(step))

    def fade_at(self, step: int) -> float:
        """What is left of a borrowed neuron at `step`: 1 untouched, 0 from the ramp's start on."""
        if self.warmup_steps == 0:
            return 0.0
        return max(0.0, 1.0 - step / self.warmup_steps)

    def steps_of_whole_factors(self) -> dict[int, int]:
        """For each whole factor from 2 on, the first step that trains for it: one checkpoint each.

        The full factor, where it is whole, is held until the end: its checkpoint is that of the
        last step, `total_steps - 1`.
        """
        steps = {}
        for whole in range(2, int(self.factor) + 1):
            share = (whole - 1) * self.ramp_steps
            steps[whole] = self.warmup_steps + _divide_up(share, self.factor - 1.0)
        if self.factor >= 2.0 and self.factor == int(self.factor):
            steps[int(self.factor)] = self.total_steps - 1
        return steps


def _divide_up(numerator: int, denominator: float) -> int:
    """Divide and round up, forgiving the last bits of a float quotient."""
    quotient = numerator / denominator
    nearest = round(quotient)
    return nearest if abs(quotient - nearest) < 1e-9 * max(1, nearest) else int(quotient) + 1
