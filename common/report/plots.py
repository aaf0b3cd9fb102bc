"""The four plots of a report, as PNG, from the events of one group. Headless; the only module that needs matplotlib.

Every plot is drawn always: where the events hold nothing for it, it says so and shows what there is instead.
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

from common.log.events import Accuracy, Cause, Env, Latencies, Layer, Model, Perf, Sample
from common.log.figures import format_figure, percent
from common.log.formulas import FEWEST_SAMPLES
from common.log.framing import printable
from common.log.reader import Run, UnjudgeableError
from common.verdict.evidence import Group

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
FAILED = {"oom": "out of\nmemory"}  # in the words of a tick

Draw = Callable[[Group, Figure], None]
Point = tuple[float, float | None]


def draw_all(group: Group) -> dict[str, bytes]:
    """The plots by the stem of their file name."""
    return {name: draw(plot, group) for name, plot in PLOTS.items()}


def draw(plot: Draw, group: Group) -> bytes:
    """One plot as PNG. A group that lacks what it needs leaves a plot that says what is missing."""
    with matplotlib.rc_context(STYLE):
        try:
            figure = new_figure()
            plot(group, figure)
        except UnjudgeableError as error:
            figure = new_figure()
            axes = figure.add_subplot()
            axes.set_axis_off()
            say(axes, plain(str(error)))
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
    env, model = group.runs[0].one(Env), group.runs[0].one(Model)
    return plain(f"{model.model}, {model.dtype}, {env.device}: {env.device_name}")


def plain(name: str) -> str:
    """A name in the letters that the font has, and not too long."""
    shown = printable(name).encode("ascii", "replace").decode()
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."


def titled(figure: Figure, title: str) -> Axes:
    figure.suptitle(title, x=0.01, ha="left")
    return figure.add_subplot()


def say(axes: Axes, words: str, height: float = 0.5) -> None:
    axes.text(0.5, height, words, ha="center", va="center", transform=axes.transAxes)


def the_run(group: Group, kind: str) -> Run:
    """The last run of this kind."""
    runs = group.of(kind)
    if not runs:
        raise UnjudgeableError(f"no {kind} run among the logs")
    return runs[-1]


# ------------------------------------------------------------------------------------------------------ performance
def draw_latency(group: Group, figure: Figure) -> None:
    """Every synchronised call of the latency pass, beside its quartiles, over the batch sizes."""
    run = the_run(group, "perf")
    rows = rows_of(run)
    axes = titled(figure, "Latency of a call, by batch size")
    samples = [samples_of(run, row) for row in rows]
    for at, times in enumerate(samples):
        scatter = [at + 0.22 * math.sin(2.4 * turn) for turn in range(len(times))]
        axes.plot(scatter, times, ".", color=BLUE, alpha=0.45, markersize=5, label=once(axes, "one call"))
        if len(times) >= FEWEST_SAMPLES:
            low, middle, high = statistics.quantiles(times, method="inclusive")
            axes.bar(at, high - low, 0.62, low, color="none", ec="black", label=once(axes, "quartiles"))
            axes.hlines(middle, at - 0.31, at + 0.31, color=RED, linewidth=2, label=once(axes, "median"))
    if any(samples):
        log_axis(axes, [time for times in samples for time in times])
        axes.legend(loc="upper left")
    else:
        say(axes, "no batch size was measured")
    axes.set_ylabel("ms a call (log scale)")
    label_batches(axes, rows, [f"n={len(times)}" for times in samples])


def draw_throughput(group: Group, figure: Figure) -> None:
    """Both throughputs over the batch sizes, and the images a second that the device's matrix products would allow."""
    run = the_run(group, "perf")
    rows = rows_of(run)
    axes = titled(figure, "Throughput over batch size, against the device's limit")
    good = [(at, row.timed.figures) for at, row in enumerate(rows) if row.timed and row.status == "ok"]
    places = [at for at, _ in good]
    alone, whole = [figures.throughput_ips for _, figures in good], [figures.end_to_end_ips for _, figures in good]
    axes.plot(places, alone, marker="o", color=BLUE, label="forward alone")
    axes.plot(places, whole, marker="s", color=ORANGE, label="end to end, with decoding")
    cost, shown = run.one(Model).cost, [*alone, *whole]
    limits = [figures.limit.limit_tflops for _, figures in good if figures.limit.limit_tflops is not None]
    if limits and cost and cost.gflop_per_image:
        limit = max(limits) * 1000 / cost.gflop_per_image
        axes.axhline(limit, color=RED, linestyle="--", label="limit: matrix products alone")
        note = f"{format_figure('limit_tflops', max(limits))} TFLOP/s"
        axes.annotate(note, (len(rows) - 0.45, limit), (0, 4), textcoords="offset points", ha="right", color=RED)
        shown.append(limit)
    else:
        axes.text(0.02, 0.04, "no limit in the records", transform=axes.transAxes, color=GREY)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": BLUE, "bbox": box}
    for at, figures in good:
        share = figures.limit.percent_of_limit
        note = "" if share is None else f"\n{format_figure('percent_of_limit', share)} of limit"
        note = format_figure("throughput_ips", figures.throughput_ips) + note
        axes.annotate(note, (at, figures.throughput_ips), (0, 9), **look)
    if shown:
        log_axis(axes, shown, above=1.9)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9.5, borderaxespad=0.2)
    axes.set_ylabel("images/s (log scale)")
    label_batches(axes, rows)


def rows_of(run: Run) -> list[Perf]:
    return sorted(run.all(Perf), key=lambda row: row.batch_size)


def samples_of(run: Run, row: Perf) -> list[float]:
    """The times in ms of the row's latency pass; none where the batch size failed."""
    found = [each for each in run.all(Latencies) if (each.batch_size, each.pass_) == (row.batch_size, "latency")]
    return [time for each in found for time in each.windows.samples_ms]


def label_batches(axes: Axes, rows: Sequence[Perf], notes: Sequence[str] = ()) -> None:
    """A tick for each batch size; one that failed says how."""
    labels = []
    for at, row in enumerate(rows):
        note = FAILED.get(row.status, row.status) if row.status != "ok" else notes[at] if notes else ""
        labels.append(f"{row.batch_size}\n{note}".rstrip())
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
    layers = run.all(Layer)
    if not layers:
        axes = titled(figure, f"Error by block: {NO_EXPLANATION}.\nShown instead: the error of every sample")
        draw_samples(run, axes)
        return
    axes = titled(figure, "Error by block")
    before = [(layer.block, layer.propagated) for layer in layers]
    alone = [(layer.block, layer.isolated) for layer in layers]
    plot_errors(axes, before, "with all blocks before it", BLUE, "o-")
    plot_errors(axes, alone, "alone, with the CPU's input", ORANGE, "s--")
    for layer in layers:
        if layer.blamed:
            axes.axvspan(layer.block - 0.4, layer.block + 0.4, color=RED, alpha=0.2, label="blamed")
    error_axis(axes, [error for _, error in (*before, *alone)])
    if len(layers) <= 40:
        axes.set_xticks([layer.block for layer in layers][:: 1 + len(layers) // 20])
    axes.set_xlabel("block")


def draw_samples(run: Run, axes: Axes) -> None:
    samples: dict[str, list[Point]] = {}
    for sample in run.all(Sample):
        of = samples.setdefault(f"{sample.output} against {sample.reference}", [])
        of.append((len(of) + 1, sample.metrics.relative_l2))
    looks = zip((BLUE, ORANGE, GREEN, GREY), ("o-", "s--", "D:", "^-."), strict=True)
    for (name, points), look in zip(samples.items(), looks, strict=False):
        plot_errors(axes, points, name, *look)
    error_axis(axes, [error for points in samples.values() for _, error in points], thresholds_of(run))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("sample (image), in the order of the log")


def draw_causes(group: Group, figure: Figure) -> None:
    """How much of the error each known cause explains; without them, every error beside its bound."""
    run = the_run(group, "accuracy")
    if not run.all(Cause):
        why = "nothing to explain, the outputs equal the CPU's" if run.all(Layer) else NO_EXPLANATION
        axes = titled(figure, f"Error by cause: {why}.\nShown instead: the errors beside their threshold")
        draw_bounds(run, axes)
        return
    axes = titled(figure, "How much of the error a cause explains")
    causes = sorted(run.all(Cause), key=rank_of)[:MOST_CAUSES]
    for at, cause in enumerate(causes):
        width = min(max(cause.explained or 0.0, 0.0), 1.0)
        axes.barh(at, width, 0.7, color=GREEN if cause.best else GREY)
        if width > 0.8:
            axes.text(width - 0.01, at, share_of(cause), ha="right", va="center", color="white")
        else:
            axes.text(width + 0.01, at, share_of(cause), ha="left", va="center", color="black")
    axes.set_yticks(range(len(causes)), [name_of(cause) for cause in causes])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("explained = 1 - ‖y - yₖ‖² / ‖y - r‖²  (yₖ: the cause, emulated)")
    axes.grid(axis="y", visible=False)


def rank_of(cause: Cause) -> tuple[bool, float]:
    """The best first, then by how much they explain; what is not finite last."""
    return not cause.best, math.inf if cause.explained is None else -cause.explained


def name_of(cause: Cause) -> str:
    name = plain(cause.cause.replace("+", " + "))
    return f"{name} ({'the answer' if name == 'unexplained' else 'best'})" if cause.best else name


def share_of(cause: Cause) -> str:
    if cause.explained is None:
        return "not finite"
    return format_figure("explained", cause.explained) + (": it moves the outputs elsewhere" * (cause.explained < 0))


def draw_bounds(run: Run, axes: Axes) -> None:
    bars = [
        (f"{accuracy.output} {metric}\nagainst {accuracy.reference}", getattr(accuracy.worst, metric))
        for accuracy in run.all(Accuracy)
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
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("the worst of all samples (log scale)")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9.5)


def plot_errors(axes: Axes, points: Sequence[Point], name: str, color: str, look: str) -> None:
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
        say(axes, "every error is exactly zero", 0.3)
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
    return sorted({accuracy.threshold for accuracy in run.all(Accuracy)})


def once(axes: Axes, label: str) -> str:
    """The label, if the legend does not have it yet; an underscore keeps it out."""
    return "_" if label in axes.get_legend_handles_labels()[1] else label


PLOTS: dict[str, Draw] = {
    "latency": draw_latency,
    "throughput": draw_throughput,
    "blocks": draw_blocks,
    "causes": draw_causes,
}
