"""How figures are printed, in the logs and on the pages: one way for each kind. Standard library only."""

from __future__ import annotations

PERCENTS = ("relative_error", "relative_l2", "nmse", "top1_gap", "threshold", "expected_relative_l2")


def percent(fraction: float | None) -> str:
    """A fraction for people: 0.013408 as 1.3408%; small ones keep three digits."""
    if fraction is None:
        return "not finite"
    return f"{fraction * 100:.4f}%" if abs(fraction) >= 1e-4 else f"{fraction * 100:.3g}%"


def format_metric(metric: str, value: float | None) -> str:
    """An accuracy metric by its key."""
    if metric in PERCENTS:
        return percent(value)
    if value is None:
        return "no error" if metric == "sqnr_db" else "not finite"
    if metric == "top5_match":
        return f"{value:.0%}"
    if metric == "sqnr_db":
        return f"{value:.1f}"
    return f"{value:.6f}" if value >= 1e-4 or value == 0 else f"{value:.3g}"
