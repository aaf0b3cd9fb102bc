"""What was compared so far, in files of some images each: a run that is cut leaves whole ones to go on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.accuracy.reference import Expected
from common.features.files import Parts
from common.images.remarks import Remarks
from common.log import schema
from common.log.events import Repeat, Sample

PART_IMAGES = 64  # at most, but at least one batch


def _none() -> np.ndarray:
    return np.empty((0, 0), np.float32)


@dataclass
class Compared:
    """Images that were compared, in order: their samples against every reference, one image after another, and both
    sides' embeddings [N, D] in float32, the reference's in its first precision.

    `skipped` says why some are not there, `remarks` what was taken of the others and changed. `floors` is the largest
    relative_l2 of each output of the CPU's float32 against its float64. Beside the first image of all stand its
    `repeats` and what 16 bits are expected to cost.
    """

    reference: np.ndarray = field(default_factory=_none)
    candidate: np.ndarray = field(default_factory=_none)
    names: list[str] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    floors: dict[str, float | None] = field(default_factory=dict)
    repeats: Sequence[Repeat] = ()
    expected: Expected = field(default_factory=dict)


class ComparedParts(Parts):
    """The parts of one accuracy run, by the range of its batches."""

    def write(self, batches: range, part: Compared) -> None:
        about = {
            "names": part.names,
            "sha256": part.sha256,
            "samples": [schema.encode(sample) for sample in part.samples],
            "skipped": part.skipped,
            "floors": part.floors,
            "repeats": [schema.encode(repeat) for repeat in part.repeats],
            "expected": part.expected,
        }
        metadata = {key: json.dumps(value) for key, value in about.items()} | {"remarks": part.remarks.to_json()}
        self.save(batches, {"reference": part.reference, "candidate": part.candidate}, metadata)

    def read(self, batches: range) -> Compared:
        with self.opened(batches) as opened:
            metadata = opened.metadata()
            remarks = Remarks.from_json(metadata.pop("remarks"))
            about = {key: json.loads(value) for key, value in metadata.items()}
            about["samples"] = [schema.decode(Sample, sample) for sample in about["samples"]]
            about["repeats"] = [schema.decode(Repeat, repeat) for repeat in about["repeats"]]
            tensors = {name: opened.get_tensor(name) for name in ("reference", "candidate")}
            return Compared(**tensors, **about, remarks=remarks)
