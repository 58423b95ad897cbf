"""The retrofit's course as inline SVG: kept fraction against its target, and the divergence.

Knows nothing of training: points in, a picture out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One logged step of a retrofit."""

    step: int
    target_factor: float
    kept_fraction: float
    """Share of tokens that the model decided to keep, window left aside."""

    kl: float
    """Divergence of the student from the teacher, nats a token."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """How values of one picture become points on the paper."""

    last_step: int
    low: float
    high: float
    is_log: bool = False

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last_step

    def y(self, value: float) -> float:
        bend: Callable[[float], float] = math.log10 if self.is_log else float
        bounded = min(max(value, self.low), self.high)
        share = (bend(bounded) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def draw_curves(points: Sequence[CurvePoint]) -> str:
    """Return two pictures side by side, or a sentence if nothing was logged."""
    if not points:
        return "<p>This run logged no steps.</p>"
    last = max(1, points[-1].step)
    kept = _Frame(last, 0.0, 1.0)
    positive = [point.kl for point in points if point.kl > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    divergence = _Frame(last, 10.0**low, 10.0 ** max(high, low + 1), is_log=True)
    steps = [point.step for point in points]
    return (
        '<div class="curves">'
        + _picture(
            "kept fraction",
            kept,
            [(share, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
            [
                _line(kept, steps, [1 / point.target_factor for point in points], "target"),
                _line(kept, steps, [point.kept_fraction for point in points], "measured"),
            ],
            '<b class="target">target</b>, <b class="measured">measured</b>',
        )
        + _picture(
            "divergence from the teacher, nats a token",
            divergence,
            [(10.0**power, f"{10.0**power:g}") for power in range(low, max(high, low + 1) + 1)],
            [_line(divergence, steps, [point.kl for point in points], "measured")],
            '<b class="measured">KL</b>, logarithmic',
        )
        + "</div>"
    )


def _picture(
    title: str, frame: _Frame, ticks: Sequence[tuple[float, str]], lines: list[str], legend: str
) -> str:
    grid = "".join(
        f'<path class="grid" d="M{LEFT} {frame.y(value):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{frame.y(value) + 4:.1f}" text-anchor="end">{label}</text>'
        for value, label in ticks
    )
    steps = "".join(
        f'<text x="{frame.x(step):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{step}</text>'
        for step, anchor in (
            (0, "start"),
            (frame.last_step // 2, "middle"),
            (frame.last_step, "end"),
        )
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title} over steps">'
        f"{grid}{steps}{''.join(lines)}</svg><figcaption>{title}: {legend}, over training steps"
        "</figcaption></figure>"
    )


def _line(frame: _Frame, steps: Sequence[int], values: Sequence[float], name: str) -> str:
    points = " ".join(
        f"{frame.x(step):.1f},{frame.y(value):.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    return f'<polyline class="{name}" points="{points}"/>'
