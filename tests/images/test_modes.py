"""RGB of every mode: a table of files, made byte by byte or by NumPy, with the values that arithmetic gives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PERF_QUICK, Runner
from helpers import logs
from numpy.typing import ArrayLike
from PIL import Image

from common.errors import UserError
from common.images.decoding import Sample
from common.images.modes import SCALED, TRANSPARENT, Scaling

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
GREY = np.random.default_rng(0).integers(20, 230, (30, 40))  # no black and no white in it
GREY[:2] = [[20], [229]]


def tiff(values: np.ndarray, sample_format: int | None = None, white_is_zero: bool = False, **tags: int) -> bytes:
    """A TIFF by its specification, uncompressed, of [H, W] or [H, W, channels]; `tags` as tag_N=value."""
    channels = values.shape[2] if values.ndim == 3 else 1
    sizes = struct.pack(f"<{channels}H", *[8 * values.itemsize] * channels)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    photometric = 2 if channels > 2 else int(not white_is_zero)
    fields = {256: values.shape[1], 257: values.shape[0], 258: 8 * values.itemsize, 259: 1, 262: photometric}
    fields |= {277: channels, 278: values.shape[0], 279: len(data)}
    fields |= {int(name.removeprefix("tag_")): value for name, value in tags.items()}
    if sample_format:
        fields[339] = sample_format
    end = 8 + 2 + 12 * (len(fields) + 1) + 4
    fields[273] = end + len(sizes)
    entries = b""
    for tag, value in sorted(fields.items()):
        if tag == 258 and channels > 2:
            entries += struct.pack("<HHII", tag, 3, channels, end)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0) + sizes + data


def png(values: np.ndarray, color: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits by its specification. Colour types: 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = b"IHDR" + struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color, 0, 0, 0)
    every = [header, *chunks, b"IDAT" + zlib.compress(rows), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in every)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def pfm(values: np.ndarray) -> bytes:
    """A portable float map, from the bottom row up."""
    return b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes()


def pgm(values: np.ndarray, most: int) -> bytes:
    return b"P5\n%d %d\n%d\n" % (*values.shape[::-1], most) + values.astype(">u2").tobytes()


def decoded(path: Path, content: bytes) -> Image.Image:
    path.write_bytes(content)
    return Sample(path.name, path).load()


def stretched(values: ArrayLike, black: float, white: float) -> np.ndarray:
    """The arithmetic: black becomes 0, white 255, what is between in proportion."""
    return np.round((np.asarray(values, np.float64) - black) / (white - black) * 255)


def u16(values: ArrayLike) -> np.ndarray:
    return np.asarray(values).round().astype(np.uint16)


# What has more than 8 bits: its file, its values, and those that have to become black and white.
FLOAT32 = np.float32
DEEP: dict[str, tuple[bytes, ArrayLike, float, float]] = {
    # A range that a format has, where the image fills more than half of it: an 8-bit photo comes out as itself.
    "float of 0 to 1": (tiff(RAMP.astype(FLOAT32), 3), RAMP, 0, 1),
    "float of 0 to 255": (tiff((RAMP * 255).astype(FLOAT32), 3), RAMP * 255, 0, 255),
    "float of 0 to 65535": (tiff((RAMP * 65535).astype(FLOAT32), 3), RAMP * 65535, 0, 65535),
    "a photo / 255 as float": (tiff((GREY / 255).astype(FLOAT32), 3), GREY, 0, 255),
    "a photo as float": (tiff(GREY.astype(FLOAT32), 3), GREY, 0, 255),
    "a photo as int32": (tiff(GREY.astype(np.int32), 2), GREY, 0, 255),
    "a photo as uint16": (tiff(u16(GREY)), GREY, 0, 255),
    "a photo x 257 as uint16": (tiff(u16(GREY * 257)), GREY, 0, 255),
    "a photo x 257 as PNG": (png(u16(GREY * 257), 0), GREY, 0, 255),
    "a portable float map": (pfm(GREY / 255), GREY, 0, 255),
    "uint16 of 0 to 65535": (tiff(u16(RAMP * 65535)), RAMP, 0, 1),
    "int32 of 0 to 65535": (tiff((RAMP * 65535).round().astype(np.int32), 2), RAMP, 0, 1),
    # Its own range.
    "12 bits in 16": (tiff(u16(RAMP * 4095)), RAMP, 0, 1),
    "12 bits in 16, as PNG": (png(u16(RAMP * 4095), 0), RAMP, 0, 1),
    "10 bits in 16": (tiff(u16(RAMP * 1023)), RAMP, 0, 1),
    "14 bits in 16": (tiff(u16(RAMP * 16383)), RAMP, 0, 1),
    "12 bits that are declared": (pgm(u16(RAMP * 4095), 4095), RAMP, 0, 1),
    "depth in millimetres": (tiff(u16(400 + RAMP * 9600)), RAMP, 0, 1),
    "a thermal camera's": (tiff(u16(29_000 + RAMP * 2_000)), RAMP, 0, 1),
    "signed 16 bits": (tiff((RAMP * 65535 - 32768).round().astype(np.int16), 2), RAMP, 0, 1),
    "signed 32 bits, wide": (tiff((RAMP * 4e9 - 2e9).astype(np.int32), 2), RAMP, 0, 1),
    "unsigned 32 bits": (tiff((RAMP * (2**32 - 1)).astype(np.uint32), 1), RAMP, 0, 1),
    "unsigned 32 bits, undeclared": (tiff((RAMP * (2**32 - 1)).astype(np.uint32)), RAMP, 0, 1),
    "far from zero": (tiff((2_000_000_000 + RAMP * 250).round().astype(np.int32), 2), (RAMP * 250).round(), 0, 250),
    "heights": (tiff((RAMP * 3000 - 50).astype(FLOAT32), 3), RAMP, 0, 1),
    "an index of -1 to 1": (tiff((RAMP * 2 - 1).astype(FLOAT32), 3), RAMP, 0, 1),
    "tiny floats": (tiff((RAMP * 1e-30).astype(FLOAT32), 3), RAMP, 0, 1),
    "huge floats": (tiff((RAMP * 1e30).astype(FLOAT32), 3), RAMP, 0, 1),
    # White is zero: of a scan by the light that film absorbs.
    "white is zero": (tiff(u16(RAMP * 65535), white_is_zero=True), 1 - RAMP, 0, 1),
    "white is zero, 12 bits": (tiff(u16(RAMP * 4095), white_is_zero=True), 1 - RAMP, 0, 1),
    # One value has no range of its own.
    "float of 1": (tiff(np.ones((4, 4), FLOAT32), 3), np.ones((4, 4)), 0, 1),
    "float of a half": (tiff(np.full((4, 4), 0.5, FLOAT32), 3), np.full((4, 4), 0.5), 0, 1),
    "float of 0": (tiff(np.zeros((4, 4), FLOAT32), 3), np.zeros((4, 4)), 0, 1),
    "uint16 of white": (tiff(np.full((4, 4), 65535, np.uint16)), np.full((4, 4), 65535), 0, 65535),
    "float of -7": (tiff(np.full((4, 4), -7, FLOAT32), 3), np.zeros((4, 4)), 0, 1),
}


@pytest.mark.parametrize(("content", "values", "black", "white"), DEEP.values(), ids=DEEP)
def test_more_than_8_bits_are_scaled(
    content: bytes, values: ArrayLike, black: float, white: float, tmp_path: Path
) -> None:
    image = decoded(tmp_path / "a", content)
    assert image.mode == "RGB"
    assert SCALED in image.info
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels - stretched(values, black, white)[..., None]).max() <= 1
    if np.ptp(values) > 0 and values is not GREY:
        assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("name", [name for name in DEEP if name.startswith("a photo")])
def test_a_photo_that_was_made_deeper_is_the_same_photo(name: str, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint8)).save(tmp_path / "b.png")
    expected = np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))
    assert np.array_equal(np.asarray(decoded(tmp_path / "a", DEEP[name][0])), expected)


SCALINGS = {
    "float of 0 to 1": Scaling("F", 0, 1),
    "12 bits in 16": Scaling("I;16", 0, 4095),
    "a thermal camera's": Scaling("I;16", 29_000, 31_000),
    "white is zero, 12 bits": Scaling("I;16", 4095, 0),
    "an index of -1 to 1": Scaling("F", -1, 1),
    "unsigned 32 bits": Scaling("I", 0, 2**32 - 1),
}


@pytest.mark.parametrize(("name", "scaling"), SCALINGS.items())
def test_what_became_black_and_white_is_known(name: str, scaling: Scaling, tmp_path: Path) -> None:
    image = decoded(tmp_path / "a", DEEP[name][0])
    assert image.info == {SCALED: scaling}
    assert scaling.is_own_range is (name != "float of 0 to 1")


def test_a_crop_is_scaled_as_its_image(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(u16(RAMP * 4095)))
    whole = Sample("a", tmp_path / "a.tif").load()
    crop = Sample("a crop 1", tmp_path / "a.tif", (0.25, 0.5, 0.75, 1.0)).load()
    assert np.array_equal(np.asarray(crop), np.asarray(whole)[32:64, 16:48])


def test_a_deep_image_is_turned_upright(tmp_path: Path) -> None:
    upright = stretched(RAMP, 0, 1)
    turned = decoded(tmp_path / "a", tiff(u16(RAMP[::-1, ::-1] * 4095), tag_274=3))
    assert np.abs(np.asarray(turned)[..., 0] - upright).max() <= 1


# What is refused, and what is said of it.
NAN = RAMP.copy()
NAN[3, 4] = np.nan
INFINITE = np.where(RAMP > 0.99, np.inf, RAMP).astype(FLOAT32)
RGB12 = np.random.default_rng(1).integers(0, 4096, (8, 8, 3))
REFUSED = {
    "a float that is no number": (tiff(NAN.astype(FLOAT32), 3), "it holds NaN or infinite values"),
    "an infinite float": (tiff(INFINITE, 3), "it holds NaN or infinite values"),
    "12 bits in 16-bit colours, PNG": (png(u16(RGB12), 2), "its 16-bit colours use at most 14 bits"),
    "14 bits in 16-bit colours, PNG": (png(u16(RGB12 * 4), 2), "its 16-bit colours use at most 14 bits"),
    "12 bits in 16-bit colours, TIFF": (tiff(u16(RGB12)), "its 16-bit colours use at most 14 bits"),
    "12 bits in 16-bit grey with alpha": (
        png(np.dstack([u16(RGB12[..., 0]), np.full((8, 8), 65535)]), 4),
        "its 16-bit colours use at most 14 bits",
    ),
    "8 bits in 16-bit colours": (png(u16(RGB12 // 16), 2), "its 16-bit colours use at most 14 bits"),
    "float64, which Pillow does not read": (tiff(RAMP, 3), "cannot identify image file"),
    "a raw photo's preview": (tiff(np.full((6, 9, 3), 200, np.uint8), tag_254=1), "holds a preview of another image"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "told"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_squeezed_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        decoded(tmp_path / "a", content)


def test_16_bit_colours_that_use_their_bits_are_taken(tmp_path: Path) -> None:
    """Pillow keeps the upper eight."""
    for content in (png(u16(RGB12 * 16), 2), tiff(u16(RGB12 * 16))):
        image = decoded(tmp_path / "a", content)
        assert np.array_equal(np.asarray(image), RGB12 // 16)
        assert image.info == {}


# ---------------------------------------------------------------------------------------------------- transparency
def rgba(*pixels: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(np.array([pixels], np.uint8))


def palette(transparency: bytes | int | None) -> Image.Image:
    """Of two pixels, red and blue."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


CLEAR_RED, RED, BLUE = (255, 0, 0, 0), (255, 0, 0, 255), (0, 0, 255, 255)
KEYED = b"tRNS" + struct.pack(">3H", 65535, 0, 0)  # red is transparent
# An image, the file it is saved to, the colours of its two pixels without alpha, and whether one of them is not opaque.
PIXELS: dict[str, tuple[Image.Image | bytes, str, list[list[int]], bool]] = {
    "RGB": (rgba(RED, BLUE).convert("RGB"), "a.png", [[255, 0, 0], [0, 0, 255]], False),
    "RGBA": (rgba(CLEAR_RED, BLUE), "a.png", [[255, 0, 0], [0, 0, 255]], True),
    "RGBA, half": (rgba((255, 0, 0, 128), BLUE), "a.tif", [[255, 0, 0], [0, 0, 255]], True),
    "RGBA, opaque": (rgba(RED, BLUE), "a.png", [[255, 0, 0], [0, 0, 255]], False),
    "a logo in its alpha alone": (rgba((0, 0, 0, 0), (0, 0, 0, 255)), "a.png", [[0, 0, 0], [0, 0, 0]], True),
    "WebP": (rgba(RED, (0, 0, 255, 9)), "lossless.webp", [[255, 0, 0], [0, 0, 255]], True),
    "grey": (rgba((90, 90, 90, 1), (7, 7, 7, 255)).convert("LA"), "a.png", [[90] * 3, [7] * 3], True),
    "grey, opaque": (rgba((90, 90, 90, 255), (7, 7, 7, 255)).convert("LA"), "a.png", [[90] * 3, [7] * 3], False),
    "a palette": (palette(None), "a.png", [[255, 0, 0], [0, 0, 255]], False),
    "a palette's alphas": (palette(bytes([255, 30])), "a.png", [[255, 0, 0], [0, 0, 255]], True),
    "a palette's opaque alphas": (palette(bytes([255, 255])), "a.png", [[255, 0, 0], [0, 0, 255]], False),
    "a palette's colour": (palette(1), "a.gif", [[255, 0, 0], [0, 0, 255]], True),
    "a palette's colour that no pixel has": (palette(5), "a.png", [[255, 0, 0], [0, 0, 255]], False),
    "a colour": (png(u16(np.array([[[65535, 0, 0], [0, 0, 65535]]])), 2, KEYED), "a.png",
                 [[255, 0, 0], [0, 0, 255]], True),
    "one bit": (rgba(RED, (255, 255, 255, 255)).convert("L").point([0] * 128 + [255] * 128).convert("1"), "a.png",
                [[0] * 3, [255] * 3], False),
    "CMYK": (Image.fromarray(np.array([[[0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8), "CMYK"), "a.tif",
             [[255, 0, 0], [0, 0, 0]], False),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:'mode' parameter", "ignore:Palette images with Transparency")
@pytest.mark.parametrize(("made", "name", "colors", "transparent"), PIXELS.values(), ids=PIXELS)
def test_transparency_is_dropped_and_known(
    made: Image.Image | bytes, name: str, colors: list[list[int]], transparent: bool, tmp_path: Path
) -> None:
    """As `convert("RGB")` drops it, with which timm, torchvision and transformers' loading begin."""
    if isinstance(made, bytes):
        (tmp_path / name).write_bytes(made)
    else:
        options: dict[str, Any] = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        made.save(tmp_path / name, **options)
    image = Sample(name, tmp_path / name).load()
    assert np.asarray(image).tolist() == [colors]
    assert image.info == ({TRANSPARENT: True} if transparent else {})
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / name).convert("RGB")))


# ----------------------------------------------------------------------------------------------------- the scripts
def images_of_all_modes(folder: Path) -> None:
    """Two of 12 bits, one of float, three with transparency, one opaque with alpha, one plain, one refused."""
    folder.mkdir()

    def coarse(seed: int) -> np.ndarray:
        """Of 0 to 1, both included."""
        values = np.random.default_rng(seed).integers(0, 2**16, (40, 40))
        return ((values - values.min()) / np.ptp(values)).astype(FLOAT32)

    for name, seed in (("a", 1), ("b", 2)):
        (folder / f"12-{name}.tif").write_bytes(tiff(u16(coarse(seed) * 4095)))
    (folder / "float.tif").write_bytes(tiff(coarse(3), 3))
    (folder / "nan.tif").write_bytes(tiff(np.full((40, 40), np.nan, FLOAT32), 3))
    for seed, (name, alpha) in enumerate([("r", 0), ("s", 128), ("t", 254), ("u", 255)]):
        image = Image.fromarray((coarse(seed + 4) * 255).astype(np.uint8)).convert("RGBA")
        image.putalpha(alpha)
        image.save(folder / f"{name}.png")
    Image.fromarray((coarse(9) * 255).astype(np.uint8)).save(folder / "v.png")


SCRIPTS: dict[str, tuple[str, list[object]]] = {
    "inference": ("inference.py", []),
    "inference to a file": ("inference.py", ["--output", "f.safetensors", "--batch-size", 4, "--workers", 1]),
    "accuracy": ("accuracy_run.py", ["--samples", 10]),
    "performance": ("accuracy_run_perf.py", [*PERF_QUICK[:2], 8, *PERF_QUICK[3:]]),
}


@pytest.mark.parametrize(("script", "options"), SCRIPTS.values(), ids=SCRIPTS)
def test_what_was_scaled_dropped_and_left_out_is_said_once_with_a_count(
    script: str, options: list[object], run_script: Runner, tiny_timm: Path, tmp_path: Path
) -> None:
    images_of_all_modes(tmp_path / "photos")
    finished = run_script(script, "--model", tiny_timm, "--device", "cpu", "--image", tmp_path / "photos", *options)
    assert finished.code == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert [line for line in lines if "more than 8 bits" in line] == [
        "Images of more than 8 bits, scaled to 8: 3 (2 by their own darkest and brightest value), the first 12-a.tif, "
        "I;16: 0 is black, 4095 white"
    ]
    assert [line for line in lines if "transparency" in line and "@record" not in line] == [
        'Images with transparency, which is dropped as convert("RGB") does: 3, the first r.png'
    ]
    assert "warning: nan.tif is left out: it can't be decoded as an image: it holds NaN or infinite values" in lines
    (log,) = (path for path in (tmp_path / "logs").glob("*.log") if path.name != "env_check.log")
    run = logs.read_run(log)
    assert run.problems == []
    assert [record["image"] for record in run.events("scaled")] == ["12-a.tif", "12-b.tif", "float.tif"]
    assert [(record["images"], record["image"]) for record in run.events("transparency")] == [(3, "r.png")]
