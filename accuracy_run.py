"""Compare a vision encoder's outputs on a device with a reference on the CPU, sample by sample."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import launch, options
from common.cli.options import ImageChoice, ModelChoice
from common.device.ranks import Rank
from common.errors import EXIT_OK, UserError
from common.log import tasks
from common.log.events import FEATURES
from common.log.writer import RunLog

if TYPE_CHECKING:
    from common.accuracy.findings import Embeddings
    from common.encoder.base import OwnClasses

SCRIPT = "accuracy_run.py"
DEFAULT_SAMPLES = 8
PARTS = "accuracy.parts"  # the folder in --log-dir from which --resume goes on
OF_FORWARDS = ("--image", "--batch-size", "--workers", "--golden", "--explain", "--resume")  # not with --candidate
DEVICE_SIDE = ("model", "device", "dtype", "numerics")  # what a --candidate says of itself
EXAMPLES = """examples:
  python accuracy_run.py --model demo                    # no NPU, no hub: float32 against float64
  python accuracy_run.py --device npu                    # the ViT-giant CLIP, NPU against CPU
  python accuracy_run.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python accuracy_run.py --device npu --image photos/ --samples 32
  python accuracy_run.py --device npu --image val/ --samples all   # every image; --resume goes on
  python accuracy_run.py --device cpu --save-reference r.safetensors  # the CPU's side, anywhere
  python accuracy_run.py --device npu --reference r.safetensors   # the NPU's side against that file
  python accuracy_run.py --reference gpu.npy --candidate npu.npy  # two files of inference.py
  python accuracy_run.py --device npu --image val/ --task   # what the error does; a folder a class
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "accuracy.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--samples",
        type=options.count_or_all,
        metavar="N|all",
        help="how many images to compare; seeded crops fill up where there are fewer; 0 or all: every image "
        f"(default: {DEFAULT_SAMPLES}, or all of a --reference; with --task all of --image)",
    )
    parser.add_argument(
        "--batch-size",
        type=options.positive_int,
        metavar="N",
        help="images at once, on both sides (default: 1; 8 of more than 64)",
    )
    parser.add_argument(
        "--workers",
        type=options.nonnegative_int,
        metavar="N",
        help="processes that decode and preprocess (default: none; of more than 64 images by the processors)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted, where it stopped, in --log-dir"
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
    task = parser.add_argument_group("task")
    task.add_argument(
        "--task",
        action="store_true",
        help="what the error does to the task: predictions of the model's own classes, or of a vote of nearest "
        "neighbours, that change",
    )
    task.add_argument(
        "--labels",
        metavar="FILE.csv|none",
        help="rows of an image's name and its label (default: an image's folder is its label, if it is in one)",
    )
    task.add_argument(
        "--max-accuracy-drop",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="how much of the accuracy the device may lose (default: %(default)s)",
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--save-reference",
        type=Path,
        metavar="FILE",
        help="keep the pixel values and what the CPU computes from them, as .safetensors",
    )
    files.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="such a file: no image, no forward on the CPU; or what inference.py --output wrote anywhere, of the same "
        "--image: embeddings alone are compared",
    )
    parser.add_argument(
        "--candidate",
        type=Path,
        metavar="FILE",
        help="the device's side from such a file of inference.py too: no forward at all",
    )
    args = parser.parse(argv)
    needless = [flag for flag in OF_FORWARDS if getattr(args, flag.strip("-").replace("-", "_"))]
    if args.candidate and (needless or not args.reference):
        wants = f"{needless[0]} is of images that are encoded" if needless else "it needs --reference FILE"
        parser.error(f"--candidate FILE has the device's side: {wants}")
    if args.resume and args.save_reference:
        parser.error("--resume has no hidden states of the images before: --save-reference needs them all")
    if args.labels and not args.task:
        parser.error("--labels is of --task")
    if args.task and args.samples is None and not args.reference:
        args.samples = 0 if args.image else tasks.fewest_images(args.max_accuracy_drop)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if launch.is_done(args, SCRIPT, "accuracy.log"):
        return EXIT_OK
    rank = Rank.of_this_process()
    with launch.open_log(args, SCRIPT, "accuracy.log", rank.index) as log:
        if rank.count > 1:
            raise UserError("accuracy_run.py proves one device: run it without torchrun")
        launch.set_environment("cpu" if args.candidate else args.device)
        summary = compare_files(args, log) if args.candidate else compare_on_device(args, log)
        log.line()
        following = None if args.candidate else "accuracy_run_perf.py"
        log.line(launch.closing_line(args, "accuracy.log", f"accuracy: {summary}", following))
    return EXIT_OK


def compare_files(args: argparse.Namespace, log: RunLog) -> str:
    """Two feature files; the result in a few words."""
    with launch.import_errors():
        from common.accuracy import feature_comparison

    typed = {key: getattr(args, key) for key in DEVICE_SIDE if f"--{key}" in args.shared}
    result, pairing = feature_comparison.compare(
        log, args.reference, args.candidate, args.samples or 0, args.threshold, typed
    )
    return result.summary() + judge_task(args, log, pairing.embeddings, FEATURES, pairing.dtype, pairing.classes)


def judge_task(
    args: argparse.Namespace, log: RunLog, both: Embeddings, against: str, dtype: str, classes: OwnClasses | None
) -> str:
    """What the error does to the task, where that is asked; the result in a few words."""
    if not args.task:
        return ""
    from common.task import evaluation

    sides = evaluation.Sides.of(both.names, both.reference, both.candidate, against, dtype)
    task = evaluation.evaluate(log, sides, classes, args.labels, args.max_accuracy_drop)
    return f"; task: {task.result or 'nothing gated'}"


def compare_on_device(args: argparse.Namespace, log: RunLog) -> str:
    """The device's outputs against the CPU's, or those in a file; the result in a few words."""
    with launch.import_errors():
        from common import session
        from common.accuracy import (
            comparison,
            feature_comparison,
            findings,
            inputs,
            parts,
            reference,
            repeatability,
            saved_reference,
        )
        from common.accuracy.diagnosis import explanation
        from common.device import devices
        from common.encoder import loading
        from common.features import reading
        from common.images import decoding
        from common.task import evaluation

    with session.start(log, args.device, args.dtype, args.numerics) as running:
        wanted, rounded = ImageChoice.of(args), {args.dtype} - {"float32"}
        of_features = args.reference is not None and reading.is_feature_file(args.reference)
        precisions = reference.choose_precisions(running, args.golden)
        brings_images = args.reference and not of_features
        samples = [] if brings_images else decoding.find_samples(wanted.paths, log, wanted.strict)
        encoder = loading.load_encoder(ModelChoice.of(args), hashed=True)
        _ = encoder.weights_sha256  # waited for: beside the forwards it costs memory
        encoder.introduce(log)
        if args.task:  # labels that do not fit are told before anything runs
            evaluation.ask([sample.name for sample in samples], encoder.own_classes, args.labels)

        known: reference.Known
        images: inputs.Images
        if brings_images:
            named = decoding.take(log, wanted, args.samples or DEFAULT_SAMPLES) if args.image else decoding.Decoded()
            known = saved_reference.load(log, args.reference, encoder, precisions, args.samples or None, named)
            images = inputs.SavedImages(known, args.batch_size or 1)
        else:
            count = args.samples
            if of_features:
                if args.golden:
                    raise UserError("--golden computes on the CPU: a feature file has one reference of its own")
                known = feature_comparison.load_reference(log, args.reference, encoder, running, rounded)
                feature_comparison.require_images(known.file, samples, every=not count)
            else:
                count = DEFAULT_SAMPLES if count is None else count
                rounded = set(reference.EXPECTED_DTYPES) if args.save_reference else rounded
                known = reference.OnCpu(encoder.module, precisions, rounded)
            decoding_of = (encoder.preprocess, args.batch_size, args.workers)
            images = inputs.DecodedImages.chosen(samples, count or 0, wanted, *decoding_of)
        encoder.module = devices.copied(encoder.module, running.device, running.dtype)

        saving = saved_reference.Saving() if args.save_reference else None
        kept = None
        if len(images) > parts.PART_IMAGES and not saving:
            kept = parts.ComparedParts(args.log_dir / PARTS, comparison.settings(running, encoder, known, images))
        comparer = comparison.Comparer(running, encoder, known, images, kept, saving)
        found = findings.Findings(log, known.precisions, len(images))
        for part in comparer.run(args.resume):
            found.add(part)
        result = found.finish(args.dtype, args.numerics, args.threshold, classifier=encoder.label is not None)
        repeatable = repeatability.report(running, found.repeats, found.expected.get(args.dtype, {}))
        if saving:
            saved_reference.save(log, args.save_reference, saving.reference(found.expected), encoder)
        if args.explain or not result.passed:
            on_cpu = loading.load_encoder(ModelChoice.of(args)).module
            pixel_values, outputs = comparer.evidence_of(result.worst_image)
            image, error = result.worst_image, result.worst_relative_l2
            explanation.explain(running, on_cpu, encoder.module, pixel_values, outputs, image, error)
        judged = judge_task(args, log, found.embeddings, known.precisions[0], args.dtype, encoder.own_classes)
        if kept:
            kept.remove()
    return result.summary(repeatable) + judged


if __name__ == "__main__":
    launch.run(main)
