"""Measure a vision encoder's latency and throughput on a device over batch sizes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import options
import summaries
from runlog import RunLog, percent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common import Outputs
    from images import Sample
    from session import Session

SCRIPT = "accuracy_run_perf.py"
EXAMPLES = """examples:
  python accuracy_run_perf.py --model demo                   no NPU, no hub
  python accuracy_run_perf.py --device npu                   the ViT-giant CLIP, 1, 4, 8 and 16 images
  python accuracy_run_perf.py --device npu --dtype float16 --batch-sizes 1 32 64 --iterations 300
"""
ROTATION = 4  # different inputs in turn, so that no cache answers for the device
LATENCY_KEYS = ("avg_latency_ms", "min_latency_ms", "max_latency_ms", *summaries.PERCENTILES)
WINDOWS = 5  # of the throughput pass, for its spread


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
        help="untimed calls before each batch size (default: %(default)s)",
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
        "--cpu-baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the CPU in float32 at batch size 1 too, for the speedup of an accelerator (default: yes)",
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    batch_sizes = sorted(set(args.batch_sizes))
    with options.open_log(args, SCRIPT, "benchmark.log", batch_sizes=batch_sizes) as log:
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch

            import common
            import encoders
            import images
            import session

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            # Every batch size is timed on ROTATION different batches, each an image further on.
            count = max(batch_sizes) + ROTATION - 1
            samples = images.sample_exactly(images.find_samples(args.image), count, args.seed)
            decoded = [sample.load() for sample in samples]
            encoder = encoders.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed)
            pixel_values = torch.stack([encoder.preprocess(image) for image in decoded])
            limits = Limits(args.warmup, args.iterations, args.max_seconds)
            log.line(f"Model: {encoder.model} ({encoder.weights_source})")

            baseline_ms = None
            if args.cpu_baseline and running.device.type != "cpu":
                warm_up(encoder.module, [pixel_values[:1]], limits.warmup)
                baseline_ms = time_latency(encoder.module, [pixel_values[:1]], limits)[0]

            common.place(encoder.module, running.device, running.dtype)
            pixel_values = pixel_values.to(running.device, running.dtype)
            with running.numerics.watch():
                singles = [common.encode(encoder.module, pixels) for pixels in pixel_values[:, None]]
            running.record(encoder, singles[0][0], encoder.weights_sha256())
            rows = [
                measure(log, encoder.module, pixel_values, singles, size, samples[0], limits) for size in batch_sizes
            ]
            report_table(log, rows)
            report_speedup(log, rows, baseline_ms, running)
    return options.EXIT_OK


@dataclass(frozen=True)
class Limits:
    """How long to measure: untimed calls first, then calls until either bound is reached, but at least one."""

    warmup: int
    iterations: int
    max_seconds: float


def measure(
    log: RunLog,
    module: nn.Module,
    pixel_values: Tensor,
    singles: Sequence[Outputs],
    batch_size: int,
    first: Sample,
    limits: Limits,
) -> dict[str, Any]:
    """Measure and record one batch size; out of memory is a row like the others, and the sweep goes on.

    `pixel_values` [N, 3, H, W], of which `first` is the first, and the outputs of each image alone, `singles`, are on
    the device.
    """
    import common
    import numerics

    device = pixel_values.device
    row: dict[str, Any] = {"batch_size": batch_size, "status": "ok"}
    batches = [pixel_values[turn : turn + batch_size] for turn in range(ROTATION)]
    try:
        common.reset_peak_memory(device)
        warm_up(module, batches, limits.warmup)
        latency_ms, timed = time_latency(module, batches, limits)
        window_ms, calls, queued = time_throughput(module, batches, limits, sum(latency_ms) / len(latency_ms))
    except RuntimeError as error:
        row["status"] = "oom" if common.is_out_of_memory(error) else "error"
        row["reason"] = options.first_line(error)
        common.empty_cache(device)
    else:
        embedding = timed[0][0]
        row |= {"device": str(embedding.device), "dtype": common.dtype_name(embedding.dtype)}
        row |= summaries.summarize_latency(latency_ms)
        row["throughput_ips"] = summaries.throughput_ips(window_ms, batch_size * calls)
        row["peak_memory_mb"] = common.peak_memory_mb(device)
        row |= verify([*timed.items(), *queued.items()], singles)
        row |= {"image": first.name, "image_sha256": first.sha256()}
        row["fingerprint"] = numerics.fingerprint(embedding[0])
        record_latencies(log, batch_size, "latency", latency_ms, calls=1)
        record_latencies(log, batch_size, "throughput", window_ms, calls)
    log.record("perf", **row)
    report_row(log, row)
    return row


def warm_up(module: nn.Module, batches: Sequence[Tensor], calls: int) -> None:
    """Calls that nobody times: kernels are compiled, memory is allocated, weights are read from their file."""
    import common

    for call in range(calls):
        common.forward(module, batches[call % len(batches)])


def time_latency(
    module: nn.Module, batches: Sequence[Tensor], limits: Limits
) -> tuple[list[float], dict[int, Outputs]]:
    """The times of single calls in ms, synchronised on both sides, and the last outputs of each of `batches`."""
    import common

    samples_ms: list[float] = []
    outputs: dict[int, Outputs] = {}
    end = time.perf_counter() + limits.max_seconds
    while not samples_ms or (len(samples_ms) < limits.iterations and time.perf_counter() < end):
        turn = len(samples_ms) % len(batches)
        common.synchronize(batches[turn].device)
        start = time.perf_counter()
        outputs[turn] = common.forward(module, batches[turn])
        finish(outputs[turn])
        samples_ms.append((time.perf_counter() - start) * 1000)
    return samples_ms, outputs


def time_throughput(
    module: nn.Module, batches: Sequence[Tensor], limits: Limits, latency_ms: float
) -> tuple[list[float], int, dict[int, Outputs]]:
    """The times in ms of windows, how many calls each has, and the last outputs of each of `batches`.

    A window's calls are queued back to back and synchronised only at its ends. There are so many that all windows
    together keep to the iterations and, at `latency_ms` a call, to the seconds; at least one window of one call.
    """
    import common

    affordable = limits.max_seconds * 1000 / latency_ms
    calls = max(1, int(min(limits.iterations, affordable) / WINDOWS))
    samples_ms: list[float] = []
    outputs: dict[int, Outputs] = {}
    end = time.perf_counter() + limits.max_seconds
    while not samples_ms or (len(samples_ms) < WINDOWS and time.perf_counter() < end):
        common.synchronize(batches[0].device)
        start = time.perf_counter()
        for call in range(calls):
            turn = call % len(batches)
            outputs[turn] = common.forward(module, batches[turn])
        finish(outputs[turn])
        samples_ms.append((time.perf_counter() - start) * 1000)
    return samples_ms, calls, outputs


def finish(outputs: Outputs) -> None:
    """Wait for the device, then read an element: a synchronisation that is lost can't hide in the timer."""
    import common

    embedding, _ = outputs
    common.synchronize(embedding.device)
    embedding.flatten()[-1].item()


def verify(timed: Sequence[tuple[int, Outputs]], singles: Sequence[Outputs]) -> dict[str, Any]:
    """What was timed is what the encoder gives: the outputs of batches, each with its first image's place among
    `singles`, against those of the images alone. The worst relative L2 of any image and output counts.
    """
    import numerics

    pairs = [
        (singles[turn + place][output][0].cpu(), image)
        for turn, outputs in timed
        for output, batch in enumerate(outputs)
        for place, image in enumerate(batch.cpu())
    ]
    expected, found = zip(*pairs, strict=True)
    return {
        "output_relative_l2": numerics.worst_relative_l2(expected, found),
        "nonfinite": sum(map(numerics.count_nonfinite, found)),
    }


def record_latencies(log: RunLog, batch_size: int, name: str, samples_ms: Sequence[float], calls: int) -> None:
    """Record a pass's raw samples, each the time of `calls` calls."""
    log.record("latencies", **{"batch_size": batch_size, "pass": name, "calls": calls, "samples_ms": list(samples_ms)})


def report_row(log: RunLog, row: dict[str, Any]) -> None:
    log.line()
    log.line(f"batch_size: {row['batch_size']}")
    if row["status"] != "ok":
        log.line(f"status: {row['status']} ({row['reason']})")
        return
    log.line(f"samples: {row['n']}")
    for key in (*LATENCY_KEYS, "throughput_ips"):
        log.line(f"{key}: {format_ms(key, row)}")
    log.line(f"output_relative_l2: {percent(row['output_relative_l2'])}")


def format_ms(key: str, row: dict[str, Any]) -> str:
    """A latency or throughput; a percentile that has too few samples says how many it needs."""
    if row[key] is not None:
        return f"{row[key]:.2f}" if key == "throughput_ips" else f"{row[key]:.3f}"
    needed = summaries.smallest_count(summaries.PERCENTILES[key])
    return f"- ({row['n']} samples, {needed} needed)"


def report_table(log: RunLog, rows: Sequence[dict[str, Any]]) -> None:
    log.line()
    log.line(f"{'batch':>5} {'samples':>8} {'p50 ms':>10} {'avg ms':>10} {'images/s':>10} {'peak MB':>9}")
    for row in rows:
        if row["status"] == "ok":
            p50 = "-" if row["p50_latency_ms"] is None else f"{row['p50_latency_ms']:.3f}"
            peak = "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}"
            log.line(
                f"{row['batch_size']:>5} {row['n']:>8} {p50:>10} {row['avg_latency_ms']:>10.3f} "
                f"{row['throughput_ips']:>10.2f} {peak:>9}"
            )
        else:
            log.line(f"{row['batch_size']:>5} {row['status']:>8}")


def report_speedup(
    log: RunLog, rows: Sequence[dict[str, Any]], baseline_ms: Sequence[float] | None, running: Session
) -> None:
    """How much faster the device is than the CPU in float32 with its threads, both at batch size 1."""
    import torch

    single = next((row for row in rows if row["batch_size"] == 1 and row["status"] == "ok"), None)
    if baseline_ms is None or single is None:
        return
    baseline_latency_ms = summaries.summarize_latency(baseline_ms)["avg_latency_ms"]
    speedup = baseline_latency_ms / single["avg_latency_ms"]
    threads, dtype = torch.get_num_threads(), single["dtype"]
    log.line()
    log.line(
        f"speedup: {speedup:.2f}x ({running.device} in {dtype} over the CPU in float32 with {threads} threads, "
        "batch size 1)"
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
