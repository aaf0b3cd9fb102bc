"""How figures are printed, in the logs and on the pages: one way for each kind. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.log.formulas import METRICS, Metric


def percent(fraction: float | None) -> str:
    """A fraction for people: 0.013408 as 1.3408%; small ones keep three digits."""
    if fraction is None:
        return "not finite"
    return f"{fraction * 100:.4f}%" if abs(fraction) >= 1e-4 else f"{fraction * 100:.3g}%"


def share(fraction: float | None) -> str:
    """How much of an error something accounts for: 0.999 as 99.9%; what makes it larger accounts for none of it."""
    return "-" if fraction is None else f"{max(fraction, 0.0):.1%}"


def bound(fraction: float) -> str:
    """A bound, in as few digits as it has: 0.01 as 1%, 0.02137062167 as 2.1371%."""
    return f"{fraction * 100:.5g}%"


def threshold(fraction: float) -> str:
    """The bound that a run applied, as its log has it: 0.01 as 1.0%, 0.02137062167 as 2.1371%."""
    return f"{float(f'{fraction * 100:.5g}')}%"


def three_digits(value: float) -> str:
    """A quantity of any size: 0.0439, 12.3, 1235."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def rate(tflops: float) -> str:
    """Operations a second with their unit, which for small encoders is the smaller: 95.3 GFLOP/s, 0.178 TFLOP/s."""
    return f"{three_digits(tflops)} TFLOP/s" if tflops >= 0.1 else f"{three_digits(tflops * 1000)} GFLOP/s"


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


# How any other figure is printed, by its key or the end of it; the first that fits.
FORMS: dict[str, Callable[[float], str]] = {
    "params": lambda count: f"{count / 1e6:.1f}M",
    "load_ms": "{:.0f}".format,
    "place_ms": "{:.0f}".format,
    "first_call_ms": "{:.0f}".format,
    "_ms": "{:.3f}".format,
    "ms": "{:.3f}".format,
    "share": "{:.1%}".format,
    "remainder": "{:.1%}".format,
    "gflop": three_digits,
    "_ips": "{:.2f}".format,
    "_mb": "{:.0f}".format,
    "tflops": three_digits,
    "gflop_per_image": three_digits,
    "relative_l2": percent,
    "threshold": threshold,
    "percent_of_limit": "{:.1%}".format,
    "spread": "{:.1%}".format,
    "scaling_efficiency": "{:.1%}".format,
    "accuracy": bound,
    "accuracy_drop": bound,
    "changed_at_most": percent,
    "neighbours_kept": bound,
    "rounding": percent,
    "explained": share,
    "confirmed": share,
    "without": percent,
    "speedup": "{:.2f}".format,
    "load_average": "{:.1f}".format,
    "own_load": "{:.1f}".format,
    "value": "{:.6f}".format,
}


def format_figure(name: str, value: float) -> str:
    """A figure by its key, such as p50_latency_ms; a count as it is."""
    return next((form(value) for end, form in FORMS.items() if name.endswith(end)), f"{value:g}")


def format_pair(values: Iterable[float], name: str) -> str:
    """Figures of one key side by side: 12.50 / 25.00."""
    return " / ".join(format_figure(name, value) for value in values)
