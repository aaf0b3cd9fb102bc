"""The four plots of a report, as PNG, from the records of one group. Headless; the only module that needs matplotlib.

Every plot is drawn always: where the records hold nothing for it, it says so and shows what there is instead.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from common.log import formulas
from common.log.figures import percent
from common.log.runlog import Record, Run, printable
from common.verdict.evidence import Group, UnjudgeableError, number, number_or_none, numbers, one, text

SIZE = (8.0, 4.6)  # inches; text is sized to be read where a page shows the plot 800 pixels wide
DPI = 200
# Okabe and Ito's colours, which people who confuse red and green can tell apart too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold a $
}
LONGEST = 70  # characters of a name in a plot
MOST_CAUSES = 12
NO_EXPLANATION = "not in the records (accuracy_run.py --explain adds it)"

Draw = Callable[[Group, Figure], None]


def draw_all(group: Group) -> dict[str, bytes]:
    """The plots by the stem of their file name."""
    return {name: draw(plot, group) for name, plot in PLOTS.items()}


def draw(plot: Draw, group: Group) -> bytes:
    """One plot as PNG. Records that lack what it needs leave a plot that says what is missing."""
    with matplotlib.rc_context(STYLE):
        try:
            figure = new_figure()
            plot(group, figure)
        except UnjudgeableError as error:
            figure = new_figure()
            say_missing(figure, str(error))
        figure.text(0.995, 0.005, subject_of(group), ha="right", va="bottom", fontsize=8, color=GREY)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI)
    return content.getvalue()


def new_figure() -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[union-attr, call-arg]
    return figure


def subject_of(group: Group) -> str:
    """What was measured, in small print: a plot is passed on without its page."""
    env, model = one(group.runs[0], "env"), one(group.runs[0], "model")
    return plain(f"{text(model, 'model')}, {text(model, 'dtype')}, {text(env, 'device')}: {env.get('device_name')}")


def plain(name: str) -> str:
    """A name in the letters that the font has, and not too long."""
    shown = printable(name).encode("ascii", "replace").decode()
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."


def set_title(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left")


def say_missing(figure: Figure, reason: str) -> None:
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, plain(reason), ha="center", va="center", transform=axes.transAxes)


# ------------------------------------------------------------------------------------------------------ performance
def draw_latency(group: Group, figure: Figure) -> None:
    """Every synchronised call of the latency pass, beside its quartiles, over the batch sizes."""
    run = the_run(group, "perf")
    rows = rows_of(run)
    axes = figure.add_subplot()
    set_title(figure, "Latency of a call, by batch size")
    samples = [samples_of(run, row) for row in rows]
    for at, times in enumerate(samples):
        scatter = [at + 0.22 * math.sin(2.4 * turn) for turn in range(len(times))]
        axes.plot(scatter, times, ".", color=BLUE, alpha=0.45, markersize=5, label=once(axes, "one call"))
        if len(times) >= formulas.FEWEST_SAMPLES:
            low, middle, high = statistics.quantiles(times, method="inclusive")
            axes.bar(at, high - low, 0.62, low, color="none", ec="black", label=once(axes, "quartiles"))
            axes.hlines(middle, at - 0.31, at + 0.31, color=RED, linewidth=2, label=once(axes, "median"))
    if not any(samples):
        axes.text(0.5, 0.5, "no batch size was measured", ha="center", transform=axes.transAxes)
    else:
        log_axis(axes, [time for times in samples for time in times])
        axes.legend(loc="upper left")
    axes.set_ylabel("ms a call (log scale)")
    label_batches(axes, rows, [f"n={len(times)}" for times in samples])


def draw_throughput(group: Group, figure: Figure) -> None:
    """Both throughputs over the batch sizes, and the images a second that the device's matrix products would allow."""
    run = the_run(group, "perf")
    rows = rows_of(run)
    axes = figure.add_subplot()
    set_title(figure, "Throughput over batch size, against the device's limit")
    good = [(at, row) for at, row in enumerate(rows) if row.get("status") == "ok"]
    values: list[float] = []
    for key, name, color, marker in (
        ("throughput_ips", "forward alone", BLUE, "o"),
        ("end_to_end_ips", "end to end, with decoding", ORANGE, "s"),
    ):
        points = [(at, value) for at, row in good if (value := number_or_none(row, key)) is not None]
        values += [value for _, value in points]
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker=marker, color=color, label=name)
    limit = limit_ips(run, good)
    if limit is not None:
        axes.axhline(limit, color=RED, linestyle="--", label="limit: matrix products alone")
        note = f"{max(number(row, 'limit_tflops') for _, row in good):.3f} TFLOP/s"
        axes.annotate(note, (len(rows) - 0.45, limit), (0, 4), textcoords="offset points", ha="right", color=RED)
        values.append(limit)
    for at, row in good:
        share = number_or_none(row, "percent_of_limit")
        note = f"{number(row, 'throughput_ips'):.2f}" + (f"\n{share:.1%} of limit" if share is not None else "")
        above = (at, number(row, "throughput_ips"))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
        axes.annotate(
            note, above, (0, 9), textcoords="offset points", ha="center", fontsize=9, color=BLUE, bbox=box
        )  # fmt: skip
    if values:
        log_axis(axes, values, above=1.9)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9.5, borderaxespad=0.2)
    if limit is None:
        axes.text(0.02, 0.04, "no limit in the records", transform=axes.transAxes, color=GREY)
    axes.set_ylabel("images/s (log scale)")
    label_batches(axes, rows)


def limit_ips(run: Run, good: Sequence[tuple[int, Record]]) -> float | None:
    """The limit in images a second: that of the records, by the operations of an image."""
    gflop = number_or_none(one(run, "model"), "gflop_per_image") if "gflop_per_image" in one(run, "model") else None
    limits = [limit for _, row in good if (limit := number_or_none(row, "limit_tflops")) is not None]
    return max(limits) * 1000 / gflop if gflop and limits else None


def rows_of(run: Run) -> list[Record]:
    return sorted(run.events("perf"), key=lambda row: number(row, "batch_size"))


def samples_of(run: Run, row: Record) -> list[float]:
    """The times in ms of the row's latency pass; none where the batch size failed."""
    wanted = {"batch_size": row["batch_size"], "pass": "latency"}.items()
    found = [record for record in run.events("latencies") if wanted <= record.items()]
    return [time for record in found for time in numbers(record, "samples_ms")]


def label_batches(axes: Axes, rows: Sequence[Record], notes: Sequence[str] = ()) -> None:
    """A tick for each batch size; one that failed says how."""
    labels = []
    for at, row in enumerate(rows):
        status = text(row, "status")
        note = notes[at] if notes and status == "ok" else {"ok": "", "oom": "out of\nmemory"}.get(status, plain(status))
        labels.append(f"{number(row, 'batch_size'):g}\n{note}".rstrip())
    axes.set_xticks(range(len(rows)), labels)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("batch size (images)")
    axes.grid(axis="x", visible=False)


def log_axis(axes: Axes, values: Iterable[float], above: float = 1.35) -> None:
    """A logarithmic y axis around the values, with round figures on it."""
    known = positive(values)
    if not known:
        return
    low, high = min(known) / 1.35, max(known) * above
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_yticks([step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# --------------------------------------------------------------------------------------------------------- accuracy
def draw_blocks(group: Group, figure: Figure) -> None:
    """The error of every block, alone and with all before it; without them, the error of every sample."""
    run = the_run(group, "accuracy")
    layers = run.events("layer")
    axes = figure.add_subplot()
    if not layers:
        set_title(figure, f"Error by block: {NO_EXPLANATION}.\nShown instead: the error of every sample")
        draw_samples(run, axes)
        return
    set_title(figure, "Error by block")
    for key, name, color, look in (
        ("propagated", "with all blocks before it", BLUE, "o-"),
        ("isolated", "alone, with the CPU's input", ORANGE, "s--"),
    ):
        points = [(number(layer, "block"), number_or_none(layer, key)) for layer in layers]
        plot_errors(axes, points, name, color, look)
    blamed = [number(layer, "block") for layer in layers if layer.get("blamed") is True]
    for block in blamed:
        axes.axvspan(block - 0.4, block + 0.4, color=RED, alpha=0.2, label="blamed")
    error_axis(axes, [number_or_none(layer, key) for layer in layers for key in ("propagated", "isolated")])
    if len(layers) <= 40:
        axes.set_xticks([number(layer, "block") for layer in layers][:: 1 + len(layers) // 20])
    axes.set_xlabel("block")


def draw_samples(run: Run, axes: Axes) -> None:
    samples = run.events("sample")
    for output, reference, color, look in compared(samples):
        of = [s for s in samples if (s.get("output"), s.get("reference")) == (output, reference)]
        points = [(float(at), number_or_none(sample, "relative_l2")) for at, sample in enumerate(of, start=1)]
        plot_errors(axes, points, plain(f"{output} against {reference}"), color, look)
    error_axis(axes, [number_or_none(sample, "relative_l2") for sample in samples], thresholds_of(run))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("sample (image), in the order of the log")


def draw_causes(group: Group, figure: Figure) -> None:
    """How much of the error each known cause explains; without them, every error beside its bound."""
    run = the_run(group, "accuracy")
    causes = run.events("cause")
    axes = figure.add_subplot()
    if not causes:
        why = "nothing to explain, the outputs equal the CPU's" if run.events("layer") else NO_EXPLANATION
        set_title(figure, f"Error by cause: {why}.\nShown instead: the errors beside their threshold")
        draw_bounds(run, axes)
        return
    set_title(figure, "How much of the error a cause explains")
    ranked = sorted(causes, key=lambda cause: -(share_of(cause) or -math.inf))
    shown = [cause for cause in ranked if cause.get("best")] + [cause for cause in ranked if not cause.get("best")]
    shown = shown[:MOST_CAUSES]
    for at, cause in enumerate(shown):
        share = share_of(cause)
        width = min(max(share or 0.0, 0.0), 1.0)
        axes.barh(at, width, 0.7, color=GREEN if cause.get("best") else GREY)
        inside = width > 0.8
        axes.text(
            width - 0.01 if inside else width + 0.01, at, describe_share(share),
            ha="right" if inside else "left", va="center", color="white" if inside else "black",
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [describe_cause(cause) for cause in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("explained = 1 - ‖y - yₖ‖² / ‖y - r‖²  (yₖ: the cause, emulated)")
    axes.grid(axis="y", visible=False)


def describe_cause(cause: Record) -> str:
    name = plain(text(cause, "cause").replace("+", " + "))
    return f"{name} ({'the answer' if name == 'unexplained' else 'best'})" if cause.get("best") else name


def share_of(cause: Record) -> float | None:
    return number_or_none(cause, "explained")


def describe_share(share: float | None) -> str:
    if share is None:
        return "not finite"
    return f"{share:.1%}" if share >= 0 else f"{share:.1%}: it moves the outputs elsewhere"


def draw_bounds(run: Run, axes: Axes) -> None:
    bars = [
        (f"{text(record, 'output')} {metric}\nagainst {text(record, 'reference')}", number_or_none(record, metric))
        for record in run.events("accuracy")
        for metric in ("relative_error", "relative_l2")
    ]
    if not bars:
        raise UnjudgeableError("no accuracy records")
    known = positive([*(value for _, value in bars), *thresholds_of(run)]) or [1.0]
    low, high = 10 ** math.floor(math.log10(min(known)) - 1), 10 ** math.ceil(math.log10(max(known)) + 0.3)
    for at, (_, value) in enumerate(bars):
        axes.barh(at, value or low, 0.6, color=RED if value is None else BLUE)
        axes.annotate(percent(value), (value or low, at), (5, 0), textcoords="offset points", va="center")
    for threshold in thresholds_of(run):
        axes.axvline(threshold, color=RED, linestyle="--", label=f"threshold of the run: {in_percent(threshold)}")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(in_percent))
    axes.set_yticks(range(len(bars)), ["\n".join(map(plain, name.splitlines())) for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("the worst of all samples (log scale)")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9.5)


def compared(samples: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """Each output and reference among the samples, with a colour and a look of its own."""
    found = dict.fromkeys((text(sample, "output"), text(sample, "reference")) for sample in samples)
    looks = zip((BLUE, ORANGE, GREEN, GREY), ("o-", "s--", "D:", "^-."), strict=True)
    return [(output, reference, *look) for (output, reference), look in zip(found, looks, strict=False)]


def plot_errors(axes: Axes, points: Sequence[tuple[float, float | None]], name: str, color: str, look: str) -> None:
    """Errors over whole numbers; one that is not finite is a cross at the top."""
    finite = [(x, y) for x, y in points if y is not None]
    fill = color if look.endswith("o-") else "white"
    drawn = zip(*finite, strict=True) if finite else ([], [])
    axes.plot(*drawn, look, color=color, label=name, markersize=6, markerfacecolor=fill)
    lost = [x for x, y in points if y is None]
    if lost:
        top = axes.get_xaxis_transform()
        axes.plot(lost, [0.97] * len(lost), "x", color=color, transform=top, label=f"{name}: NaN or infinite")


def error_axis(axes: Axes, values: Sequence[float | None], thresholds: Sequence[float] = ()) -> None:
    """A y axis for errors from exactly zero over many decades, in percent."""
    for threshold in thresholds:
        axes.axhline(threshold, color=RED, linestyle="--", label=f"threshold of the run: {in_percent(threshold)}")
    axes.set_ylabel("relative L2 error (log scale above zero)")
    known = positive([*values, *thresholds])
    if values and all(value == 0 for value in values):
        axes.text(0.5, 0.3, "every error is exactly zero", ha="center", transform=axes.transAxes)
    if known:
        smallest = 10.0 ** math.floor(math.log10(min(known)))
        axes.set_yscale("symlog", linthresh=smallest, linscale=0.4)
        axes.set_ylim(-smallest * 0.15, 10.0 ** (math.ceil(math.log10(max(known))) + 0.4))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(-0.1, 1)
        axes.set_yticks([0.0])
    axes.yaxis.set_major_formatter(FuncFormatter(in_percent))
    axes.legend(loc="best", fontsize=9.5)


def in_percent(fraction: float, _: object = None) -> str:
    """A round fraction as a tick or threshold."""
    return f"{fraction * 100:g}%"


def positive(values: Iterable[float | None]) -> list[float]:
    """What a logarithmic axis can show."""
    return [value for value in values if value is not None and value > 0]


def thresholds_of(run: Run) -> list[float]:
    return sorted({number(record, "threshold") for record in run.events("accuracy")})


# ------------------------------------------------------------------------------------------------------------ both
def the_run(group: Group, kind: str) -> Run:
    """The last run of this kind."""
    runs = group.of(kind)
    if not runs:
        raise UnjudgeableError(f"no {kind} run among the logs")
    return runs[-1]


def once(axes: Axes, label: str) -> str:
    """The label, if the legend does not have it yet; an underscore keeps it out."""
    return "_" if label in axes.get_legend_handles_labels()[1] else label


PLOTS: dict[str, Draw] = {
    "latency": draw_latency,
    "throughput": draw_throughput,
    "blocks": draw_blocks,
    "causes": draw_causes,
}
