"""Compare a vision encoder's outputs on a device with a reference on the CPU, sample by sample."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import launch, options
from common.cli.options import ImageChoice, ModelChoice
from common.device.ranks import Rank
from common.errors import EXIT_OK, UserError

SCRIPT = "accuracy_run.py"
DEFAULT_SAMPLES = 8
EXAMPLES = """examples:
  python accuracy_run.py --model demo                    # no NPU, no hub: float32 against float64
  python accuracy_run.py --device npu                    # the ViT-giant CLIP, NPU against CPU
  python accuracy_run.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python accuracy_run.py --device npu --image photos/ --samples 32
  python accuracy_run.py --device cpu --save-reference r.safetensors  # the CPU's side, anywhere
  python accuracy_run.py --device npu --reference r.safetensors   # the NPU's side against that file
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "accuracy.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--samples",
        type=options.positive_int,
        metavar="N",
        help="how many images to compare; seeded crops fill up where there are fewer "
        f"(default: {DEFAULT_SAMPLES}, or all of a --reference)",
    )
    parser.add_argument(
        "--threshold",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="the largest relative_error and relative_l2 that pass (default: %(default)s)",
    )
    parser.add_argument(
        "--golden", action="store_true", help="compare with float64 on the CPU too, and give the float32 noise floor"
    )
    parser.add_argument(
        "--explain", action="store_true", help="name the cause of the error and the block (always done after a FAIL)"
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--save-reference",
        type=Path,
        metavar="FILE",
        help="keep the pixel values and what the CPU computes from them, as .safetensors",
    )
    files.add_argument(
        "--reference", type=Path, metavar="FILE", help="take both from such a file: no image, no forward on the CPU"
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if launch.is_done(args, SCRIPT, "accuracy.log"):
        return EXIT_OK
    rank = Rank.of_this_process()
    with launch.open_log(args, SCRIPT, "accuracy.log", rank.index) as log:
        if rank.count > 1:
            raise UserError("accuracy_run.py proves one device: run it without torchrun")
        launch.set_environment(args.device)
        with launch.import_errors():
            from common import session
            from common.accuracy import comparison, reference, saved_reference
            from common.accuracy.diagnosis import explanation
            from common.device import devices
            from common.encoder import loading
            from common.images import decoding

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            precisions = reference.choose_precisions(running, args.golden)
            own_images = args.reference and not args.image  # a saved reference brings its images
            decoded = decoding.Decoded()
            if not own_images:
                decoded = decoding.take(log, ImageChoice.of(args), args.samples or DEFAULT_SAMPLES)
            encoder = loading.load_encoder(ModelChoice.of(args), hashed=True)
            _ = encoder.weights_sha256  # waited for: beside the forwards it costs memory
            encoder.introduce(log)
            if args.reference:
                known = saved_reference.load(log, args.reference, encoder, precisions, args.samples, decoded)
            else:
                rounded = reference.EXPECTED_DTYPES if args.save_reference else {args.dtype} - {"float32"}
                known = reference.compute(log, encoder, decoded, precisions, rounded)

            devices.place(encoder.module, running.device, running.dtype)
            with running.numerics.watch():
                outputs = list(devices.encode_singly(encoder.module, known.pixel_values, running.device, running.dtype))
            running.record(encoder, outputs[0][0], references=precisions)
            if args.save_reference:
                kept = known.with_float32(outputs) if "float32" not in precisions else known
                saved_reference.save(log, args.save_reference, kept, encoder)
            found = comparison.compare(running, known, outputs, args.threshold, encoder)
            if args.explain or not found.passed:
                worst = found.worst_image
                pixel_values = known.pixel_values[worst : worst + 1]
                on_cpu, on_device = loading.load_encoder(ModelChoice.of(args)).module, encoder.module
                image, error = known.images[worst], found.worst_relative_l2
                explanation.explain(running, on_cpu, on_device, pixel_values, outputs[worst], image, error)
            log.line()
            log.line(launch.closing_line(args, "accuracy.log", f"accuracy: {found.summary}", "accuracy_run_perf.py"))
    return EXIT_OK


if __name__ == "__main__":
    launch.run(main)
