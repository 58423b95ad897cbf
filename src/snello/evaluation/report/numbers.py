"""How shares, differences and amounts are written in tables and on axes. Knows nothing of pages."""

from snello.evaluation.contrasts import Estimate


def show_estimate(estimate: Estimate | None, *, sign: str = "") -> str:
    """Return a share in percent with its interval; a dash where there is nothing to show."""
    if estimate is None:
        return "-"
    middle = f"{100 * estimate.value:{sign}.1f}"
    if estimate.interval is None:
        return middle
    low, high = (f"{100 * edge:{sign}.1f}" for edge in estimate.interval)
    return f"{middle} [{low}, {high}]"


def show_ratio(estimate: Estimate) -> str:
    """Return a ratio with its interval, as in `1.02 [0.99, 1.05]`."""
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    low, high = estimate.interval
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}]"


def shorten(amount: float) -> str:
    """Return an amount in three digits or fewer, as in `1.5M` or `20k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.3g}{unit}"
    return f"{amount:.3g}"
