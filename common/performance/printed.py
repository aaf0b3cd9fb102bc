"""What a performance run prints and records: start-up, the limit, every batch size beside it, ranks, the speedup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.device import devices
from common.device.ranks import Rank
from common.errors import first_line
from common.log import formulas
from common.log.figures import percent
from common.log.runlog import RunLog
from common.performance import limit
from common.performance.limit import Work
from common.performance.sweep import Measurement
from common.performance.timing import Budget, Pass, Stopwatch
from common.session import Session

LIMIT_ATTEMPTS = 3  # before a throughput is called impossible
WIDTH = 10  # of the table's columns


def count_work(log: RunLog, module: nn.Module, input_size: Sequence[int]) -> Work | None:
    """What the encoder computes for an image; None, and the reason is printed, where that can't be counted."""
    try:
        return limit.count_operations(module, input_size)
    except RuntimeError as error:
        log.line(f"warning: no limit beside the figures, operations can't be counted ({first_line(error)})")
        return None


def measure_limit(
    running: Session, phase: str, work: Work | None, batch_size: int, budget: Budget, reached_ips: float = 0.0
) -> list[float]:
    """Measure, print and record the limit in 1e12 operations a second; nothing without `work`.

    Before a throughput is called impossible, `reached_ips`, the limit is measured anew: the machine may have been busy.
    """
    if work is None:
        return []
    shapes, tflops = None, 0.0
    for _ in range(LIMIT_ATTEMPTS):
        with devices.failures_of(running.device, "at the limit's matrix products"):
            measured = limit.measure(work, batch_size, running.device, running.dtype, budget.seconds_a_round)
        if formulas.gemm_tflops(measured) > tflops:
            shapes, tflops = measured, formulas.gemm_tflops(measured)
        if reached_ips * work.gflop / 1000 <= formulas.MOST_OF_LIMIT * tflops:
            break
    dtype = devices.dtype_name(running.dtype)
    running.log.line(
        f"limit {phase} the sweep: {tflops:.3f} TFLOP/s in matrix products of the encoder's shapes ({dtype})"
    )
    running.log.record("limit", phase=phase, dtype=dtype, gemm_tflops=tflops, shapes=shapes)
    return [tflops]


def report_startup(log: RunLog, stopwatch: Stopwatch) -> None:
    """What a user waits for once: it is in none of the figures below."""
    load, place, first_call = (stopwatch.times_ms[key] / 1000 for key in ("load_ms", "place_ms", "first_call_ms"))
    log.line(f"load: {load:.2f} s, to the device: {place:.2f} s, first call: {first_call:.2f} s")
    log.record("startup", **stopwatch.times_ms)


def report_rows(
    log: RunLog,
    measurements: Sequence[Measurement],
    rows: Sequence[dict[str, Any]],
    work: Work | None,
    limits: Sequence[float],
) -> None:
    """Print and record every batch size beside the limit, then all of them as a table."""
    for measurement, row in zip(measurements, rows, strict=True):
        if row["status"] == "ok":
            row |= formulas.beside_the_limit(row["throughput_ips"], work.gflop if work else 0.0, limits)
            for each in measurement.passes:
                record_pass(log, measurement.batch_size, each)
        log.record("perf", **row)
        report_row(log, row)
    report_table(log, rows)


def record_pass(log: RunLog, batch_size: int, timed: Pass) -> None:
    """Record a pass's raw samples in ms, each the time of `calls` calls."""
    fields = {"batch_size": batch_size, "pass": timed.name, "calls": timed.calls, "samples_ms": timed.samples_ms}
    log.record("latencies", **fields)


def report_row(log: RunLog, row: dict[str, Any]) -> None:
    log.line()
    log.line(f"batch_size: {row['batch_size']}")
    if row["status"] != "ok":
        log.line(f"status: {row['status']} ({row['reason']})")
        return
    log.line(f"first_call_ms: {row['first_call_ms']:.3f}")
    log.line(f"samples: {row['n']}")
    for key in formulas.LATENCY_KEYS:
        log.line(f"{key}: {format_ms(key, row)}")
    log.line(f"stable: {'yes' if row['stable'] else 'no'}")
    for key in ("throughput_ips", "end_to_end_ips"):
        log.line(f"{key}: {row[key]:.2f}")
    if row["percent_of_limit"] is not None:
        log.line(f"achieved_tflops: {row['achieved_tflops']:.3f}")
        log.line(f"percent_of_limit: {row['percent_of_limit']:.1%}")
    if row["percent_of_limit"] is not None and row["percent_of_limit"] > formulas.MOST_OF_LIMIT:
        log.line("warning: this is more than the device can: the time is not synchronised, or nothing was computed")
    log.line(f"output_relative_l2: {percent(row['output_relative_l2'])}")


def format_ms(key: str, row: dict[str, Any]) -> str:
    """A latency; one that has too few samples says how many it needs."""
    if row[key] is not None:
        return f"{row[key]:.3f}"
    percentile = formulas.PERCENTILES.get(key)
    needed = formulas.smallest_count(percentile) if percentile else formulas.FEWEST_SAMPLES
    return f"- ({row['n']} samples, {needed} needed)"


def report_table(log: RunLog, rows: Sequence[dict[str, Any]]) -> None:
    log.line()
    titles = ("batch", "samples", "p50 ms", "IQR ms", "images/s", "end to end", "peak MB", "of limit")
    log.line("  ".join(f"{title:>{WIDTH}}" for title in titles))
    for row in rows:
        cells: tuple[str, ...] = (str(row["batch_size"]), row["status"])
        if row["status"] == "ok":
            cells = (
                *(str(row["batch_size"]), str(row["n"])),
                *(shown(row["p50_latency_ms"], ".3f"), shown(row["iqr_latency_ms"], ".3f")),
                *(shown(row["throughput_ips"], ".2f"), shown(row["end_to_end_ips"], ".2f")),
                *(shown(row["peak_memory_mb"], ".0f"), shown(row["percent_of_limit"], ".1%")),
            )
        log.line("  ".join(f"{cell:>{WIDTH}}" for cell in cells))


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def report_ranks(log: RunLog, rank: Rank, measurements: Sequence[Measurement]) -> None:
    """Of several ranks: the throughput of each while all of them ran, their total, and what of it sharing cost."""
    shares = rank.gather([{"node": rank.node, **measurement.share()} for measurement in measurements])
    if rank.count == 1 or rank.index > 0:
        return
    log.line()
    for place, measurement in enumerate(measurements):
        of_ranks = [share[place] for share in shares]
        alone = measurement.alone
        if alone is None or any(share["status"] != "ok" for share in of_ranks):
            log.line(f"batch {measurement.batch_size}: not measured by all ranks")
            log.record("ranks", batch_size=measurement.batch_size, status="error", shares=of_ranks)
            continue
        raw = {"calls": alone.calls, "samples_ms": alone.samples_ms}
        found = formulas.scaling(measurement.batch_size, of_ranks, raw)
        each = ", ".join(f"{ips:.2f}" for ips in found["throughput_ips"])
        log.line(
            f"batch {measurement.batch_size}: {found['total_throughput_ips']:.2f} images/s on {len(of_ranks)} ranks "
            f"({each}), scaling efficiency {found['scaling_efficiency']:.1%}"
        )
        fields = {"batch_size": measurement.batch_size, "status": "ok", **found, "shares": of_ranks, "alone": raw}
        log.record("ranks", **fields)


def report_speedup(
    log: RunLog, rows: Sequence[dict[str, Any]], baseline_ms: Sequence[float] | None, device: str
) -> None:
    """How much faster the device is than the CPU in float32 with its threads, both at batch size 1."""
    single = next((row for row in rows if row["batch_size"] == 1 and row["status"] == "ok"), None)
    if baseline_ms is None or single is None:
        return
    baseline_latency_ms = math.fsum(baseline_ms) / len(baseline_ms)
    speedup = baseline_latency_ms / single["avg_latency_ms"]
    threads, dtype = torch.get_num_threads(), single["dtype"]
    log.line()
    log.line(
        f"speedup: {speedup:.2f}x ({device} in {dtype} over the CPU in float32 with {threads} threads, batch size 1)"
    )
    log.record(
        "speedup",
        speedup=speedup,
        baseline_latency_ms=baseline_latency_ms,
        baseline_threads=threads,
        baseline_samples_ms=list(baseline_ms),
    )
