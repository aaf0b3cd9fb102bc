"""Measure a vision encoder's latency and throughput on a device over batch sizes."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import options
import summaries
from figures import percent
from ranks import Rank
from runlog import RunLog

if TYPE_CHECKING:
    from torch import Tensor, nn

    from encoders import Encoder
    from limit import Work
    from session import Session
    from sweep import Measurement
    from timing import Budget, Pass

SCRIPT = "accuracy_run_perf.py"
EXAMPLES = """examples:
  python accuracy_run_perf.py --model demo                   no NPU, no hub
  python accuracy_run_perf.py --device npu                   the ViT-giant CLIP, 1, 4, 8 and 16 images
  python accuracy_run_perf.py --device npu --dtype float16 --batch-sizes 1 32 64 --iterations 300
  torchrun --nproc-per-node 8 accuracy_run_perf.py --device npu        eight devices at once
"""
LIMIT_ATTEMPTS = 3
WIDTH = 10  # of the table's columns


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "benchmark.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--batch-sizes",
        type=options.positive_int,
        nargs="+",
        default=[1, 4, 8, 16],
        metavar="N",
        help="default: 1 4 8 16",
    )
    parser.add_argument(
        "--warmup",
        type=options.positive_int,
        default=3,
        metavar="N",
        help="untimed calls of a window; they go on until the medians of two windows agree (default: %(default)s)",
    )
    parser.add_argument(
        "--iterations",
        type=options.positive_int,
        default=100,
        metavar="N",
        help="timed calls a pass and batch size (default: %(default)s; 59 are needed for a p95, 299 for a p99)",
    )
    parser.add_argument(
        "--max-seconds",
        type=options.positive_float,
        default=5.0,
        metavar="S",
        help="for a pass and batch size; ends it before the iterations do (default: %(default)s)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="time the encoder as torch.compile makes it (an NPU needs TorchAir); its outputs are checked",
    )
    parser.add_argument(
        "--cpu-baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the CPU in float32 at batch size 1 too, for the speedup of an accelerator (default: yes)",
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    batch_sizes = sorted(set(args.batch_sizes))
    rank = Rank.of_this_process()
    with options.open_log(args, SCRIPT, "benchmark.log", rank.index, batch_sizes=batch_sizes, ranks=rank.count) as log:
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch

            import common
            import images
            import loading
            import session
            import sweep
            import timing

        device = rank.device(args.device)
        with session.start(log, device, args.dtype, args.numerics) as running, rank.connected(running.device.type):
            budget = timing.Budget(args.warmup, args.iterations, args.max_seconds)
            count = max(batch_sizes) + timing.ROTATION - 1
            decoded = images.take(log, args.image, count, args.seed, args.strict_images)
            stopwatch = Stopwatch()
            with stopwatch.measure("load_ms"):
                encoder = loading.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed)
            log.line(f"Model: {encoder.model} ({encoder.weights_source})")
            pixel_values = torch.stack([encoder.preprocess(image) for image in decoded.images])
            work = count_work(log, encoder.module, encoder.input_size)
            baseline_ms = None
            if args.cpu_baseline and running.device.type != "cpu" and rank.index == 0:
                baseline_ms = sweep.time_alone(encoder.module, pixel_values[:1], budget)

            pixel_values, embedding = start_on_device(running, encoder, pixel_values, stopwatch)
            with running.numerics.watch():
                singly = common.encode_singly(encoder.module, pixel_values, running.device, running.dtype)
                expected = [(embedding.cpu(), hidden_state.cpu()) for embedding, hidden_state in singly]
            cost = work.fields() if work else {}
            running.record(encoder, embedding, encoder.weights_sha256(), compiled=args.compile, **cost)
            module = encoder.module
            if args.compile:
                module = common.compiled(module, running.device, len(batch_sizes))
            subject = sweep.Subject(module, encoder.preprocess, decoded.samples, pixel_values, expected)

            limit_of = work if rank.index == 0 else None
            limits = measure_limit(running, "before", limit_of, max(batch_sizes), budget)
            measurements = sweep.measure(subject, batch_sizes, budget, rank)
            rows = [measurement.fields() for measurement in measurements]
            reached = [summaries.fastest_ips(row["batch_size"], row) for row in rows if row["status"] == "ok"]
            limits += measure_limit(running, "after", limit_of, max(batch_sizes), budget, max(reached, default=0.0))
            report_rows(log, measurements, rows, work, limits)
            report_ranks(log, rank, measurements)
            report_speedup(log, rows, baseline_ms, str(running.device))
    return options.EXIT_OK


class Stopwatch:
    """The times in ms of steps that happen once, by name."""

    def __init__(self) -> None:
        self.times_ms: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times_ms[name] = (time.perf_counter() - start) * 1000


def start_on_device(
    running: Session, encoder: Encoder, pixel_values: Tensor, stopwatch: Stopwatch
) -> tuple[Tensor, Tensor]:
    """Place the encoder and pixel_values [N, 3, H, W] on the device, and time the first call.

    Gives the values there and the first one's embedding.
    """
    import common

    with stopwatch.measure("place_ms"):
        common.place(encoder.module, running.device, running.dtype)
    pixel_values = pixel_values.to(running.device, running.dtype)
    with stopwatch.measure("first_call_ms"):
        embedding, _ = common.encode(encoder.module, pixel_values[:1])
        common.synchronize(running.device)
    report_startup(running.log, stopwatch)
    return pixel_values, embedding


def count_work(log: RunLog, module: nn.Module, input_size: Sequence[int]) -> Work | None:
    """What the encoder computes for an image; None, and the reason is printed, where that can't be counted."""
    import limit

    try:
        return limit.count(module, input_size)
    except RuntimeError as error:
        log.line(f"warning: no limit beside the figures, operations can't be counted ({options.first_line(error)})")
        return None


def measure_limit(
    running: Session, phase: str, work: Work | None, batch_size: int, budget: Budget, reached_ips: float = 0.0
) -> list[float]:
    """Measure, print and record the limit in 1e12 operations a second; nothing without `work`.

    Before a throughput is called impossible, `reached_ips`, the limit is measured anew: the machine may have been busy.
    """
    import common
    import limit

    if work is None:
        return []
    shapes, tflops = None, 0.0
    for _ in range(LIMIT_ATTEMPTS):
        with common.failures_of(running.device, "at the limit's matrix products"):
            measured = limit.measure(work, batch_size, running.device, running.dtype, budget.seconds_until(0))
        if summaries.gemm_tflops(measured) > tflops:
            shapes, tflops = measured, summaries.gemm_tflops(measured)
        if reached_ips * work.gflop / 1000 <= summaries.MOST_OF_LIMIT * tflops:
            break
    dtype = common.dtype_name(running.dtype)
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
            row |= summaries.beside_the_limit(row["throughput_ips"], work.gflop if work else 0.0, limits)
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
    for key in summaries.LATENCY_KEYS:
        log.line(f"{key}: {format_ms(key, row)}")
    log.line(f"stable: {'yes' if row['stable'] else 'no'}")
    for key in ("throughput_ips", "end_to_end_ips"):
        log.line(f"{key}: {row[key]:.2f}")
    if row["percent_of_limit"] is not None:
        log.line(f"achieved_tflops: {row['achieved_tflops']:.3f}")
        log.line(f"percent_of_limit: {row['percent_of_limit']:.1%}")
    if row["percent_of_limit"] is not None and row["percent_of_limit"] > summaries.MOST_OF_LIMIT:
        log.line("warning: this is more than the device can: the time is not synchronised, or nothing was computed")
    log.line(f"output_relative_l2: {percent(row['output_relative_l2'])}")


def format_ms(key: str, row: dict[str, Any]) -> str:
    """A latency; one that has too few samples says how many it needs."""
    if row[key] is not None:
        return f"{row[key]:.3f}"
    percentile = summaries.PERCENTILES.get(key)
    needed = summaries.smallest_count(percentile) if percentile else summaries.FEWEST_SAMPLES
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
        found = summaries.scaling(measurement.batch_size, of_ranks, raw)
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
    import torch

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


if __name__ == "__main__":
    options.run(main)
