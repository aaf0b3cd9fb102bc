"""The plots of a report, as PNG, from the events of one group. Headless; the only module that needs matplotlib.

A plot is drawn where the events hold something that it can show. Its words stand beside the axes, never on what is
plotted.
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

from common.log.conclusions import CAUSES
from common.log.events import EAGER, Accuracy, Cause, Env, Latencies, Layer, Model, Perf, Prediction, Task
from common.log.figures import format_figure, percent, rate, share
from common.log.formulas import FEWEST_SAMPLES, percentile
from common.log.framing import printable
from common.log.reader import Run, UnjudgeableError
from common.log.samples import each_sample
from common.log.tasks import Seen, images_of
from common.report.facts import causes_of, kinds_of
from common.verdict.evidence import Group
from common.verdict.task import error_of, require_whole

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
LEGEND = 105  # characters of a legend in one line
MOST_LARGE = 7  # ticks in large print
MOST_CAUSES = 12
MOST_KINDS = 16
MOST_MODES = 3  # beside eager, that are drawn
LARGEST_SHARE = 100  # no measurement gives more
REST = "remainder"  # of a forward, beside its kinds
LEAST_SHOWN = 0.001  # of an error: a cause that accounts for less is not drawn
LEAST_DRAWN = 0.05  # where no cause accounts for more, there is no plot: its bars would be empty
FEWEST_TICKS = 3  # on a logarithmic axis: one figure alone gives no scale
FEW_MARKS = 50  # which do not hide each other
SAME, CHANGED, TIED = "the same prediction", "changed", "changed, a tie"
CROWDED = 200  # points, beyond which they are dots without a line
FAILED = {"oom": "out of\nmemory"}  # in the words of a tick

Draw = Callable[[Run, Figure], bool]
Point = tuple[float, float | None]


def draw_all(group: Group) -> dict[str, bytes]:
    """The plots that have content, by the stem of their file name."""
    found = {name: draw(plot, group, kind) for name, (kind, plot) in PLOTS.items()}
    return {name: image for name, image in found.items() if image is not None}


def draw(plot: Draw, group: Group, kind: str) -> bytes | None:
    """One plot of the last run of a kind as PNG; None where there is nothing to show."""
    runs = group.of(kind)
    if not runs:
        return None
    with matplotlib.rc_context(STYLE):
        figure = new_figure()
        if not plot(runs[-1], figure):
            return None
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
    weights = ["random weights"] if model.weights_source == "random" else []
    device = f"{'simulated ' if env.is_simulated else ''}{env.device}: {env.device_name}"
    return ", ".join(map(plain, [model.model, *weights, model.dtype, device]))


def plain(name: str) -> str:
    """A name in the letters that the font has, and not too long."""
    shown = printable(name).encode("ascii", "replace").decode()
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."


def titled(figure: Figure, title: str) -> Axes:
    figure.suptitle(title, x=0.01, ha="left")
    return figure.add_subplot()


def name_above(axes: Axes) -> None:
    """The legend between the title and the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if sum(map(len, labels)) + 6 * len(labels) <= LEGEND else 2
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(handles, labels, ncols=columns, fontsize=9.5, **place)


# ------------------------------------------------------------------------------------------------------ performance
def draw_latency(run: Run, figure: Figure) -> bool:
    """Every synchronised call of the latency pass, beside its quartiles, over the batch sizes."""
    rows = rows_of(run)
    samples = [samples_of(run, row) for row in rows]
    if not positive(time for times in samples for time in times):
        return False
    axes = titled(figure, "Latency of a call, by batch size")
    for at, times in enumerate(samples):
        scatter = [at + 0.22 * math.sin(2.4 * turn) for turn in range(len(times))]
        axes.plot(scatter, times, ".", color=BLUE, alpha=0.45, markersize=5, label=once(axes, "one call"))
        if len(times) >= FEWEST_SAMPLES:
            low, _, high = statistics.quantiles(times, method="inclusive")
            axes.bar(at, high - low, 0.62, low, color="none", ec="black", label=once(axes, "quartiles"))
            axes.hlines(
                percentile(times, 50) or 0.0,
                at - 0.31,
                at + 0.31,
                color=RED,
                linewidth=2,
                label=once(axes, "p50_latency_ms"),
            )
    log_axis(axes, [time for times in samples for time in times])
    name_above(axes)
    axes.set_ylabel("ms a call (log scale)")
    label_batches(axes, rows, [f"n={len(times)}" for times in samples])
    return True


def draw_throughput(run: Run, figure: Figure) -> bool:
    """Both throughputs over the batch sizes, and the images a second that the device's matrix products would allow."""
    rows = rows_of(run)
    good = [(at, row.timed.figures) for at, row in enumerate(rows) if row.timed and row.status == "ok"]
    if not positive(figures.throughput_ips for _, figures in good):
        return False
    places = [at for at, _ in good]
    alone, whole = [figures.throughput_ips for _, figures in good], [figures.end_to_end_ips for _, figures in good]
    cost, shown = run.one(Model).cost, [*alone, *whole]
    limits = [figures.limit.limit_tflops for _, figures in good if figures.limit.limit_tflops is not None]
    known = limits and cost and cost.gflop_per_image
    axes = titled(figure, f"Throughput over batch size{', against the limit' if known else ''}")
    axes.plot(places, alone, marker="o", color=BLUE, label="forward alone")
    axes.plot(places, whole, marker="s", color=ORANGE, label="end to end, with decoding")
    sizes = [row.batch_size for row in rows]
    modes = [mode for mode in dict.fromkeys(row.case.mode for row in run.all(Perf)) if mode != EAGER]
    for mode, color, look in zip(modes[:MOST_MODES], (GREEN, GREY, RED), "^vD", strict=False):
        timed = {row.batch_size: row.timed.figures.throughput_ips for row in rows_of(run, mode) if row.timed}
        ips = {sizes.index(size): timed[size] for size in timed if size in sizes}
        if positive(ips.values()):
            axes.plot([*ips], [*ips.values()], marker=look, color=color, label=plain(f"forward alone, {mode}"))
            shown += ips.values()
    if limits and cost and cost.gflop_per_image:
        limit = max(limits) * 1000 / cost.gflop_per_image
        name = f"limit: matrix products, {rate(max(limits))}"
        axes.axhline(limit, color=RED, linestyle="--", label=name)
        shown.append(limit)
    notes = [""] * len(rows)
    for at, figures in good:
        part = figures.limit.percent_of_limit
        beside = "" if part is None else f"\n{format_figure('percent_of_limit', part)} of limit"
        notes[at] = f"{format_figure('throughput_ips', figures.throughput_ips)}/s{beside}"
    log_axis(axes, shown)
    name_above(axes)
    axes.set_ylabel("images/s (log scale)")
    label_batches(axes, rows, notes)
    return True


def draw_kinds(run: Run, figure: Figure) -> bool:
    """The share of each kind of module in the time of a forward, at one image and at the best batch size, beside its
    share of the operations.
    """
    try:
        sizes = kinds_of(run)
    except UnjudgeableError:
        return False
    bars = {
        f"time at batch size {whole.batch_size}: {format_figure('ms', whole.ms)} ms": (
            {kind.name: kind.share for kind in kinds} | {REST: whole.remainder or 0.0}
        )
        for whole, *kinds in sizes
    }
    for whole, *kinds in sizes[-1:]:
        bars["operations"] = {kind.name: kind.gflop / whole.gflop for kind in kinds if kind.gflop and whole.gflop}
    names = [*list(dict.fromkeys(kind.name for _, *kinds in sizes for kind in kinds))[:MOST_KINDS], REST]
    shares = [found[name] for found in bars.values() for name in names if name in found]
    if not positive(shares) or max(map(abs, shares)) > LARGEST_SHARE:
        return False
    axes = titled(figure, "Where the time of a forward goes")
    height = 0.84 / len(bars)
    for turn, (label, found) in enumerate(bars.items()):
        color = GREY if label == "operations" else (BLUE, ORANGE)[turn % 2]
        for at, name in enumerate(names):
            if name in found:
                middle = at + (turn - (len(bars) - 1) / 2) * height
                axes.barh(middle, found[name], height * 0.9, color=color, label=once(axes, label))
                end, note = max(found[name], 0.0), format_figure("share", found[name])
                axes.annotate(note, (end, middle), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), map(plain, names))
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, 1.1 * min(shares)), 1.15 * max(shares))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"share of a forward; its {REST} is no kind's")
    axes.grid(axis="y", visible=False)
    name_above(axes)
    return True


def rows_of(run: Run, mode: str = EAGER) -> list[Perf]:
    rows = [row for row in run.all(Perf) if row.case.mode == mode]
    return sorted(rows, key=lambda row: row.batch_size)


def samples_of(run: Run, row: Perf) -> list[float]:
    """The times in ms of the row's latency pass; none where the batch size failed."""
    found = [each for each in run.all(Latencies) if (each.case, each.pass_) == (row.case, "latency")]
    return [time for each in found for time in each.windows.samples_ms]


def label_batches(axes: Axes, rows: Sequence[Perf], notes: Sequence[str] = ()) -> None:
    """A tick for each batch size; one that failed says how."""
    labels = []
    for at, row in enumerate(rows):
        note = FAILED.get(row.status, row.status) if row.status != "ok" else notes[at] if notes else ""
        labels.append(f"{row.batch_size}\n{note}".rstrip())
    axes.set_xticks(range(len(rows)), labels, fontsize=None if len(rows) <= MOST_LARGE else 8)
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
    axes.set_yticks(round_figures(low, high))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def round_figures(low: float, high: float) -> list[float]:
    """Round figures between two others: as few as give a scale."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [figure for figure in found if low <= figure <= high]
        if len(found) >= FEWEST_TICKS:
            break
    return found


# --------------------------------------------------------------------------------------------------------- accuracy
def draw_samples(run: Run, figure: Figure) -> bool:
    """The error of every image beside the threshold; one image alone, or no error at all, is no plot."""
    samples: dict[str, list[Point]] = {}
    for sample in each_sample(run):
        of = samples.setdefault(f"{sample.output} against {sample.reference}", [])
        of.append((len(of) + 1, sample.metrics.relative_l2))
    errors = [error for points in samples.values() for _, error in points]
    if all(len(points) < 2 for points in samples.values()) or not any(error != 0 for error in errors):
        return False
    axes = titled(figure, "Error of every image")
    looks = zip((BLUE, ORANGE, GREEN, GREY), ("o-", "s--", "D:", "^-."), strict=True)
    for (name, points), look in zip(samples.items(), looks, strict=False):
        plot_errors(axes, points, name, *look)
    error_axis(axes, errors, thresholds_of(run))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("image, in the order of the log")
    return True


def draw_task(run: Run, figure: Figure) -> bool:
    """The margin of every image's prediction, in rising order, beside the device's error; those that changed marked."""
    tasks, predictions = run.all(Task), run.all(Prediction)
    try:
        require_whole(tasks[0], predictions)
    except (IndexError, UnjudgeableError):
        return False
    task, images = tasks[0], sorted(images_of(predictions), key=lambda image: image.margin)
    axes = titled(figure, "How large an error changes a prediction")
    size = 8 if task.figures.changed <= FEW_MARKS else 4
    looks = {SAME: (BLUE, ".", 4), CHANGED: (RED, "X", size), TIED: (ORANGE, "D", size)}
    for name, (color, marker, width) in looks.items():
        points = [(at, image.margin) for at, image in enumerate(images, start=1) if look_of(image, task) == name]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=color, label=name, markersize=width)
    error = error_of(run, task)
    for bound, name, style in ((error, "the device's largest error", "-"), (task.rounding, "rounding", ":")):
        if bound is not None:
            axes.axhline(bound, color=GREY, linestyle=style, label=f"{name}: {percent(bound)}")
    error_axis(axes, [*(image.margin for image in images), error])
    axes.set_ylabel("margin: relative L2 error (log scale above zero)")
    axes.set_xlabel("image, by its margin")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return True


def look_of(image: Seen, task: Task) -> str:
    if not image.changed:
        return SAME
    return TIED if image.is_tie(task.rounding) else CHANGED


def draw_blocks(run: Run, figure: Figure) -> bool:
    """The error of every block, alone and with all before it."""
    layers = run.all(Layer)
    before = [(layer.block, layer.propagated) for layer in layers]
    alone = [(layer.block, layer.isolated) for layer in layers]
    errors = [error for _, error in (*before, *alone)]
    if not any(error != 0 for error in errors):
        return False
    axes = titled(figure, "Error by block")
    plot_errors(axes, before, "with all blocks before it", BLUE, "o-")
    plot_errors(axes, alone, "alone, with the CPU's input", ORANGE, "s--")
    for layer in layers:
        if layer.blamed:
            axes.axvspan(layer.block - 0.4, layer.block + 0.4, color=RED, alpha=0.2, label="blamed")
    error_axis(axes, errors)
    if len(layers) <= 40:
        axes.set_xticks([layer.block for layer in layers][:: 1 + len(layers) // 20])
    axes.set_xlabel("block")
    return True


def draw_causes(run: Run, figure: Figure) -> bool:
    """How much of the error each cause explains, and was confirmed to; those that do neither are left out."""
    causes = [cause for cause in causes_of(run) if cause.best or max(shares_of(cause)) >= LEAST_SHOWN][:MOST_CAUSES]
    if not any(max(shares_of(cause)) >= LEAST_DRAWN for cause in causes):
        return False
    asked = any(cause.confirmed is not None for cause in causes)
    axes = titled(figure, "How much of the error a cause explains")
    for at, cause in enumerate(causes):
        color = GREEN if cause.best or asked else GREY
        kinds = [(cause.explained, color, "explained: emulated on the CPU")]
        if asked:
            kinds.append((cause.confirmed, BLUE, "confirmed: switched off on the device"))
        height = 0.8 / len(kinds)
        for place, (value, look, name) in enumerate(kinds):
            middle = at + (place - (len(kinds) - 1) / 2) * height
            width = min(max(value or 0.0, 0.0), 1.0)
            axes.barh(middle, width, height * 0.9, color=look, label=once(axes, name) if asked else None)
            note = "not tried" if value is None else share(value)
            axes.annotate(note, (width, middle), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(causes)), [name_of(cause) for cause in causes])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the squared error")
    axes.grid(axis="y", visible=False)
    if asked:
        name_above(axes)
    return True


def shares_of(cause: Cause) -> tuple[float, float]:
    return cause.explained or 0.0, cause.confirmed or 0.0


def name_of(cause: Cause) -> str:
    """The causes in words, a line each; what has none by its key."""
    words = [CAUSES[part].en if part in CAUSES else plain(part) for part in cause.cause.split("+")]
    return "\n+ ".join(words) + (" (best)" if cause.best else "")


def plot_errors(axes: Axes, points: Sequence[Point], name: str, color: str, look: str) -> None:
    """Errors over whole numbers; one that is not finite is a cross at the top."""
    finite = [(x, y) for x, y in points if y is not None]
    fill = color if look.endswith("o-") or len(points) > CROWDED else "white"
    drawn = zip(*finite, strict=True) if finite else ([], [])
    look, size = (look, 6) if len(points) <= CROWDED else (".", 2)
    axes.plot(*drawn, look, color=color, label=name, markersize=size, markerfacecolor=fill)
    lost = [x for x, y in points if y is None]
    if lost:
        top = axes.get_xaxis_transform()
        axes.plot(lost, [0.97] * len(lost), "x", color=color, transform=top, label=f"{name}: NaN or infinite")


def error_axis(axes: Axes, values: Sequence[float | None], thresholds: Sequence[float] = ()) -> None:
    """A y axis for errors from exactly zero over many decades, in percent."""
    for threshold in thresholds:
        axes.axhline(
            threshold, color=RED, linestyle="--", label=f"threshold of the run: {format_figure('threshold', threshold)}"
        )
    axes.set_ylabel("relative L2 error (log scale above zero)")
    known = positive([*values, *thresholds])
    if known:
        smallest = 10.0 ** math.floor(math.log10(min(known)))
        axes.set_yscale("symlog", linthresh=smallest, linscale=0.4)
        axes.set_ylim(-smallest * 0.15, 10.0 ** (math.ceil(math.log10(max(known))) + 0.4))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(-0.1, 1)
        axes.set_yticks([0.0])
    axes.yaxis.set_major_formatter(FuncFormatter(in_percent))
    name_above(axes)


def in_percent(fraction: float, _: object = None) -> str:
    """A round fraction as a tick."""
    return f"{fraction * 100:g}%"


def positive(values: Iterable[float | None]) -> list[float]:
    """What a logarithmic axis can show."""
    return [value for value in values if value is not None and value > 0]


def thresholds_of(run: Run) -> list[float]:
    return sorted({accuracy.threshold for accuracy in run.all(Accuracy)})


def once(axes: Axes, label: str) -> str:
    """The label, if the legend does not have it yet; an underscore keeps it out."""
    return "_" if label in axes.get_legend_handles_labels()[1] else label


# Each with the kind of run that it is drawn of.
PLOTS: dict[str, tuple[str, Draw]] = {
    "latency": ("perf", draw_latency),
    "throughput": ("perf", draw_throughput),
    "kinds": ("perf", draw_kinds),
    "samples": ("accuracy", draw_samples),
    "task": ("accuracy", draw_task),
    "blocks": ("accuracy", draw_blocks),
    "causes": ("accuracy", draw_causes),
}
