"""Measure a vision encoder's latency and throughput on a device over batch sizes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.cli import launch, options
from common.cli.options import ImageChoice, ModelChoice
from common.device.ranks import Rank
from common.errors import EXIT_OK
from common.log.events import Plan

SCRIPT = "accuracy_run_perf.py"
EXAMPLES = """examples:
  python accuracy_run_perf.py --model demo               # no NPU, no hub
  python accuracy_run_perf.py --device npu               # the ViT-giant CLIP, 1, 4, 8 and 16 images
  python accuracy_run_perf.py --device npu --dtype float16 --batch-sizes 1 32 64 --iterations 300
  python accuracy_run_perf.py --device npu --explain     # and where the time goes
  python accuracy_run_perf.py --device npu --compile --batch-sizes auto    # TorchAir beside eager
  torchrun --nproc-per-node 8 accuracy_run_perf.py --device npu        # eight devices at once
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "benchmark.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--batch-sizes",
        type=options.batch_sizes,
        nargs="+",
        default=[[1, 4, 8, 16]],
        metavar="N|auto",
        help="images a call, each size timed, such as 1 4 or 1,4; a verdict needs 1 among them; auto: from 1, doubled "
        "until throughput gains less than 5%% or the memory is out (default: 1 4 8 16)",
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
        nargs="*",
        metavar="BACKEND",
        help="time the encoder as torch.compile makes it too, beside eager, and check its outputs (default backend: "
        "inductor, on an NPU torchair)",
    )
    parser.add_argument(
        "--cpu-baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the CPU in float32 at batch size 1 too, for the speedup of an accelerator (default: yes)",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="time each kind of module alone too, at batch size 1 and the best: where the time goes",
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if launch.is_done(args, SCRIPT, "benchmark.log"):
        return EXIT_OK
    auto = [] in args.batch_sizes
    batch_sizes = sorted({size for sizes in args.batch_sizes for size in sizes} | ({1} if auto else set()))
    rank = Rank.of_this_process()
    plan = Plan(batch_sizes=batch_sizes, ranks=rank.count, backends=args.compile, auto=auto or None)
    with launch.open_log(args, SCRIPT, "benchmark.log", rank.index, plan) as log:
        launch.set_environment(args.device)
        with launch.import_errors():
            import torch

            from common import session
            from common.encoder import loading
            from common.images import decoding
            from common.performance import breakdown, compilers, printed, search, sweep, timing

        device = rank.device(args.device)
        with session.start(log, device, args.dtype, args.numerics) as running, rank.connected(running.device.type):
            running.record_machine("start")
            budget = timing.Budget(args.warmup, args.iterations, args.max_seconds)
            backends = [] if args.compile is None else compilers.choose(args.compile, running.device)
            images = decoding.Images.find(log, ImageChoice.of(args))
            decoded = images.decode(max(batch_sizes) + timing.ROTATION - 1)
            if not auto:
                decoded.report(log)
            stopwatch = timing.Stopwatch()
            with stopwatch.measure("load_ms"):
                encoder = loading.load_encoder(ModelChoice.of(args))
            encoder.introduce(log)
            pixel_values = torch.stack([encoder.preprocess(image) for image in decoded.images])
            first = rank.index == 0
            work = printed.count_work(log, encoder.module, encoder.input_size) if first else None
            baseline_ms = None
            if args.cpu_baseline and running.device.type != "cpu" and first:
                baseline_ms = sweep.time_alone(encoder.module, pixel_values[:1], budget)

            pixel_values, embedding = sweep.start_on_device(running, encoder, pixel_values, stopwatch)
            printed.report_startup(log, stopwatch.startup())
            if auto:
                batch_sizes = sorted({*batch_sizes, *search.search(log, rank, encoder.module, pixel_values, budget)})
                decoded = images.decode(max(batch_sizes) + timing.ROTATION - 1)
                decoded.report(log)
                pixel_values = torch.stack([encoder.preprocess(image) for image in decoded.images]).to(pixel_values)
            subject = sweep.prepare(running, encoder, decoded.samples, pixel_values)
            running.record(encoder, embedding, cost=work.cost if work else None)

            meter = printed.meter_of(running, work, max(batch_sizes))
            measurements = sweep.measure(subject.in_modes(backends, len(batch_sizes)), batch_sizes, budget, rank, meter)
            limit = meter.limit if meter else None
            if limit:
                printed.report_limit(log, limit)
            rows = printed.report_rows(log, measurements, work, limit)
            if auto:
                printed.report_best_sizes(log, rows)
            printed.report_ranks(log, rank, measurements)
            printed.report_speedup(log, rows, baseline_ms, str(running.device))
            if args.explain:
                breakdown.explain(log, rank, encoder.module, pixel_values, rows, budget, work, limit)
            running.record_machine("end")
            if first:
                log.line()
                found = f"performance: {printed.summarize(rows)}"
                log.line(launch.closing_line(args, "benchmark.log", found, "check_accuracy_run_perf.py"))
    return EXIT_OK


if __name__ == "__main__":
    launch.run(main)
