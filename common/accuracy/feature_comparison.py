"""Feature files as a reference, and as the device's side too: embeddings alone, of the same images and weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.accuracy.comparison import compare_outputs
from common.accuracy.findings import Comparison, Embeddings, Findings
from common.accuracy.parts import Compared
from common.accuracy.reference import Expected, References, expect_errors
from common.cli.options import EMBEDDING, POOLED
from common.device import devices
from common.encoder.base import Encoder, OwnClasses
from common.errors import UserError
from common.features import reading
from common.features.reading import FeatureFile
from common.images.batching import Batch
from common.images.decoding import ImageError, Sample
from common.images.remarks import Remarks
from common.log import schema
from common.log.events import FEATURES, PACKAGES, CandidateSource, Computed, ReferenceSource
from common.log.formulas import proves_nothing
from common.log.writer import RunLog
from common.session import Session

ROWS = 1000  # compared at once
NOT_COMPARED = "The hidden state is not compared: feature files have none"


@dataclass(frozen=True)
class FromFeatures:
    """The embeddings of a feature file as the reference of images that the device encodes.

    `module`, the encoder on the CPU, tells what the 16-bit dtypes in `rounded` are expected to lose.
    """

    file: FeatureFile
    module: nn.Module
    rounded: Collection[str]
    precisions: tuple[str, ...] = (FEATURES,)

    def of(self, batch: Batch) -> References:
        """Raises UserError for an image that is not the file's."""
        rows = [require_row(self.file, name, sha256) for name, sha256 in zip(batch.names, batch.sha256, strict=True)]
        return {FEATURES: (torch.from_numpy(self.file.embeddings[rows]),)}

    def expect(self, pixel_values: Tensor, plain: Sequence[Tensor]) -> Expected:
        return {dtype: expect_errors(self.module, pixel_values, plain, dtype) for dtype in self.rounded}


def require_row(file: FeatureFile, name: str, sha256: str) -> int:
    """Where an image is in a file. Raises UserError where it is not, or has other contents there."""
    row = file.rows.get(name)
    if row is None:
        raise UserError(f"{file.path} lacks an image: {name}")
    if file.hashes_of(slice(row, row + 1)) != [sha256]:
        raise UserError(f"{file.path} is of other images: its {name} has another SHA-256")
    return row


def load_reference(
    log: RunLog, path: Path, encoder: Encoder, running: Session, rounded: Collection[str]
) -> FromFeatures:
    """A feature file as the reference of what `running` computes; the log says that it is one.

    Raises UserError for a file of other weights, preprocessing or features, or of the same computation.
    """
    file = reading.read(path)
    wanted = {
        "weights": encoder.weights_sha256,
        "preprocessing": encoder.preprocessing,
        "features": POOLED if encoder.pooled else EMBEDDING,
        "embedding": encoder.embedding_is,
    }
    _require_same(file, f"--model {encoder.model}", _facts(file), wanted)
    computes = Computed(
        device=str(running.device),
        device_name=devices.describe_device(running.device),
        simulated=False,
        dtype=devices.dtype_name(running.dtype),
        numerics=running.numerics.mode,
    )
    _require_another(file, "this run", file.computed, computes)
    _report_reference(log, file)
    return FromFeatures(file, encoder.module, rounded)


def require_images(file: FeatureFile, samples: Sequence[Sample], every: bool) -> None:
    """Raise UserError, before hours of work, for images that the file lacks, and with `every` for others in it.

    Images that can't be decoded are in no file.
    """
    for sample in samples:
        if sample.name not in file.rows:
            try:
                sample.load()
            except ImageError:
                continue
            raise UserError(f"{file.path} lacks an image of --image: {sample.name}")
    names = {sample.name for sample in samples}
    others = [name for name in file.names if name not in names] if every else []
    if others:
        raise UserError(
            f"{file.path} has {len(others)} images that --image has not, the first {others[0]}; --samples N compares "
            "the first N of --image"
        )


def compare(
    log: RunLog, reference: Path, candidate: Path, count: int, threshold: float, typed: Mapping[str, str]
) -> tuple[Comparison, Pairing]:
    """The embeddings of two feature files, the first `count` of the candidate's, or with 0 all; no encoder runs.

    `typed` is what the command line says of the device's side. Raises UserError, in one line, for files that are not of
    the same weights, preprocessing and images, of the same computation, or of another one than is typed.
    """
    r, y = reading.read(reference), reading.read(candidate)
    _require_typed(y, typed)
    _require_same(r, str(y.path), _facts(r), _facts(y))
    _require_another(r, str(y.path), r.computed, y.computed)
    if r.embeddings.shape[1] != y.embeddings.shape[1]:
        raise UserError(
            f"{r.path} has embeddings of {r.embeddings.shape[1]} values, {y.path} of {y.embeddings.shape[1]}"
        )
    pairing = Pairing(r, y, count)
    pairing.require_same_images(log)
    _report_reference(log, r)
    _report_candidate(log, y)
    found = Findings(log, [FEATURES])
    device, dtype = y.env.device, y.model.dtype
    with tqdm(total=len(pairing), unit="image", disable=None) as bar:
        for start in range(0, len(pairing), ROWS):
            rows = slice(start, min(start + ROWS, len(pairing)))
            batch = Batch(list(y.names[rows]), y.hashes_of(rows), torch.empty(0), {}, None, Remarks())
            both = [torch.from_numpy(np.array(each)) for each in (pairing.reference_rows(rows), y.embeddings[rows])]
            samples = compare_outputs(batch, {FEATURES: (both[0],)}, (both[1],), (device, dtype), start)
            found.add(Compared(samples=samples))
            bar.update(len(batch.names))
    classifier = y.model.classifier and y.kind == EMBEDDING
    result = found.finish(dtype, y.model.numerics, threshold, classifier)
    return result, pairing


@dataclass(frozen=True)
class Pairing:
    """Which image of one file is which of another's: of the first `count` of the candidate's, or with 0 of all."""

    reference: FeatureFile
    candidate: FeatureFile
    count: int

    def __len__(self) -> int:
        return self.count or len(self.candidate.names)

    @property
    def dtype(self) -> str:
        """That the device's side was computed in."""
        return self.candidate.model.dtype

    @property
    def classes(self) -> OwnClasses | None:
        """A classifier's, whose names a file does not hold; None where the embeddings are no logits."""
        file = self.candidate
        if not file.model.classifier or file.kind != EMBEDDING:
            return None
        return OwnClasses(file.embeddings.shape[1], lambda index: None)

    def require_same_images(self, log: RunLog) -> None:
        """Raise UserError for an image that only one has, or that has other contents in the other; say where their
        order is another.
        """
        r, y, count = self.reference, self.candidate, len(self)
        if count > len(y.names):
            raise UserError(f"{y.path} holds {len(y.names)} images, not {count}")
        names = y.names[:count]
        missing = [name for name in names if name not in r.rows]
        if missing:
            raise UserError(f"{r.path} lacks {len(missing)} of the {count} images of {y.path}, the first {missing[0]}")
        if not self.count and len(r.names) > count:
            missing = [name for name in r.names if name not in y.rows]
            raise UserError(
                f"{y.path} lacks {len(missing)} of the {len(r.names)} images of {r.path}, the first {missing[0]}; "
                "--samples N compares its first N"
            )
        for start in range(0, count, ROWS):
            rows = slice(start, min(start + ROWS, count))
            hashes = r.hashes[rows if self.order is None else self.order[rows]]
            other = np.flatnonzero((hashes != y.hashes[rows]).any(axis=1))
            if len(other):
                raise UserError(f"{r.path} is of other images than {y.path}: {names[start + int(other[0])]} differs")
        if self.order is not None:
            log.line(f"{r.name} has the images in another order: they are matched by their names")

    @cached_property
    def order(self) -> np.ndarray | None:
        """The reference's row of each image; None where they are in the candidate's order."""
        r, names = self.reference, self.candidate.names[: len(self)]
        if r.names[: len(self)] == names:
            return None
        return np.array([r.rows[name] for name in names])

    def reference_rows(self, rows: slice) -> np.ndarray:
        embeddings = self.reference.embeddings
        return embeddings[rows] if self.order is None else embeddings[self.order[rows]]

    @property
    def embeddings(self) -> Embeddings:
        """Both sides', mapped from the files where their order is the same, else the reference's in memory."""
        every = slice(0, len(self))
        y = self.candidate
        return Embeddings(y.names[every], y.hashes_of(every), self.reference_rows(every), y.embeddings[every])


# ------------------------------------------------------------------------------------------------- what must be so
def _facts(file: FeatureFile) -> dict[str, Any]:
    return {
        "weights": file.about["weights_sha256"],
        "preprocessing": file.about["preprocess"],
        "features": file.kind,
        "embedding": file.about.get("embedding_is"),
    }


def _require_same(file: FeatureFile, other: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise UserError for a file that is not of what `other` is of."""
    for key, value in ours.items():
        expected = json.loads(json.dumps(theirs[key]))
        if value != expected:
            shown = [str(each)[:12] + "..." * (len(str(each)) > 12) for each in (value, expected)]
            words = "" if key == "preprocessing" else f": {shown[0]}, not {shown[1]}"
            raise UserError(f"{file.path} is of other {key} than {other}{words}")


def _require_another(file: FeatureFile, other: str, ours: Computed, theirs: Computed) -> None:
    """Raise UserError where both were computed alike: comparing a thing with itself proves nothing."""
    if proves_nothing(ours, theirs):
        raise UserError(
            f"{file.path} was computed as {other} is ({_in_words(ours)}): comparing a thing with itself proves nothing"
        )


def _require_typed(file: FeatureFile, typed: Mapping[str, str]) -> None:
    """Raise UserError where the command line says another thing than the file."""
    found = {"model": file.model.model, "device": file.env.device, "dtype": file.model.dtype}
    found["numerics"] = file.model.numerics
    for key, value in typed.items():
        same = value in (found[key], found[key].partition(":")[0]) or (
            key == "model" and Path(value).name == Path(found[key]).name
        )
        if not same:
            raise UserError(f"{file.path} is of {key} {found[key]}, not of --{key} {value}")


# -------------------------------------------------------------------------------------------------------- what is said
def _in_words(computed: Computed) -> str:
    simulated = ", simulated" if computed.simulated else ""
    return f"{computed.device} {computed.device_name}{simulated}, {computed.dtype} {computed.numerics}"


def _report_reference(log: RunLog, file: FeatureFile) -> None:
    """Print and record what the reference is."""
    log.line(f"Reference: the embeddings in {file.name} ({_in_words(file.computed)})")
    log.line(NOT_COMPARED)
    host = schema.encode(file.env.host)
    log.record(
        ReferenceSource(
            file=file.name,
            file_sha256=file.sha256(),
            model=file.model.model,
            precisions=[FEATURES],
            preprocess=file.about["preprocess"],
            versions={key: host[key] for key in ("python", "platform", *PACKAGES)},
            code_sha256=file.code_sha256,
            git=file.git,
            computed=file.computed,
        )
    )


def _report_candidate(log: RunLog, file: FeatureFile) -> None:
    """Print and record what the device's side is, with the records of the run that made it."""
    log.line(f"Candidate: the embeddings in {file.name} ({_in_words(file.computed)})")
    made_by = {"code_sha256": file.code_sha256, "git": file.git}
    log.record(CandidateSource(file=file.name, file_sha256=file.sha256(), **made_by))  # type: ignore[arg-type]
    log.record(file.numerics)
    log.record(file.env)
    log.record(replace(file.model, references=[FEATURES]))
