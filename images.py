"""The images of a run: finding and decoding them, and cutting crops where more samples are wanted than there are."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from options import UserError, first_line

SMALLEST_CROP = 0.5  # of the image's width and height
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
        """Decode to RGB, upright by its EXIF orientation. Raises UserError for a file that is no whole image."""
        try:
            with Image.open(self.path) as file:
                image = to_rgb(ImageOps.exif_transpose(file))
        except DECODING_ERRORS as error:
            raise UserError(f"{self.path} can't be decoded as an image: {first_line(error)}") from error
        if self.crop is None:
            return image
        left, top, right, bottom = self.crop
        width, height = image.size
        return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))

    def sha256(self) -> str:
        """Of the file's bytes, and of the crop where there is one."""
        digest = hashlib.sha256(self.path.read_bytes())
        if self.crop is not None:
            digest.update(repr(self.crop).encode())
        return digest.hexdigest()


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
        elif path.exists():
            samples.append(Sample(path.name, path))
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


def default_photo() -> Path:
    """A real photo that a dependency ships: matplotlib's portrait of Grace Hopper. Not an import of matplotlib."""
    folder = package_folder("matplotlib")
    photo = folder / "mpl-data" / "sample_data" / "grace_hopper.jpg" if folder else None
    if photo is None or not photo.is_file():
        raise UserError("matplotlib's sample photo is not there: pip install matplotlib, or name an image with --image")
    return photo


def package_folder(package: str) -> Path | None:
    """Where a package's files are, without an import of it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _random_box(chooser: random.Random) -> Box:
    width, height = chooser.uniform(SMALLEST_CROP, 1), chooser.uniform(SMALLEST_CROP, 1)
    left, top = chooser.uniform(0, 1 - width), chooser.uniform(0, 1 - height)
    return left, top, left + width, top + height


def _is_image(file: Path, folder: Path) -> bool:
    """By its name: one that Pillow has a reader for, and not hidden below `folder`."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN and file.is_file()
