"""Run a pretrained vision encoder on images, print what it sees, and save the embeddings."""

from __future__ import annotations

import argparse
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import environment
import options
from options import UserError
from runlog import RunLog

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from encoders import Encoder
    from images import Sample
    from session import Session

SCRIPT = "inference.py"
PREPARING_THREADS = 4  # few: what torchvision computes in each of them is spread over all cores again
EXAMPLES = """examples:
  python inference.py --model demo                           no NPU, no hub: a first look
  python inference.py --device npu --image photo.jpg         the ViT-giant CLIP from ModelScope
  python inference.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python inference.py --model demo --image photos/ --batch-size 8 --output features.safetensors
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
        "--output",
        type=feature_file,
        metavar="FILE",
        help="write the outputs (embeddings; a classifier's logits) in input order: .safetensors, the image names in "
        "its metadata, or .npy, the names in a .json beside it",
    )
    return parser.parse(argv)


def feature_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".safetensors", ".npy"):
        raise argparse.ArgumentTypeError(f"{text} ends in neither .safetensors nor .npy")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    with options.open_log(args, SCRIPT, "inference.log") as log:
        environment.write_check(args.log_dir)
        if args.output:
            require_writable(args.output)
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch
            from tqdm import tqdm

            import common
            import encoders
            import images
            import session

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            samples = images.find_samples(args.image)
            hashed = args.output is not None
            encoder = encoders.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed, hashed)
            common.place(encoder.module, running.device, running.dtype)
            weights_sha256 = encoder.weights_sha256() if hashed else None

            embeddings: list[Tensor] = []
            batches = [samples[start : start + args.batch_size] for start in range(0, len(samples), args.batch_size)]
            prepared = tqdm(
                zip(batches, prepare_ahead(batches, encoder.preprocess), strict=True),
                total=len(batches),
                unit="batch",
                disable=None if len(batches) > 1 else True,
            )
            for batch, pixel_values in prepared:
                if embeddings:
                    embedding, _ = common.encode(encoder.module, pixel_values.to(running.device, running.dtype))
                else:
                    embedding = encode_first(running, encoder, pixel_values, weights_sha256)
                embeddings.append(embedding.cpu().float())
                for sample, vector in zip(batch, embeddings[-1], strict=True):
                    report_image(log, sample, vector, args.topk, encoder, alone=len(samples) == 1)
            if args.output:
                features = torch.cat(embeddings)
                write_features(args.output, features, [sample.name for sample in samples], encoder, weights_sha256)
                log.line(f"Features: {args.output} {list(features.shape)}")
    return options.EXIT_OK


def prepare_ahead(batches: Sequence[Sequence[Sample]], preprocess: Callable[[Image], Tensor]) -> Iterator[Tensor]:
    """The pixel_values [B, 3, H, W] of each batch. While the device computes one, threads prepare the next.

    Raises UserError at the turn of an image that can't be decoded, when the batches before it are done.
    """
    import torch

    def prepare(sample: Sample) -> Tensor:
        return preprocess(sample.load())

    with ThreadPoolExecutor(PREPARING_THREADS) as threads:
        ahead = [threads.submit(prepare, sample) for sample in batches[0]]
        for following in (*batches[1:], ()):
            current, ahead = ahead, [threads.submit(prepare, sample) for sample in following]
            yield torch.stack([prepared.result() for prepared in current])


def encode_first(running: Session, encoder: Encoder, pixel_values: Tensor, weights_sha256: str | None) -> Tensor:
    """The embeddings [B, D] of the first batch [B, 3, H, W], and on the way all that is the same for every batch."""
    import common

    with running.numerics.watch():
        embedding, hidden_state = common.encode(encoder.module, pixel_values.to(running.device, running.dtype))
    running.record(encoder, embedding, weights_sha256)
    running.log.line(f"Model: {encoder.model}")
    running.log.line(f"Parameters: {encoder.params / 1e6:.1f}M")
    running.log.line(f"Input shape: {list(pixel_values.shape)}")
    running.log.line(f"Output shape: {list(embedding.shape)}")
    running.log.line(f"Hidden state shape: {list(hidden_state.shape)}")
    running.log.line(f"Output dtype: {embedding.dtype}")
    return embedding


def report_image(log: RunLog, sample: Sample, vector: Tensor, topk: int, encoder: Encoder, alone: bool) -> None:
    """Print and record the largest elements of one embedding [D]."""
    values, indices = vector.topk(min(topk, len(vector)))
    top = [
        {"index": index, "value": value, "label": encoder.label(index) if encoder.label else None}
        for index, value in zip(indices.tolist(), values.tolist(), strict=True)
    ]
    log.line()
    log.line(f"Top-{len(top)} outputs (index, value){'' if alone else f' of {sample.name}'}:")
    for rank, entry in enumerate(top, start=1):
        label = f", label={entry['label']}" if entry["label"] else ""
        log.line(f"  {rank}. index={entry['index']}, value={entry['value']:.6f}{label}")
    nonfinite = int((~vector.isfinite()).sum())
    if nonfinite:
        log.line(f"warning: {nonfinite} of {len(vector)} outputs are NaN or infinite")
    log.record(
        "inference",
        image=sample.name,
        image_sha256=sample.sha256(),
        output_shape=[1, len(vector)],
        nonfinite=nonfinite,
        topk=top,
    )


def write_features(
    path: Path, embeddings: Tensor, names: Sequence[str], encoder: Encoder, weights_sha256: str | None
) -> None:
    """Write embeddings [N, D] with what they are of, under a temporary name first: a cut run leaves no half file."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    about = {
        "images": names,
        "model": encoder.model,
        "weights_source": encoder.weights_source,
        "weights_sha256": weights_sha256,
        "preprocess": encoder.preprocessing,
    }
    partial = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, embeddings.numpy())
            path.with_suffix(".json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        else:
            save_file({"embedding": embeddings}, partial, {key: _text(value) for key, value in about.items()})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}") from error


def require_writable(path: Path) -> None:
    """Raise UserError before hours of work, and not after, when the file can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error


def _text(value: object) -> str:
    """safetensors metadata holds strings; what is none is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    options.run(main)
