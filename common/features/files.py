"""Features on their way to a file: parts of some batches, written aside, joined when all are there.

A part is a safetensors file whose name says which batches it holds. A run that is cut leaves whole parts, from which
the next one goes on; batches have the same images however many ranks share them, so that the joined file is the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.cli.options import EMBEDDING
from common.errors import UserError
from common.images.remarks import Remarks
from common.log.whole_files import aside
from common.log.writer import RunLog

PART_IMAGES = 1024  # at most, but at least one batch
PARTS_A_RANK = 8  # at least, where there are as many batches: ranks then end at about the same time
MANIFEST = "about.json"
FORMAT = 2  # of the parts: those of another one are not continued
# A safetensors file's header ends here; no reader opens a longer one (MAX_HEADER_SIZE in the library's tensor.rs). What
# else it says of the features has to fit too.
LONGEST_HEADER = 100_000_000  # bytes
LONGEST_NAMES = LONGEST_HEADER - 1_000_000
SHA256_BYTES = 32
NAMES = "images"  # the key of the names in what a feature file says of itself
BATCHES_A_PART = "batches_a_part"
HASHES = "image_sha256"  # the key of the images' hashes: a tensor [N, 32] of bytes, or in JSON a list of texts
RUN = "run"  # the key of what made the file: records of that run, and its code
FEATURES = "features"  # the key of --features, where it is not the default


@dataclass(frozen=True)
class Part:
    """Embeddings [N, D] in float32 of images in order, and their names and hashes.

    `skipped` says why some are not there, `remarks` what was taken of the others and changed.
    """

    embeddings: np.ndarray
    names: list[str]
    sha256: list[str]
    skipped: dict[str, str]
    remarks: Remarks = field(default_factory=Remarks)

    @classmethod
    def joined(cls, parts: Sequence[Part]) -> Part:
        """One part from those of batches; of a batch without images the embeddings' width is unknown."""
        embeddings = [part.embeddings for part in parts if part.names] or [parts[0].embeddings]
        names, sha256 = ([text for part in parts for text in getattr(part, key)] for key in ("names", "sha256"))
        skipped = {name: reason for part in parts for name, reason in part.skipped.items()}
        remarks = Remarks()
        for part in parts:
            remarks.add(part.remarks)
        return cls(np.concatenate(embeddings), names, sha256, skipped, remarks)


class Parts:
    """Parts of what a run makes, each of a range of its batches, in a folder from which the next run can go on."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """`about` is what the parts are of: those of anything else are not continued."""
        self.folder, self.about = folder, about

    def start(self, resume: bool) -> dict[str, Any] | None:
        """Make the folder; where parts of an earlier run are in it, which `resume` asks to continue, its `about`.

        Raises UserError where they are of another run.
        """
        manifest = self.folder / MANIFEST
        if resume and manifest.is_file():
            earlier: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            different = [key for key in self.compared if earlier.get(key) != json.loads(json.dumps(self.about[key]))]
            if different:
                raise UserError(f"--resume: {self.folder} is of another run ({', '.join(different)} differ)")
            return earlier
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"{self.folder} can't be written: {error.strerror}") from error
        with aside(manifest) as new:
            new.write_text(json.dumps(self.about), encoding="utf-8")
        return None

    @property
    def compared(self) -> list[str]:
        """The keys of what must be the same in a run that goes on."""
        return list(self.about)

    def is_done(self, batches: range) -> bool:
        return self._file(batches).is_file()

    def save(self, batches: range, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        with aside(self._file(batches), SafetensorError) as new:
            save_file(tensors, new, metadata)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    @contextmanager
    def opened(self, batches: range) -> Iterator[Any]:
        """A part's safetensors file. Raises UserError where it is not whole."""
        file = self._file(batches)
        try:
            with safe_open(file, "np") as opened:
                yield opened
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise UserError(f"{file} is no whole part; remove it, and --resume makes it again") from error

    def _file(self, batches: range) -> Path:
        return self.folder / f"{batches.start:08}-{batches.stop:08}.safetensors"


class FeatureParts(Parts):
    """The parts of one feature file, in a folder beside it."""

    def __init__(self, path: Path, batches: int, batch_size: int, ranks: int, about: dict[str, Any]) -> None:
        """`about` is what the features are of."""
        self.path = path
        self.batches = batches
        batches_a_part = max(1, min(-(-batches // (ranks * PARTS_A_RANK)), PART_IMAGES // batch_size))
        settings = {"format": FORMAT, **about, "batch_size": batch_size, "batches": batches}
        super().__init__(path.with_name(path.name + ".parts"), {**settings, BATCHES_A_PART: batches_a_part})

    @property
    def compared(self) -> list[str]:
        """All but how the batches were shared out: that of the run before goes on."""
        return [key for key in self.about if key != BATCHES_A_PART]

    @property
    def beside(self) -> Path:
        """The file that has the names where the feature file can't."""
        return self.path.with_suffix(".json")

    def require_room(self, log: RunLog, names: Sequence[str]) -> None:
        """Say where the names will go; raises UserError, before hours of work, where nothing can be written there."""
        if self.path.suffix == ".safetensors":
            if fit_in_header(names):
                return
            log.line(
                f"The names of {len(names):,} images are more than the {LONGEST_HEADER:,} bytes of a safetensors "
                f"header: they go to {self.beside.name}, beside it"
            )
        if self.beside.is_dir():
            raise UserError(f"{self.beside} can't be written: it is a folder")

    def start(self, resume: bool) -> dict[str, Any] | None:
        earlier = super().start(resume)
        self.about = earlier or self.about
        return earlier

    def ranges(self) -> list[range]:
        """The batches of each part."""
        step = self.about[BATCHES_A_PART]
        return [range(start, min(start + step, self.batches)) for start in range(0, self.batches, step)]

    def write(self, batches: range, part: Part) -> None:
        about = {"names": part.names, "sha256": part.sha256, "skipped": part.skipped}
        metadata = {**{key: json.dumps(value) for key, value in about.items()}, "remarks": part.remarks.to_json()}
        if sum(len(json.dumps(value)) for value in metadata.values()) > LONGEST_NAMES:
            raise UserError(
                "the names of a batch's images are more than a safetensors header holds: a smaller --batch-size"
            )
        self.save(batches, {"embedding": part.embeddings}, metadata)

    def read(self, batches: range) -> Part:
        with self.opened(batches) as opened:
            metadata = opened.metadata()
            remarks = Remarks.from_json(metadata.pop("remarks"))
            about = {key: json.loads(value) for key, value in metadata.items()}
            return Part(opened.get_tensor("embedding"), remarks=remarks, **about)

    def join(self, about: dict[str, Any]) -> tuple[int, int]:
        """Write the feature file from its parts, one in memory at a time, and remove them; its shape [N, D]."""
        names, hashes, skipped, width = [], [], [], 0
        for batches in self.ranges():
            with self.opened(batches) as opened:
                names += json.loads(opened.metadata()["names"])
                hashes += json.loads(opened.metadata()["sha256"])
                skipped += json.loads(opened.metadata()["skipped"])
                width = max(width, opened.get_slice("embedding").get_shape()[1])
        if not names:
            raise UserError(f"none of the images could be decoded: no {self.path}")
        shape = (len(names), width)
        about = {NAMES: names, **about}
        has_beside = self.path.suffix == ".npy" or not fit_in_header([*names, *skipped])  # as was said at the start
        with aside(self.path) as new:
            with new.open("wb") as file:
                if self.path.suffix == ".npy":
                    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                else:
                    elsewhere = {"images_file": self.beside.name} if has_beside else {}
                    file.write(safetensors_header(shape, {**about, **elsewhere}, hashed=True))
                for batches in self.ranges():
                    file.write(self.read(batches).embeddings.astype("<f4").tobytes())
                if self.path.suffix != ".npy":
                    file.write(bytes.fromhex("".join(hashes)))
            if has_beside:
                named = {NAMES: names, HASHES: hashes, **about} if self.path.suffix == ".npy" else about
                with aside(self.beside) as beside:
                    beside.write_text(json.dumps(named, indent=1), encoding="utf-8")
        self.remove()
        return shape


def require_same_kind(path: Path, features: str) -> None:
    """Raise UserError where a finished feature file was made with another --features than is wanted now.

    One that does not say it, or can't be read, has the default.
    """
    found = _about(path).get(FEATURES, EMBEDDING)
    if found != features:
        raise UserError(
            f"--resume: {path} is finished, with --features {found}, not {features}: name another --output, or leave "
            "--resume away to overwrite it"
        )


def _about(path: Path) -> dict[str, Any]:
    """What a feature file says of itself; of one that is not whole nothing."""
    try:
        if path.suffix == ".npy":
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        else:
            with safe_open(path, "np") as opened:
                about = opened.metadata()
    except (OSError, SafetensorError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def safetensors_header(shape: tuple[int, int], about: dict[str, Any], hashed: bool = False) -> bytes:
    """What stands before the data of a safetensors file with the tensor `embedding`, in float32, and, where it is
    `hashed`, the images' SHA-256 behind it.

    The library itself writes whole tensors from memory only. The format: a length in 8 bytes, then JSON, padded to 8.
    Names that do not fit are not in it: they have to go elsewhere.
    """
    if not fit_in_header(about.get(NAMES, ())):
        about = {key: value for key, value in about.items() if key != NAMES}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    end = 4 * shape[0] * shape[1]
    tensors: dict[str, Any] = {EMBEDDING: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
    if hashed:
        offsets = [end, end + SHA256_BYTES * shape[0]]
        tensors[HASHES] = {"dtype": "U8", "shape": [shape[0], SHA256_BYTES], "data_offsets": offsets}
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def fit_in_header(names: Sequence[str]) -> bool:
    """Whether a safetensors header has room for them: as JSON, within the JSON of the header."""
    return len(json.dumps(json.dumps(names))) <= LONGEST_NAMES
