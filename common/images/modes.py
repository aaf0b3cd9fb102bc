"""RGB of 8 bits from every mode of Pillow, and what it cost: values that were scaled, transparency that was dropped.

Pillow's own conversion clips what has more than 8 bits: a float image of 0 to 1 comes out black, a 16-bit scan white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

# The keys in the info of what `to_rgb` gives.
SCALED = "scaled"  # a Scaling
TRANSPARENT = "transparent"  # True where a pixel was not opaque

# Ranges that formats have: a float of 0 to 1, 8 bits, 16 bits. An image that fills more than half of one is meant so.
FLOAT_RANGES = (1.0, 255.0, 65535.0)
INTEGER_RANGES = (255.0, 65535.0)
WITH_ALPHA, PREMULTIPLIED = ("LA", "PA", "RGBA"), {"La": "LA", "RGBa": "RGBA"}
ROWS = 256  # that are scaled at once: in float64 they take eight times an 8-bit image's memory
LEAST_OF_16_BITS = 64  # of 255: with less, an image of 16 bits uses no more than 14 of them
# Tags of TIFF, and values of theirs: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, (1,)


class Stored(NamedTuple):
    """What a file says of its values and Pillow does not heed: read before it is decoded."""

    white_is_zero: bool = False
    unsigned_32: bool = False  # which Pillow reads as signed
    colours_of_16: bool = False  # of which Pillow keeps the upper eight bits

    @classmethod
    def of(cls, file: Image.Image) -> Stored:
        tags = getattr(file, "tag_v2", {})
        deep = file.mode == "F" or file.mode.startswith("I")
        raw_modes = [str(part) for tile in getattr(file, "tile", ()) for part in _parts(tile[3])]
        return cls(
            white_is_zero=deep and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
            unsigned_32=tags.get(BITS_PER_SAMPLE) == (32,) and tags.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED,
            colours_of_16=not deep and any(";16" in raw_mode for raw_mode in raw_modes),
        )


class Scaling(NamedTuple):
    """Of an image with more than 8 bits: its mode in Pillow's words, and the values that became black and white."""

    mode: str
    black: float
    white: float

    @property
    def is_own_range(self) -> bool:
        """Whether they are the image's own darkest and brightest value, and not the ends of what its format holds."""
        return not (min(self.black, self.white) == 0 and max(self.black, self.white) in FLOAT_RANGES)

    def __str__(self) -> str:
        return f"{self.mode}: {self.black:g} is black, {self.white:g} white"


def to_rgb(image: Image.Image, stored: Stored = Stored()) -> Image.Image:  # noqa: B008  (it is immutable)
    """RGB of any mode; its `info` says what was scaled or dropped.

    Transparency is dropped, as timm's and transformers' own loading drops it: `convert("RGB")`. Raises ValueError for
    values that are not finite, and for 16-bit colours of which Pillow keeps next to nothing.
    """
    info: dict[str | tuple[int, int], object] = {}
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.mode == "F" or image.mode.startswith("I"):
        image, info[SCALED] = _scaled(image, stored)
    elif _is_transparent(image):
        info[TRANSPARENT] = True
    image = image.convert("RGB")
    if stored.colours_of_16 and np.asarray(image).max() < LEAST_OF_16_BITS:
        raise ValueError("its 16-bit colours use at most 14 bits, of which Pillow keeps too few: convert it to 8 bits")
    image.info = info
    return image


def _scaled(image: Image.Image, stored: Stored) -> tuple[Image.Image, Scaling]:
    """Greyscale of 8 bits. White is the end of a range that a format has where the image fills more than half of it;
    else its own darkest value becomes black, and its own brightest white.
    """
    values = np.asarray(image)
    if image.mode == "I" and stored.unsigned_32:
        values = values.view(np.uint32)
    darkest, brightest = float(values.min()), float(values.max())
    if not np.isfinite([darkest, brightest]).all():
        raise ValueError("it holds NaN or infinite values")
    black, white = _range(darkest, brightest, FLOAT_RANGES if image.mode == "F" else INTEGER_RANGES)
    if stored.white_is_zero:
        black, white = white, black
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS):
        fraction = (values[start : start + ROWS].astype(np.float64) - black) / (white - black)
        grey[start : start + ROWS] = np.rint(fraction * 255)
    return Image.fromarray(grey), Scaling(image.mode, black, white)


def _range(darkest: float, brightest: float, ranges: tuple[float, ...]) -> tuple[float, float]:
    """Which values are black and white. An image of one value has no range of its own: it gets one that holds it."""
    for end in ranges:
        if darkest >= 0 and brightest <= end and (brightest - darkest > end / 2 or darkest == brightest):
            return 0.0, end
    return darkest, brightest if brightest > darkest else darkest + 1


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque: an alpha channel alone, or a colour that no pixel has, is nothing lost."""
    if image.mode not in WITH_ALPHA:
        if "transparency" not in image.info:
            return False
        image = image.convert("RGBA")
    return bool(np.asarray(image.getchannel("A")).min() < 255)


def _parts(arguments: object) -> tuple[object, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)
