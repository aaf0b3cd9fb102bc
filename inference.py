"""Run a pretrained vision encoder on images, print what it sees, and save the embeddings."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.cli import environment, launch, options
from common.cli.options import ModelChoice
from common.device.ranks import Rank
from common.errors import EXIT_OK, UserError

SCRIPT = "inference.py"
PARTS = ".parts"  # the ending of the folder beside a feature file that is being made
EXAMPLES = """examples:
  python inference.py --model demo                           # no NPU, no hub: a first look
  python inference.py --device npu --image photo.jpg         # the ViT-giant CLIP from ModelScope
  python inference.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python inference.py --model demo --image photos/ --batch-size 8 --output features.safetensors
  python inference.py --model demo --image photos/ --features pooled --output pooled.safetensors
  torchrun --nproc-per-node 8 inference.py --device npu --image photos/ --output all.safetensors
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "inference.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--batch-size",
        type=options.positive_int,
        default=1,
        metavar="N",
        help="images at once (default: %(default)s)",
    )
    parser.add_argument(
        "--topk",
        type=options.positive_int,
        default=5,
        metavar="K",
        help="how many of the largest outputs to print (default: %(default)s)",
    )
    parser.add_argument(
        "--features",
        choices=(options.EMBEDDING, options.POOLED),
        default=options.EMBEDDING,
        help="embedding: what the model gives, of timm's classifiers the logits; pooled: what is before its last "
        "layer, a classifier's head (timm's num_classes=0) or a projection (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=feature_file,
        metavar="FILE",
        help="write the outputs, which --features chooses, in input order: .safetensors, the image names in "
        "its metadata, or .npy, the names in a .json beside it",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the --output of a run that was interrupted, where it stopped"
    )
    parser.add_argument(
        "--workers",
        type=options.nonnegative_int,
        metavar="N",
        help="processes that decode and preprocess; 0: none but the main one (default: by the processors)",
    )
    return parser.parse(argv)


def feature_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".safetensors", ".npy"):
        raise argparse.ArgumentTypeError(f"{text} ends in neither .safetensors nor .npy")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if launch.is_done(args, SCRIPT, "inference.log"):
        return EXIT_OK
    rank = Rank.of_this_process()
    with launch.open_log(args, SCRIPT, "inference.log", rank.index) as log:
        if rank.index == 0:
            environment.write_check(args.log_dir)
        require_output(args.output, args.resume, rank)
        if args.resume and is_finished(args.output):
            with launch.import_errors():
                from common.features import files

            files.require_same_kind(args.output, args.features)
            log.line(f"{args.output} is finished: there is nothing to resume")
            return EXIT_OK
        launch.set_environment(args.device)
        with launch.import_errors():
            from common import session
            from common.device import devices
            from common.encoder import loading
            from common.features import embedder, topk
            from common.images import batching, decoding

        device = rank.device(args.device)
        with session.start(log, device, args.dtype, args.numerics) as running, rank.connected(running.device.type):
            samples = decoding.find_samples(args.image, log, args.strict_images)
            wanted = replace(ModelChoice.of(args), pooled=args.features == options.POOLED)
            encoder = loading.load_encoder(wanted, hashed=args.output is not None)
            devices.place(encoder.module, running.device, running.dtype)
            batches = batching.Batches(samples, args.batch_size, encoder.preprocess, args.strict_images)
            workers = batching.default_workers(rank.count) if args.workers is None else args.workers
            runner = embedder.Embedder(running, encoder, batches, workers)
            report = topk.Report(log, args.topk, encoder, len(samples))
            if args.output:
                made = embedder.write_features(args.output, args.resume, rank, runner)
            else:
                made = runner.embed([range(index, index + 1) for index in range(len(batches))])
            for part in made:
                report.add(part)
            if rank.index == 0:
                log.line(launch.closing_line(args, "inference.log", report.finish(), "accuracy_run.py"))
    return EXIT_OK


def is_finished(path: Path) -> bool:
    """Whether a feature file is there, and no parts of a run that was interrupted."""
    return path.is_file() and not path.with_name(path.name + PARTS).is_dir()


def require_output(path: Path | None, resume: bool, rank: Rank) -> None:
    """Raise UserError before hours of work, and not after, when the file can't be written or is not named."""
    if path is None:
        if resume or rank.count > 1:
            raise UserError(f"{'--resume' if resume else 'torchrun'} needs --output: the file that the features go to")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error


if __name__ == "__main__":
    launch.run(main)
