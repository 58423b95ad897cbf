"""How values become points on a small picture, and its grid. Knows nothing of what is drawn."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 30


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to 0..1 along one axis; values outside are put on its edge.

    Invariant: `low < high`, and both are above 0 where the scale is logarithmic.
    """

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return where a value stands, 0 at `low` and 1 at `high`."""
        bounded = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(bounded / self.low) / math.log(self.high / self.low)
        return (bounded - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture with its two axes, in the units of its view box."""

    across: Scale
    up: Scale
    height: int = HEIGHT
    bottom: int = BOTTOM

    def x(self, value: float) -> float:
        """Return the place of a value from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.across.place(value)

    def y(self, value: float) -> float:
        """Return the place of a value from the top."""
        foot = self.height - self.bottom
        return foot - (foot - TOP) * self.up.place(value)

    def line(self, points: Iterable[tuple[float, float]], name: str) -> str:
        """Return a line through some points."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{name}" points="{places}"/>'

    def grid(self, ticks: Sequence[tuple[float, str]]) -> str:
        """Return level lines with their names at the left."""
        return "".join(
            f'<path class="grid" d="M{LEFT} {self.y(value):.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{label}</text>'
            for value, label in ticks
        )

    def feet(self, ticks: Sequence[tuple[float, str, str]]) -> str:
        """Return names below the picture: value, name, and which end of it stands there."""
        return "".join(
            f'<text x="{self.x(value):.1f}" y="{self.height - self.bottom + 20}"'
            f' text-anchor="{anchor}">{label}</text>'
            for value, label, anchor in ticks
        )


def choose_log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two others: 1, 2, 5 times powers of ten, or fewer of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            return inside
    return inside[:: -(-len(inside) // most)]


def choose_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between two numbers."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
