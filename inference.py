"""Run a pretrained vision encoder on images, print what it sees, and save the embeddings."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment
import options
from options import UserError
from ranks import Rank
from runlog import RunLog

if TYPE_CHECKING:
    import numpy as np

    from encoders import Encoder
    from features import Part

SCRIPT = "inference.py"
EXAMPLES = """examples:
  python inference.py --model demo                           no NPU, no hub: a first look
  python inference.py --device npu --image photo.jpg         the ViT-giant CLIP from ModelScope
  python inference.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python inference.py --model demo --image photos/ --batch-size 8 --output features.safetensors
  torchrun --nproc-per-node 8 inference.py --device npu --image photos/ --batch-size 32 --output features.safetensors
"""
MOST_PRINTED = 10  # images; of the others there are records only


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
        "--output",
        type=feature_file,
        metavar="FILE",
        help="write the outputs (embeddings; a classifier's logits) in input order: .safetensors, the image names in "
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
    rank = Rank.of_this_process()
    with options.open_log(args, SCRIPT, "inference.log", rank.index) as log:
        if rank.index == 0:
            environment.write_check(args.log_dir)
        require_output(args.output, args.resume, rank)
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import common
            import decoding
            import embedder
            import images
            import loading
            import session

        device = rank.device(args.device)
        with session.start(log, device, args.dtype, args.numerics) as running, rank.connected(running.device.type):
            samples = images.find_samples(args.image)
            hashed = args.output is not None
            encoder = loading.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed, hashed)
            common.place(encoder.module, running.device, running.dtype)
            batches = decoding.Batches(samples, args.batch_size, encoder.preprocess, args.strict_images)
            workers = decoding.default_workers(rank.count) if args.workers is None else args.workers
            runner = embedder.Embedder(running, encoder, batches, workers)
            report = Report(log, args.topk, encoder, len(samples))
            if args.output:
                made = embedder.write_features(args.output, args.resume, rank, runner)
            else:
                made = runner.embed([range(index, index + 1) for index in range(len(batches))])
            for part in made:
                report.add(part)
            if rank.index == 0:
                report.finish()
    return options.EXIT_OK


class Report:
    """What is printed and recorded of every image: its largest outputs, or why it was left out."""

    def __init__(self, log: RunLog, topk: int, encoder: Encoder, expected: int) -> None:
        self.log, self.topk, self.encoder, self.expected = log, topk, encoder, expected
        self.images = self.skipped = 0

    def add(self, part: Part) -> None:
        for name, sha256, vector in zip(part.names, part.sha256, part.embeddings, strict=True):
            self.images += 1
            self._add_image(name, sha256, vector)
        import images

        self.skipped += len(part.skipped)
        images.report_skipped(self.log, part.skipped)
        images.report_frames(self.log, part.frames)

    def finish(self) -> None:
        """The counts. Raises UserError where there was no image to count."""
        if self.images == 0:
            raise UserError(f"none of the {self.expected} images could be decoded")
        if self.images > MOST_PRINTED:
            self.log.line(f"... and {self.images - MOST_PRINTED} more images, each with its record in the log")
        if self.skipped:
            self.log.line(f"Skipped images: {self.skipped} of {self.expected}")

    def _add_image(self, name: str, sha256: str, vector: np.ndarray) -> None:
        import numpy as np

        largest = vector.argsort(kind="stable")[::-1][: self.topk]
        label = self.encoder.label
        top = [
            {"index": index, "value": float(vector[index]), "label": label(index) if label else None}
            for index in largest.tolist()
        ]
        nonfinite = int((~np.isfinite(vector)).sum())
        if self.images <= MOST_PRINTED:
            self._print_image(name, top)
        if nonfinite:
            self.log.line(f"warning: {nonfinite} of {len(vector)} outputs of {name} are NaN or infinite")
        self.log.record(
            "inference",
            image=name,
            image_sha256=sha256,
            output_shape=[1, len(vector)],
            nonfinite=nonfinite,
            topk=top,
        )

    def _print_image(self, name: str, top: Sequence[dict[str, Any]]) -> None:
        self.log.line()
        self.log.line(f"Top-{len(top)} outputs (index, value){f' of {name}' if self.expected > 1 else ''}:")
        for place, entry in enumerate(top, start=1):
            label = f", label={entry['label']}" if entry["label"] else ""
            self.log.line(f"  {place}. index={entry['index']}, value={entry['value']:.6f}{label}")


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
    options.run(main)
