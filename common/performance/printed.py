"""What a performance run prints and records: start-up, the limit, every batch size beside it, ranks, the speedup."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from common.device.ranks import Rank
from common.errors import first_line
from common.log import formulas, schema
from common.log.bottlenecks import MOST_CLASSES, conclude_bound, conclude_kinds
from common.log.events import (
    EAGER,
    Case,
    Kind,
    Latencies,
    LatencyFigures,
    Limit,
    Perf,
    Ranks,
    Speedup,
    Startup,
    Windows,
)
from common.log.figures import format_figure, percent, rate
from common.log.writer import RunLog
from common.performance import limit
from common.performance.limit import Meter, Work
from common.performance.sweep import Measurement
from common.session import Session

HELP = "a quiet machine, or more --max-seconds,"
WIDTH = 10  # of the table's columns


def count_work(log: RunLog, module: nn.Module, input_size: Sequence[int]) -> Work | None:
    """What the encoder computes for an image; None, and the reason is printed, where that can't be counted."""
    try:
        return limit.count_operations(module, input_size)
    except RuntimeError as error:
        log.line(f"warning: no limit beside the figures, operations can't be counted ({first_line(error)})")
        return None


def meter_of(running: Session, work: Work | None, batch_size: int) -> Meter | None:
    """What measures the limit at a batch size; None without operations, or without a matrix product among them."""
    if work is None or not work.main_shapes():
        return None
    return Meter(work, batch_size, running.device, running.dtype)


def report_limit(log: RunLog, found: Limit) -> None:
    log.line(
        f"limit {found.phase} the sweep: {rate(found.gemm_tflops)} in matrix products of the encoder's shapes "
        f"({found.dtype}), spread {found.spread:.1%} over the rounds"
    )
    if not is_steady(found):
        log.line(f"warning: the limit is unsteady, what is beside it says little: {HELP} helps")
    log.record(found)


def is_steady(found: Limit) -> bool:
    return found.spread is not None and found.spread <= formulas.STEADY_LIMIT


def report_startup(log: RunLog, startup: Startup) -> None:
    """What a user waits for once: it is in none of the figures below."""
    for key, value in schema.encode(startup).items():
        note = " (of one image, eager)" if key == "first_call_ms" else ""
        log.line(f"startup {key}: {format_figure(key, value)}{note}")
    log.record(startup)


def report_rows(log: RunLog, measurements: Sequence[Measurement], work: Work | None, limit: Limit | None) -> list[Perf]:
    """Print and record every batch size beside the limit, then all of them as a table, and the modes side by side."""
    limits = [] if limit is None else [limit.gemm_tflops]
    rows = [measurement.event(work, limits) for measurement in measurements]
    for measurement, row in zip(measurements, rows, strict=True):
        if row.timed:
            for each in measurement.passes:
                log.record(latencies_of(row, each.name, each.windows))
            if measurement.issue:
                log.record(latencies_of(row, "issue", measurement.issue))
        log.record(row)
        report_row(log, row, [each for each in rows if each.mode == row.mode])
        if work is not None and limit is not None:
            warn_of_the_impossible(log, measurement, work, limit)
    report_table(log, rows)
    report_modes(log, rows)
    return rows


def latencies_of(row: Perf, name: str, windows: Windows) -> Latencies:
    return Latencies(batch_size=row.batch_size, mode=row.mode, pass_=name, windows=windows)


def summarize(rows: Sequence[Perf]) -> str:
    """The best throughput and the latency of one image, in a few words."""
    timed = {row.case: row.timed.figures for row in rows if row.timed}
    if not timed:
        return "no batch size could be timed"
    case = max(timed, key=lambda each: timed[each].throughput_ips)
    alone = timed.get(Case(EAGER, 1))
    words = f"{timed[case].throughput_ips:.2f} images/s at {case}"
    return words if alone is None else f"{words}, avg {alone.latency.avg_latency_ms:.3f} ms at batch 1"


def report_row(log: RunLog, row: Perf, rows: Sequence[Perf]) -> None:
    """One batch size; `rows` are all of its mode."""
    compiled = row.case.mode != EAGER
    batch = str(row.case)
    log.line()
    log.line(f"batch_size: {row.batch_size}" + (f" ({row.mode})" if compiled else ""))
    if row.timed is None:
        log.line(f"{batch} status: {row.status} ({row.reason})")
        return
    figures = row.timed.figures
    compiled_too = " (with its compilation)" if compiled else ""
    first_call = format_figure("first_call_ms", row.timed.first_call_ms)
    log.line(f"{batch} first_call_ms: {first_call}{compiled_too}")
    log.line(f"{batch} n: {figures.latency.n}")
    for key in formulas.LATENCY_KEYS:
        log.line(f"{batch} {key}: {format_ms(key, figures.latency)}")
    log.line(f"{batch} stable: {'yes' if figures.latency.stable else 'no'}")
    bound = conclude_bound(rows, row.batch_size, compiled)
    if figures.issue and figures.issue.issue_ms is not None:
        log.line(f"{batch} issue_ms: {figures.issue.issue_ms:.3f}")
        log.line(f"{batch} bound: {figures.issue.bound}" + (f" ({bound.en})" if bound else ""))
    log.line(f"{batch} throughput_ips: {figures.throughput_ips:.2f}")
    log.line(f"{batch} end_to_end_ips: {figures.end_to_end_ips:.2f}")
    share = figures.limit.percent_of_limit
    if share is not None:
        log.line(f"{batch} achieved_tflops: {format_figure('achieved_tflops', figures.limit.achieved_tflops or 0.0)}")
        log.line(f"{batch} percent_of_limit: {share:.1%}")
    log.line(f"{batch} output_relative_l2: {percent(row.timed.output_relative_l2)}")


def warn_of_the_impossible(log: RunLog, measurement: Measurement, work: Work, limit: Limit) -> None:
    """Where the fastest of the three passes is beyond the limit."""
    share = formulas.fastest_of_limit(measurement.fastest_ips, work.gflop, limit.gemm_tflops)
    if share <= formulas.MOST_OF_LIMIT:
        return
    batch = str(measurement.case)
    log.line(f"{batch} fastest_of_limit: {share:.1%}")
    if is_steady(limit):
        log.line(f"warning: {batch} is faster than the device can be: not synchronised, or nothing was computed")
    else:
        log.line(f"warning: {batch} is above an unsteady limit, which proves nothing: {HELP} helps")


def format_ms(key: str, latency: LatencyFigures) -> str:
    """A latency; one that has too few calls says how many it needs."""
    value = getattr(latency, key)
    if value is not None:
        return f"{value:.3f}"
    percentile = formulas.PERCENTILES.get(key)
    needed = formulas.smallest_count(percentile) if percentile else formulas.FEWEST_SAMPLES
    return f"- (n {latency.n}, {needed} needed)"


def report_table(log: RunLog, rows: Sequence[Perf]) -> None:
    log.line()
    titles = ("batch", "n", "p50 ms", "IQR ms", "images/s", "end to end", "peak MB", "of limit")
    log.line("  ".join(f"{title:>{WIDTH}}" for title in titles))
    for row in rows:
        if row.case.mode != EAGER:
            continue
        cells = [str(row.batch_size), row.status]
        if row.timed:
            figures, latency = row.timed.figures, row.timed.figures.latency
            cells = [
                *(str(row.batch_size), str(latency.n)),
                *(shown(latency.p50_latency_ms, ".3f"), shown(latency.iqr_latency_ms, ".3f")),
                *(shown(figures.throughput_ips, ".2f"), shown(figures.end_to_end_ips, ".2f")),
                *(shown(row.timed.peak_memory_mb, ".0f"), shown(figures.limit.percent_of_limit, ".1%")),
            ]
        log.line("  ".join(f"{cell:>{WIDTH}}" for cell in cells))


def report_modes(log: RunLog, rows: Sequence[Perf]) -> None:
    """Every mode at every batch size, in times of eager at the same; nothing where eager is the only one."""
    eager = {row.batch_size: row.timed.figures for row in rows if row.timed and row.case.mode == EAGER}
    if all(row.case.mode == EAGER for row in rows):
        return
    log.line()
    titles = ("batch", "p50 ms", "of eager", "images/s", "of eager", "first s")
    log.line("  ".join(f"{title:>{WIDTH}}" for title in titles) + "  mode")
    for row in sorted(rows, key=lambda row: row.batch_size):
        cells = [str(row.batch_size), row.status]
        if row.timed:
            figures, beside = row.timed.figures, eager.get(row.batch_size)
            latency, throughput = formulas.ratios_of(figures, beside) if beside else (None, None)
            cells = [
                *(str(row.batch_size), shown(figures.latency.p50_latency_ms, ".3f"), times(latency)),
                *(f"{figures.throughput_ips:.2f}", times(throughput), f"{row.timed.first_call_ms / 1000:.1f}"),
            ]
        cells += [""] * (len(titles) - len(cells))
        log.line("  ".join(f"{cell:>{WIDTH}}" for cell in cells) + f"  {row.case.mode}")


def report_best_sizes(log: RunLog, rows: Sequence[Perf]) -> None:
    """Of each mode the batch size with the largest throughput, and the smallest that is nearly as good."""
    by_mode: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.timed:
            by_mode.setdefault(row.case.mode, {})[row.batch_size] = row.timed.figures.throughput_ips
    log.line()
    for mode, timed in by_mode.items():
        best, smallest = formulas.best_sizes(timed)
        of = "" if mode == EAGER else f" of {mode}"
        near = "itself" if smallest == best else f"{smallest}, {timed[smallest]:.2f} images/s"
        within = f"the smallest within {formulas.LEAST_GAIN:.0%} of it"
        log.line(f"best batch size{of}: {best}, {timed[best]:.2f} images/s; {within}: {near}")


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def report_kinds(log: RunLog, kinds: Sequence[Kind]) -> None:
    """Print and record where the time goes at a batch size: its kinds by their time, then what is between them."""
    whole, *others = kinds
    log.line()
    log.line(f"where the time goes at batch size {whole.batch_size}, {whole.ms:.3f} ms a forward")
    log.line(
        f"  {'kind':<12} {'modules':>7} {'timed':>6} {'ms':>10} {'share':>7} {'GFLOP':>9} {'of limit':>8}  classes"
    )
    for kind in kinds:
        log.record(kind)
    for kind in sorted(others, key=lambda kind: -kind.share):
        counts = f"{kind.count:>7} {len(kind.parts):>6}"
        operations = f"{shown(kind.gflop, '.3f'):>9} {shown(kind.percent_of_limit, '.1%'):>8}"
        time = f"{kind.ms:>10.3f} {kind.share:>7.1%}"
        log.line(f"  {kind.name:<12} {counts} {time} {operations}  {', '.join(kind.classes[:MOST_CLASSES])}")
    left = whole.remainder or 0.0
    word = "overhead between the kinds" if left >= 0 else "overlap: alone they take longer"
    log.line(f"  {'remainder':<12} {'':>7} {'':>6} {left * whole.ms:>10.3f} {left:>7.1%} {'':>9} {'':>8}  {word}")
    log.line("  modules that are built alike and get the same shape are timed once, and count as often as they run")
    log.line(f"time: {conclude_kinds(kinds).en}")


def report_ranks(log: RunLog, rank: Rank, measurements: Sequence[Measurement]) -> None:
    """Of several ranks: the throughput of each while all of them ran, their total, and what of it sharing cost."""
    by_rank = rank.gather([measurement.share(rank.node) for measurement in measurements])
    if rank.count == 1 or rank.index > 0:
        return
    log.line()
    for measurement, *shares in zip(measurements, *by_rank, strict=True):
        case = measurement.case
        size, mode = case.batch_size, case.mode
        if measurement.alone is None or any(share.status != "ok" for share in shares):
            log.line(f"{case}: not measured by all ranks")
            log.record(Ranks(batch_size=size, mode=mode, status="error", shares=shares))
            continue
        found = formulas.scaling(size, shares, measurement.alone.windows)
        each = ", ".join(f"{ips:.2f}" for ips in found.throughput_ips)
        log.line(
            f"{case}: {found.total_throughput_ips:.2f} images/s on {len(shares)} ranks "
            f"({each}), scaling efficiency {found.scaling_efficiency:.1%}"
        )
        log.record(Ranks(batch_size=size, mode=mode, status="ok", scaling=found, shares=shares))


def report_speedup(log: RunLog, rows: Sequence[Perf], baseline_ms: Sequence[float] | None, device: str) -> None:
    """How much faster the device is than the CPU in float32 with its threads, both at batch size 1."""
    single = next((row.timed for row in rows if row.case == Case(EAGER, 1) and row.timed), None)
    if baseline_ms is None or single is None:
        return
    baseline_latency_ms = math.fsum(baseline_ms) / len(baseline_ms)
    speedup = baseline_latency_ms / single.figures.latency.avg_latency_ms
    threads = torch.get_num_threads()
    counted = f"{threads} thread{'' if threads == 1 else 's'}"
    log.line()
    log.line(
        f"speedup: {speedup:.2f}x ({device} in {single.dtype} over the CPU in float32 with {counted}, batch size 1)"
    )
    log.record(
        Speedup(
            speedup=speedup,
            baseline_latency_ms=baseline_latency_ms,
            baseline_threads=threads,
            baseline_samples_ms=list(baseline_ms),
        )
    )
