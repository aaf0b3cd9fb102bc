"""How figures are printed, in the logs and on the pages: one way for each kind. Standard library only."""

from __future__ import annotations

from common.log.formulas import METRICS, Metric


def percent(fraction: float | None) -> str:
    """A fraction for people: 0.013408 as 1.3408%; small ones keep three digits."""
    if fraction is None:
        return "not finite"
    return f"{fraction * 100:.4f}%" if abs(fraction) >= 1e-4 else f"{fraction * 100:.3g}%"


def share(fraction: float | None) -> str:
    """How much of an error something accounts for: 0.999 as 99.9%; what makes it larger accounts for none of it."""
    return "-" if fraction is None else f"{max(fraction, 0.0):.1%}"


def format_metric(name: str, value: float | None) -> str:
    """An accuracy metric, or a bound of one, by its key."""
    form = METRICS.get(name, Metric(form="percent")).form
    if value is None:
        return "no error" if form == "decibel" else "not finite"
    if form == "percent":
        return percent(value)
    if form == "share":
        return f"{value:.0%}"
    if form == "decibel":
        return f"{value:.1f}"
    return f"{value:.6f}" if value >= 1e-4 or value == 0 else f"{value:.3g}"
