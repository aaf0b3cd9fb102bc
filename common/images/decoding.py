"""The images of a run: decoding them, and cutting crops where more samples are wanted than there are."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from common.cli import environment
from common.cli.options import ImageChoice
from common.errors import UserError, first_line
from common.images import finding, formats, modes
from common.images.modes import Stored
from common.images.remarks import FRAMES, ImagesReport, Remarks
from common.log.writer import RunLog
from common.stand_ins import stand_in

SMALLEST_CROP = 0.5  # of the image's width and height
MAX_ASPECT_RATIO = 500  # the short side is resized to the model's size: a longer image would take gigabytes
PROGRAMS = ("EPS",)  # which a PostScript interpreter would run
ORIENTATION = 274  # a tag of EXIF
# By its values, how an image becomes upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NEW_SUBFILE_TYPE, PREVIEW = 254, 1  # a tag of TIFF, and the bit of a reduced-resolution version of another image
# What Pillow's decoders raise for damaged files, beside the errors that it documents.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)

Box = tuple[float, float, float, float]


class ImageError(UserError):
    """An image that can't be taken: the message is its path and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason.replace(str(path), path.name)  # libraries name the whole path
        super().__init__(f"{path} {reason}")


@dataclass(frozen=True)
class Sample:
    """An image file, or a crop of it. `crop` is (left, top, right, bottom) as fractions of width and height.

    `found` says that it was found in a folder, and not named by the user.
    """

    name: str
    path: Path
    crop: Box | None = None
    found: bool = False

    def load(self) -> Image.Image:
        """Decode to RGB, upright by its EXIF orientation; `info` has what was taken and changed (see Remarks).

        Raises ImageError for a file that is no whole image, or one that takes too much memory.
        """
        formats.register_plugins()
        try:
            if not self.path.is_file():  # to open a FIFO would wait for its writer
                raise ImageError(self.path, f"is {'no regular file' if self.path.exists() else 'not there'}")
            with warnings.catch_warnings(action="ignore"), Image.open(self.path) as file:
                _require_fit(self.path, file)
                stored = Stored.of(file)
                image = modes.to_rgb(_upright(file), stored)
                frames = _count_frames(file)
        except DECODING_ERRORS as error:
            instead = stand_in(self.path)
            reason = f"it {instead}" if instead else first_line(error)
            raise ImageError(self.path, f"can't be decoded as an image: {reason}") from error
        info = image.info | ({FRAMES: frames} if frames > 1 else {})
        if self.crop is not None:
            left, top, right, bottom = self.crop
            width, height = image.size
            image = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        image.info = info
        return image

    def is_optional(self, strict: bool) -> bool:
        """Whether a run goes on without it where it can't be decoded."""
        return self.found and not strict

    def sha256(self) -> str:
        """Of the file's bytes, and of the crop where there is one."""
        digest = hashlib.sha256(self.path.read_bytes())
        if self.crop is not None:
            digest.update(repr(self.crop).encode())
        return digest.hexdigest()


def _require_fit(path: Path, file: Image.Image) -> None:
    """Raise ImageError, before it is decoded, for an image that would take gigabytes or run a program.

    Pillow itself refuses more than 179 million pixels, and only warns of more than half of them.
    """
    width, height = file.size
    if file.format in PROGRAMS:
        raise ImageError(path, f"is {file.format}, a program and no image")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(path, f"is {width} x {height}, more than {MAX_ASPECT_RATIO} times as long as wide")
    if getattr(file, "tag_v2", {}).get(NEW_SUBFILE_TYPE) == PREVIEW:
        raise ImageError(path, f"holds a preview of another image first, {width} x {height}, as raw photos do")


def _upright(file: Image.Image) -> Image.Image:
    """Turned by its EXIF orientation, of which no more is read: what else is broken there concerns no pixel.

    (Pillow's own `exif_transpose` writes all of the EXIF anew, and fails at what can't be written.)
    """
    file.load()  # a TIFF turns itself
    try:
        turn = TURNS.get(file.getexif().get(ORIENTATION, 1))
    except Exception:  # metadata from elsewhere can make Pillow raise anything
        return file
    return file if turn is None else file.transpose(turn)


def _count_frames(file: Image.Image) -> int:
    """Of an animation or the pages of a TIFF; a phone's photo with a preview (MPO) is one image."""
    try:
        return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    except DECODING_ERRORS:  # the first frame is whole
        return 1


def find_samples(paths: Sequence[Path] | None, log: RunLog | None = None, strict: bool = False) -> list[Sample]:
    """The images of the files and folders that `paths` name, by default one real photo.

    What is passed over in the folders is printed and recorded in `log`, and the default printed. Raises UserError as
    `finding.search` does, and with `strict` for a folder that can't be searched.
    """
    files, passed = finding.search(paths or [default_photo()])
    if strict and passed.closed:
        name, reason = next(iter(passed.closed.items()))
        raise UserError(f"the folder {name} can't be searched: {reason}")
    if log:
        passed.report(log)
        if not paths:
            log.line(f"Image: {files[0][0]}, the photo that comes with matplotlib; --image names others")
    return [Sample(name, path, found=found) for name, path, found in files]


def sample_exactly(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """The first `count` of `samples`; where they are fewer, seeded crops of each in turn follow them."""
    chooser = random.Random(seed)
    chosen = list(samples[:count])
    while len(chosen) < count:
        source = samples[len(chosen) % len(samples)]
        number = len(chosen) // len(samples)
        chosen.append(Sample(f"{source.name} crop {number}", source.path, _random_box(chooser)))
    return chosen


@dataclass(frozen=True)
class Decoded:
    """Samples with their images, and why others that were found in a folder are left out, by their names."""

    samples: list[Sample] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def report(self, log: RunLog) -> None:
        remarks, images = Remarks(), ImagesReport(log)
        for sample, image in zip(self.samples, self.images, strict=True):
            if sample.crop is None:  # a crop is of one that has been told of
                remarks.note(sample.name, image)
        images.add(remarks, self.skipped)
        images.finish()


@dataclass(frozen=True)
class Images:
    """The images that are wanted, found and not yet decoded."""

    samples: Sequence[Sample]
    wanted: ImageChoice

    @classmethod
    def find(cls, log: RunLog, wanted: ImageChoice) -> Images:
        return cls(find_samples(wanted.paths, log, wanted.strict), wanted)

    def decode(self, count: int) -> Decoded:
        """So many of them; what was left out or changed is not yet reported."""
        return decode_exactly(self.samples, count, self.wanted.seed, self.wanted.strict)


def take(log: RunLog, wanted: ImageChoice, count: int) -> Decoded:
    """`count` decoded images of those that are wanted; what was left out or changed is reported."""
    decoded = Images.find(log, wanted).decode(count)
    decoded.report(log)
    return decoded


def decode_exactly(samples: Sequence[Sample], count: int, seed: int, strict: bool) -> Decoded:
    """As `sample_exactly`, of those that can be decoded.

    Raises UserError where none can, for one that the user named, and with `strict` for any that can't.
    """
    good: list[Sample] = []
    decoded: list[Image.Image] = []
    skipped: dict[str, str] = {}
    for sample in samples:
        if len(good) == count:
            break
        try:
            decoded.append(sample.load())
            good.append(sample)
        except ImageError as error:
            if not sample.is_optional(strict):
                raise
            skipped[sample.name] = error.reason
    if not good:
        raise UserError(f"none of the {len(samples)} images could be decoded")
    chosen = sample_exactly(good, count, seed)
    return Decoded(chosen, [*decoded, *(sample.load() for sample in chosen[len(good) :])], skipped)


def files_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 over the images' names and sizes, not their contents: a folder that changed is not continued."""

    def size_of(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except OSError:  # a link to nowhere, which will be left out
            return None

    known = [(sample.name, size_of(sample.path)) for sample in samples]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def default_photo() -> Path:
    """A real photo that a dependency ships: matplotlib's portrait of Grace Hopper. Not an import of matplotlib."""
    folder = environment.package_folder("matplotlib")
    photo = folder / "mpl-data" / "sample_data" / "grace_hopper.jpg" if folder else None
    if photo is None or not photo.is_file():
        raise UserError("matplotlib's sample photo is not there: pip install matplotlib, or name an image with --image")
    return photo


def _random_box(chooser: random.Random) -> Box:
    width, height = chooser.uniform(SMALLEST_CROP, 1), chooser.uniform(SMALLEST_CROP, 1)
    left, top = chooser.uniform(0, 1 - width), chooser.uniform(0, 1 - height)
    return left, top, left + width, top + height
