"""The images of a run: finding and decoding them, and cutting crops where more samples are wanted than there are."""

from __future__ import annotations

import hashlib
import random
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from common.cli import environment
from common.cli.options import ImageChoice
from common.errors import UserError, first_line
from common.log.events import Animation, Skipped
from common.log.writer import RunLog

SMALLEST_CROP = 0.5  # of the image's width and height
MAX_ASPECT_RATIO = 500  # the short side is resized to the model's size: a longer image would take gigabytes
PROGRAMS = ("EPS",)  # which a PostScript interpreter would run
FRAMES = "frames"  # the key in an image's info that counts those of an animation
# What Pillow's decoders raise for damaged files, beside the errors that it documents.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)

Box = tuple[float, float, float, float]


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
        """Decode to RGB, upright by its EXIF orientation; of an animation the first frame, and their count in `info`.

        Raises UserError for a file that is no whole image, or one that takes too much memory.
        """
        if not self.path.is_file():  # to open a FIFO would wait for its writer
            raise UserError(f"{self.path} is no regular file")
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(self.path) as file:
                _require_fit(self.path, file)
                image = to_rgb(ImageOps.exif_transpose(file))
                frames = _count_frames(file)
        except DECODING_ERRORS as error:
            raise UserError(f"{self.path} can't be decoded as an image: {first_line(error)}") from error
        if self.crop is not None:
            left, top, right, bottom = self.crop
            width, height = image.size
            image = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        image.info = {FRAMES: frames} if frames > 1 else {}
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
    """Raise UserError, before it is decoded, for an image that would take gigabytes or run a program.

    Pillow itself refuses more than 179 million pixels, and only warns of more than half of them.
    """
    width, height = file.size
    if file.format in PROGRAMS:
        raise UserError(f"{path} is {file.format}, a program and no image")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UserError(f"{path} is {width} x {height}, more than {MAX_ASPECT_RATIO} times as long as wide")


def _count_frames(file: Image.Image) -> int:
    """Of an animation or the pages of a TIFF; a phone's photo with a preview (MPO) is one image."""
    try:
        return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    except DECODING_ERRORS:  # the first frame is whole
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; 16-bit greyscale is scaled to 8 bits, where Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (255 / 65535)).convert("L")
    return image.convert("RGB")


def find_samples(paths: Sequence[Path] | None) -> list[Sample]:
    """The image files that `paths` name, folders searched recursively in sorted order; by default one real photo.

    Raises UserError for a path that is not there and for a folder without images.
    """
    samples: list[Sample] = []
    for path in paths or [default_photo()]:
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if _is_image(file, path)]
            if not found:
                raise UserError(f"no images in the folder {path} (looked for names like *.jpg and *.png)")
            samples += [Sample(str(file.relative_to(path)), file, found=True) for file in found]
        elif path.is_file():
            samples.append(Sample(path.name, path))
        elif path.exists():
            raise UserError(f"{path} is no regular file")
        else:
            raise UserError(f"no such image: {path}")
    return samples


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
        report_skipped(log, self.skipped)
        pairs = zip(self.samples, self.images, strict=True)
        report_frames(log, {sample.name: image.info[FRAMES] for sample, image in pairs if FRAMES in image.info})


def take(log: RunLog, wanted: ImageChoice, count: int) -> Decoded:
    """`count` decoded images of those that are wanted; what was left out, and which are animations, is reported."""
    decoded = decode_exactly(find_samples(wanted.paths), count, wanted.seed, wanted.strict)
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
        except UserError as error:
            if not sample.is_optional(strict):
                raise
            skipped[sample.name] = str(error)
    if not good:
        raise UserError(f"none of the {len(samples)} images could be decoded")
    chosen = sample_exactly(good, count, seed)
    return Decoded(chosen, [*decoded, *(sample.load() for sample in chosen[len(good) :])], skipped)


def report_skipped(log: RunLog, skipped: Mapping[str, str]) -> None:
    """Print and record which images are left out, and why."""
    for name, reason in skipped.items():
        log.line(f"warning: {name} is left out: {reason}")
        log.record(Skipped(image=name, reason=reason))


def report_frames(log: RunLog, frames: Mapping[str, int]) -> None:
    """Print and record of which animations the first frame was taken."""
    for name, count in frames.items():
        log.line(f"{name} has {count} frames: the first is taken")
        log.record(Animation(image=name, frames=count))


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


def _is_image(file: Path, folder: Path) -> bool:
    """By its name: one that Pillow has a reader for, and not hidden below `folder`."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN and file.is_file()
