"""A reference in a file, for other runs and machines.

A saved reference is a safetensors file. It holds the pixel values too, so that the preprocessing of another machine
can't differ and the images need not be there: `pixel_values` [N, 3, H, W], and of each precision `embedding.float32`
[N, D] and `hidden_state.float32` [N, T, C]. Its metadata say what it is of and what made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.accuracy.reference import EXPECTED_DTYPES, Expected, Reference, References, join
from common.cli import environment
from common.device.devices import Outputs, dtype_name
from common.encoder.base import Encoder
from common.errors import UserError, first_line
from common.images.batching import Batch
from common.images.decoding import Decoded, Sample
from common.log import schema
from common.log.events import OUTPUTS, PACKAGES, ReferenceSource
from common.log.whole_files import aside
from common.log.writer import RunLog, code_sha256, git_commit
from common.stand_ins import stand_in

KIND = "accuracy_run.py reference"
FORMAT = 1
ABOUT = ("model", "precisions", "preprocess", "versions", "code_sha256", "git")  # what a run's log repeats


@dataclass(frozen=True)
class Saved:
    """A reference from a file, and what the file says of it."""

    reference: Reference
    path: Path
    file_sha256: str
    about: dict[str, Any]

    def report(self, log: RunLog) -> None:
        """Print and record that the reference was not computed in this run, and what computed it."""
        versions = self.about["versions"]
        made_by = f"torch {versions.get('torch')}, {versions.get('platform')}"
        log.line(f"Reference: {', '.join(self.reference.outputs)}, saved in {self.path.name} by {made_by}")
        about = {key: self.about[key] for key in ABOUT}
        log.record(ReferenceSource(file=self.path.name, file_sha256=self.file_sha256, **about))


@dataclass
class Saving:
    """All of a reference that is to be saved, batch by batch; outputs on the device are used where they are float32."""

    pixel_values: list[Tensor] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    image_sha256: list[str] = field(default_factory=list)
    outputs: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=dict)

    def add(self, batch: Batch, references: References, outputs: Outputs) -> None:
        """A run in float32 on the CPU was held to float64, and is itself the reference in float32."""
        self.pixel_values.append(batch.pixel_values)
        self.images += batch.names
        self.image_sha256 += batch.sha256
        own = {} if "float32" in references else {"float32": outputs}
        for precision, known in (own | references).items():
            self.outputs.setdefault(precision, []).append(known)

    def reference(self, expected: Expected) -> Reference:
        outputs: dict[str, Any] = {precision: join(batches) for precision, batches in self.outputs.items()}
        return Reference(torch.cat(self.pixel_values), self.images, self.image_sha256, outputs, expected)


def save(log: RunLog, path: Path, reference: Reference, encoder: Encoder) -> None:
    """Write a reference, under a temporary name first: a cut run leaves no half file."""
    tensors = {"pixel_values": reference.pixel_values}
    for precision, outputs in reference.outputs.items():
        tensors |= {f"{name}.{precision}": output for name, output in zip(OUTPUTS, outputs, strict=True)}
    host = schema.encode(environment.describe_host())
    about = {
        "precisions": list(reference.outputs),
        "model": encoder.model,
        "weights_sha256": encoder.weights_sha256,
        "preprocess": encoder.preprocessing,
        "images": reference.images,
        "image_sha256": reference.image_sha256,
        "expected_relative_l2": reference.expected_relative_l2,
        "versions": {key: host[key] for key in ("python", "platform", *PACKAGES)},
        "code_sha256": code_sha256(),
        "git": git_commit(),
    }
    metadata = {"kind": KIND, "format": str(FORMAT), "about": json.dumps(about)}
    with aside(path, SafetensorError) as new:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, new, metadata)
    log.line(f"Saved reference: {path.name} ({', '.join(reference.outputs)})")


def load(
    log: RunLog, path: Path, encoder: Encoder, precisions: Sequence[str], count: int | None, decoded: Decoded
) -> Reference:
    """The first `count` samples of a saved reference of this encoder, in these precisions; the log says that it is one.

    All of them without a `count`. `decoded` are the images that the user named, none where the file's own are meant.
    Raises UserError for a file that is no whole reference, is of other weights, lacks a precision, or holds fewer
    samples or others than those named.
    """
    saved = read(path, encoder, precisions, count, decoded.samples)
    saved.report(log)
    return saved.reference


def read(
    path: Path, encoder: Encoder, precisions: Sequence[str], count: int | None, samples: Sequence[Sample]
) -> Saved:
    """As `load`, without a word in the log."""
    tensors, about = _read(path)
    _require_encoder(path, encoder, about, list(tensors["pixel_values"].shape[1:]))
    found = len(about["images"])
    if count is not None and found < count:
        raise UserError(f"{path} holds {found} samples, not {count}; without --samples all of them are compared")
    lacking = [precision for precision in precisions if precision not in about["precisions"]]
    if lacking:
        raise UserError(
            f"{path} holds no {lacking[0]} reference, only {', '.join(about['precisions'])}; "
            "--golden beside --save-reference saves float64 too"
        )
    for sample, name, sha256 in zip(samples, about["images"], about["image_sha256"], strict=False):
        if sample.sha256() != sha256:
            raise UserError(
                f"{path} is a reference of other images: its {name} differs from {sample.name} as --image and --seed "
                "give it; without --image it brings its own"
            )
    outputs = {p: (tensors[f"{OUTPUTS[0]}.{p}"][:count], tensors[f"{OUTPUTS[1]}.{p}"][:count]) for p in precisions}
    pixel_values, names, hashes = tensors["pixel_values"], about["images"], about["image_sha256"]
    expected = about["expected_relative_l2"]
    reference = Reference(pixel_values[:count], names[:count], hashes[:count], outputs, expected)
    with path.open("rb") as file:
        return Saved(reference, path, hashlib.file_digest(file, "sha256").hexdigest(), about)


def _require_encoder(path: Path, encoder: Encoder, about: dict[str, Any], image: list[int]) -> None:
    """Raise UserError unless a reference is of these weights and of images that this encoder takes."""
    if about["weights_sha256"] != encoder.weights_sha256:
        raise UserError(
            f"{path} is a reference of other weights: of {about['model']}, weights_sha256 "
            f"{str(about['weights_sha256'])[:12]}..., not {encoder.weights_sha256[:12]}..."
        )
    if image != encoder.input_size:
        raise UserError(f"{path} holds images of {image}, but {encoder.model} takes {encoder.input_size}")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the file and what it says of itself; both are those of a whole reference."""
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} {stand_in(path) or f'is no whole safetensors file: {first_line(error)}'}") from error
    if metadata.get("kind") != KIND:
        raise UserError(f"{path} is no reference that --save-reference has written")
    if metadata.get("format") != str(FORMAT):
        raise UserError(f"{path} has the format {metadata.get('format')}, this program reads {FORMAT}")
    try:
        about = json.loads(metadata.get("about", ""))
    except ValueError:
        about = None
    if not _is_whole(tensors, about):
        raise UserError(f"{path} is a damaged reference: its tensors and metadata do not fit each other")
    return tensors, about


def _is_whole(tensors: dict[str, Tensor], about: Any) -> bool:
    """Whether every sample has a name, a hash, pixel values, and each output in each precision in that very dtype."""
    keys = {*ABOUT, "weights_sha256", "images", "image_sha256", "expected_relative_l2"}
    if not isinstance(about, dict) or not keys <= set(about) or not isinstance(about["versions"], dict):
        return False
    expected = about["expected_relative_l2"]
    if not isinstance(expected, dict) or not all(isinstance(expected.get(name), dict) for name in EXPECTED_DTYPES):
        return False
    lists = [about[key] for key in ("precisions", "images", "image_sha256")]
    if not all(isinstance(items, list) and items and all(isinstance(item, str) for item in items) for items in lists):
        return False
    wanted = {"pixel_values": ("float32", 4)}
    for precision in about["precisions"]:
        wanted |= {f"embedding.{precision}": (precision, 2), f"hidden_state.{precision}": (precision, 3)}
    found = {name: (dtype_name(tensor.dtype), tensor.ndim) for name, tensor in tensors.items()}
    lengths = {len(about["images"]), len(about["image_sha256"])}
    return found == wanted and {len(tensor) for tensor in tensors.values()} == lengths and len(lengths) == 1
