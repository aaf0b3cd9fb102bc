"""Run a pretrained vision encoder on images, print what it sees, and save the embeddings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import environment
import options
from options import UserError
from runlog import RunLog

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from encoders import Encoder
    from images import Sample

SCRIPT = "inference.py"
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
        help="write the embeddings in input order: .safetensors, the image names in its metadata, or .npy, the names "
        "in a .json beside it",
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
        with options.import_errors():
            import torch

            import common
            import encoders
            import images

        device, dtype = common.select_device(args.device), getattr(torch, args.dtype)
        environment.write_check(args.log_dir, device=str(device), device_name=common.describe_device(device))
        samples = images.find_samples(args.image)
        encoder = encoders.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed)
        common.place(encoder.module, device, dtype)
        weights_sha256 = encoder.weights_sha256() if args.output else None
        log.record("model", **encoder.record(weights_sha256))

        embeddings = []
        for batch, embedding in embed(encoder, samples, args.batch_size, device, dtype, log):
            for sample, vector in zip(batch, embedding, strict=True):
                report_image(log, sample, vector, args.topk, encoder, alone=len(samples) == 1)
            embeddings.append(embedding)
        if args.output:
            write_features(args.output, torch.cat(embeddings), [s.name for s in samples], encoder, weights_sha256)
            log.line(f"Features: {args.output} {list(torch.cat(embeddings).shape)}")
    return options.EXIT_OK


def embed(
    encoder: Encoder,
    samples: Sequence[Sample],
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    log: RunLog,
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Yield (samples, embeddings [B, D] as float32 on the CPU) batch by batch, in the order of `samples`."""
    import torch
    from tqdm import tqdm

    import common

    starts = range(0, len(samples), batch_size)
    for start in tqdm(starts, unit="batch", disable=None if len(starts) > 1 else True):
        batch = samples[start : start + batch_size]
        pixel_values = torch.stack([encoder.preprocess(sample.load()) for sample in batch]).to(device, dtype)
        embedding, hidden_state = common.encode(encoder.module, pixel_values)
        if start == 0:
            common.record_environment(log, encoder.module, embedding)
            log.line(f"Model: {encoder.model}")
            log.line(f"Parameters: {encoder.params / 1e6:.1f}M")
            log.line(f"Device: {device} ({common.describe_device(device)})")
            log.line(f"Input shape: {list(pixel_values.shape)}")
            log.line(f"Output shape: {list(embedding.shape)}")
            log.line(f"Hidden state shape: {list(hidden_state.shape)}")
            log.line(f"Output dtype: {embedding.dtype}")
        yield batch, embedding.cpu().float()


def report_image(log: RunLog, sample: Sample, vector: Tensor, topk: int, encoder: Encoder, alone: bool) -> None:
    """Print and record the largest elements of one embedding [D]."""
    values, indices = vector.topk(min(topk, len(vector)))
    top = [
        {"index": index, "value": value, "label": encoder.label(index) if encoder.label else None}
        for index, value in zip(indices.tolist(), values.tolist(), strict=True)
    ]
    log.line()
    log.line(f"Top-{topk} outputs (index, value):" if alone else f"Top-{topk} outputs (index, value) of {sample.name}:")
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
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, embeddings.numpy())
            path.with_suffix(".json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        else:
            save_file({"embedding": embeddings}, partial, {key: _text(value) for key, value in about.items()})
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from error


def _text(value: object) -> str:
    """safetensors metadata holds strings; what is none is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    options.run(main)
