"""The retrofit's course as inline SVG: kept fraction against its target, and the divergence.

Knows nothing of training: points in, a picture out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snello.evaluation.report.axes import HEIGHT, WIDTH, Frame, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One logged step of a retrofit."""

    step: int
    target_factor: float
    kept_fraction: float
    """Share of tokens that the model decided to keep, window left aside."""

    kl: float
    """Divergence of the student from the teacher, nats a token."""


def draw_curves(points: Sequence[CurvePoint]) -> str:
    """Return two pictures side by side, or a sentence if nothing was logged."""
    if not points:
        return "<p>This run logged no steps.</p>"
    last = max(1, points[-1].step)
    across = Scale(0.0, last)
    kept = Frame(across, Scale(0.0, 1.0))
    positive = [point.kl for point in points if point.kl > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    divergence = Frame(across, Scale(10.0**low, 10.0 ** max(high, low + 1), is_log=True))
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
    title: str, frame: Frame, ticks: Sequence[tuple[float, str]], lines: list[str], legend: str
) -> str:
    last = round(frame.across.high)
    feet = frame.feet(
        [(0, "0", "start"), (last // 2, str(last // 2), "middle"), (last, str(last), "end")]
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title} over steps">'
        f"{frame.grid(ticks)}{feet}{''.join(lines)}</svg>"
        f"<figcaption>{title}: {legend}, over training steps</figcaption></figure>"
    )


def _line(frame: Frame, steps: Sequence[int], values: Sequence[float], name: str) -> str:
    return frame.line(zip(steps, values, strict=True), name)
