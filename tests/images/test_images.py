"""Finding, decoding and cropping images."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.cli import environment
from common.errors import UserError
from common.images import decoding
from common.images.decoding import Sample, decode_exactly, default_photo, find_samples, sample_exactly
from common.images.remarks import FRAMES
from common.log.writer import RunLog


def save(path: Path, color: str = "red") -> Path:
    """A small image file, its folder made, in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def names(samples: list[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def pixels(path: Path) -> np.ndarray:
    """What `load` decodes the file to, [H, W, 3]."""
    image = Sample(path.name, path).load()
    assert image.mode == "RGB"
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------------- finding
def test_files_keep_the_order_of_the_command_line(tmp_path: Path) -> None:
    paths = [save(tmp_path / name) for name in ("c.png", "a.png", "b.png")]
    assert names(find_samples(paths)) == ["c.png", "a.png", "b.png"]


def test_a_file_that_is_named_twice_is_there_twice(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    assert names(find_samples([path, path])) == ["a.png", "a.png (2)"]


def test_a_folder_is_searched_recursively_in_sorted_order(tmp_path: Path) -> None:
    for name in ("z.png", "b/c.png", "b/a.png", "a.png", "b/deep/er/d.png"):
        save(tmp_path / name)
    assert names(find_samples([tmp_path])) == ["a.png", "b/a.png", "b/c.png", "b/deep/er/d.png", "z.png"]


def test_folders_and_files_may_be_mixed(tmp_path: Path) -> None:
    save(tmp_path / "folder" / "a.png")
    file = save(tmp_path / "b.png")
    assert names(find_samples([file, tmp_path / "folder", file])) == ["b.png", "folder/a.png", "b.png (2)"]


@pytest.mark.parametrize("name", ["a.JPG", "a.JPEG", "a.Png", "a.webp", "a.BMP", "a.tif", "a.gif"])
def test_an_image_is_found_by_its_suffix_in_any_case(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    assert names(find_samples([tmp_path])) == [name]


@pytest.mark.parametrize("name", [".hidden.png", ".cache/a.png", "b/.thumbnails/deep/a.png"])
def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    save(tmp_path / "seen.png")
    assert names(find_samples([tmp_path])) == ["seen.png"]


def test_a_folder_inside_a_hidden_one_is_searched_when_it_is_named(tmp_path: Path) -> None:
    save(tmp_path / ".cache" / "photos" / "a.png")
    assert names(find_samples([tmp_path / ".cache" / "photos"])) == ["a.png"]


@pytest.mark.parametrize("name", ["notes.txt", "README", "labels.json", "model.safetensors", "notes.pdf"])
def test_files_of_other_kinds_in_a_folder_are_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"%PDF-1.4 or anything else")
    save(tmp_path / "a.png")
    assert names(find_samples([tmp_path])) == ["a.png"]


def test_a_folder_that_is_named_like_an_image_is_searched_not_decoded(tmp_path: Path) -> None:
    save(tmp_path / "scan.tif" / "page.png")
    assert names(find_samples([tmp_path])) == ["scan.tif/page.png"]


def test_an_image_file_that_is_named_needs_no_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png").rename(tmp_path / "photo")
    (sample,) = find_samples([path])
    assert sample.load().size == (8, 6)


def test_without_paths_there_is_one_photo() -> None:
    (sample,) = find_samples(None)
    assert sample.path == default_photo()


def test_the_default_photo_is_a_real_photo() -> None:
    """Large, and with thousands of colours in smooth transitions: no test pattern and no noise."""
    photo = np.asarray(Sample("photo", default_photo()).load())
    assert min(photo.shape[:2]) >= 224
    assert len(np.unique(photo.reshape(-1, 3), axis=0)) > 10_000
    assert 1 < np.abs(np.diff(photo.astype(int), axis=1)).mean() < 20


def test_which_photo_was_the_default_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "x.log", "inference.py", []) as log:
        (sample,) = find_samples(None, log)
        assert f"Image: {sample.name}, the photo that comes with matplotlib" in capsys.readouterr().out
        find_samples([default_photo()], log)
    assert "Image:" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- errors
def whole_jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    return path.read_bytes()


def damaged_file(path: Path, kind: str) -> None:
    """Write a file that is no whole image."""
    jpeg = whole_jpeg(path)
    content = {
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "JPEG header alone": jpeg[:20],
        "empty": b"",
        "text": b"this is no image\n",
        "zeros": bytes(1000),
        "HTML": b"<!DOCTYPE html><html>404</html>",
        "PNG signature alone": b"\x89PNG\r\n\x1a\n",
        "PNG of absurd size": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + b"\x7f" * 8 + bytes(9),
    }
    path.write_bytes(content[kind])


DAMAGED = [
    "truncated JPEG",
    "JPEG header alone",
    "empty",
    "text",
    "zeros",
    "HTML",
    "PNG signature alone",
    "PNG of absurd size",
]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_whole_image_is_an_error_in_one_line_with_its_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.jpg"
    damaged_file(path, kind)
    with pytest.raises(UserError) as caught:
        Sample("photo.jpg", path).load()
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about the damage
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "AVIF"])
def test_no_damage_of_a_file_is_an_error_of_ours(tmp_path: Path, image_format: str) -> None:
    """Each file decodes or is a UserError, wherever a part of it is lost."""
    path = tmp_path / "photo"
    try:
        Image.open(default_photo()).resize((32, 32)).save(path, image_format)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {image_format}")
    whole, refused = path.read_bytes(), 0
    for start in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:start], whole[:start] + b"\xff" * 4 + whole[start + 4 :]):
            path.write_bytes(damaged)
            try:
                Sample("photo", path).load()
            except UserError:
                refused += 1
    assert refused > 10


@pytest.mark.parametrize(("reason", "told"), [("one\ntwo", "one"), ("", "OSError")])
def test_a_decoder_that_explains_itself_in_many_lines_or_none_is_told_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, told: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(9))

    def fail(path: Path) -> Image.Image:
        raise OSError(reason)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError) as caught:
        Sample("a.jpg", tmp_path / "a.jpg").load()
    assert str(caught.value) == f"{tmp_path / 'a.jpg'} can't be decoded as an image: {told}"


def test_an_image_of_another_image_format_than_its_suffix_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert pixels(path).shape == (6, 8, 3)


@pytest.mark.parametrize("name", ["missing.jpg", "missing/a.jpg"])
def test_a_path_that_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UserError) as caught:
        find_samples([save(tmp_path / "a.png"), path])
    assert str(caught.value) == f"no such image: {path}"


def test_a_file_that_has_gone_since_it_was_found_is_an_error(three: list[Sample]) -> None:
    three[1].path.unlink()
    with pytest.raises(UserError, match=r"b\.png is not there$"):
        three[1].load()


@pytest.mark.parametrize("content", [[], ["notes.txt"], [".hidden.png"]])
def test_a_folder_without_images_is_an_error(tmp_path: Path, content: list[str]) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    for name in content:
        (tmp_path / "folder" / "inside" / name).touch()
    with pytest.raises(UserError) as caught:
        find_samples([tmp_path / "folder"])
    assert str(caught.value).startswith(f"no images in the folder {tmp_path / 'folder'}")


def test_a_missing_default_photo_is_an_error_that_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "package_folder", lambda package: None)
    with pytest.raises(UserError, match="pip install matplotlib, or name an image with --image"):
        default_photo()


def test_a_package_that_is_not_installed_has_no_folder() -> None:
    assert environment.package_folder("no_such_package_at_all") is None


# -------------------------------------------------------------------------------------------------------- decoding
# What a 2 x 3 image with four colours in its corners looks like when it is stored by each EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_upright_by_its_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(3, 2, 3) * 14)
    transpose = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if transpose is None else upright.transpose(transpose)
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), np.asarray(upright))


def test_the_exif_orientation_of_a_jpeg_turns_its_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert Sample("a.jpg", tmp_path / "a.jpg").load().size == (20, 40)


def exif(*entries: tuple[int, int, int, bytes], behind: bytes = b"") -> bytes:
    """An EXIF of one directory, by TIFF's specification: entries of tag, type, count and value."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return b"Exif\0\0" + head + packed + struct.pack("<I", 0) + behind


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))  # a quarter clockwise
BEHIND = struct.pack("<I", 8 + 2 + 2 * 12 + 4)  # where what follows two entries begins
# What an EXIF holds beside or in place of an orientation, and whether it still says to turn the image.
BROKEN: dict[str, tuple[bytes, bool]] = {
    "a resolution below zero": (exif(TURNED, (0x011A, 10, 1, BEHIND), behind=struct.pack("<ii", -1, 0)), True),
    "a resolution of nothing": (exif(TURNED, (0x011A, 5, 1, BEHIND), behind=struct.pack("<II", 0, 0)), True),
    "a compression below zero": (exif(TURNED, (0x0103, 9, 1, struct.pack("<i", -5))), True),
    "a value beyond its end": (exif(TURNED, (0x011A, 5, 1, struct.pack("<I", 60000))), True),
    "a place that is no directory": (exif(TURNED, (0x8825, 2, 4, b"gps\0")), True),
    "its beginning twice": (b"Exif\0\0" + exif(TURNED), True),
    "an orientation that is none": (exif((0x0112, 3, 1, struct.pack("<HH", 9, 0))), False),
    "an orientation in letters": (exif((0x0112, 2, 4, b"six\0")), False),
    "no directory": (b"Exif\0\0nothing of TIFF", False),
    "nothing": (b"Exif\0\0", False),
    "a cut directory": (exif(TURNED)[:20], False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_exif_costs_no_image(name: str, tmp_path: Path) -> None:
    """Its pixels are whole. Pillow's own exif_transpose fails where it can't write the rest of the EXIF anew."""
    broken, turned = BROKEN[name]
    Image.fromarray(np.arange(1800, dtype=np.uint8).reshape(20, 30, 3)).save(tmp_path / "a.jpg", exif=broken)
    stored = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.array_equal(pixels(tmp_path / "a.jpg"), np.rot90(stored, -1) if turned else stored)


@pytest.mark.parametrize(
    ("mode", "stored", "name", "decoded"),
    [
        ("L", 100, "a.png", (100, 100, 100)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "a.png", (10, 20, 30)),
        ("LA", (100, 255), "a.png", (100, 100, 100)),
        ("CMYK", (255, 0, 0, 0), "a.tif", (0, 255, 255)),
        ("CMYK", (0, 0, 0, 0), "a.jpg", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), "a.jpg", (0, 0, 0)),
    ],
)
def test_every_mode_decodes_to_its_colour_in_rgb(
    tmp_path: Path, mode: str, stored: int | tuple[int, ...], name: str, decoded: tuple[int, int, int]
) -> None:
    Image.new(mode, (16, 16), stored).save(tmp_path / name)
    assert pixels(tmp_path / name)[8, 8].tolist() == list(decoded)


def test_a_palette_decodes_to_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 128, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[255, 0, 0], [0, 128, 255]]]


def test_16_bit_greyscale_decodes_to_its_upper_eight_bits(tmp_path: Path) -> None:
    """Clipped at 255 instead, a 16-bit scan would be a white sheet."""
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png")[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_the_first_frame_of_an_animation_is_decoded(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_pages_that_cannot_be_counted_leave_the_first_one_whole(tmp_path: Path) -> None:
    """A scan of three pages, cut where the second begins."""
    colors = ("red", "green", "blue")
    pages = [Image.new("RGB", (64, 64), color) for color in colors]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    whole = (tmp_path / "a.tif").read_bytes()
    assert Sample("a.tif", tmp_path / "a.tif").load().info == {FRAMES: 3}
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 3 + 100])
    image = Sample("a.tif", tmp_path / "a.tif").load()
    assert image.info == {}
    assert np.asarray(image)[-1, -1].tolist() == [255, 0, 0]


# ----------------------------------------------------------------------------------------------------------- crops
@pytest.fixture
def three(tmp_path: Path) -> list[Sample]:
    for name, color in (("a.png", "red"), ("b.png", "green"), ("c.png", "blue")):
        save(tmp_path / name, color)
    return find_samples([tmp_path])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_there_are_enough_the_first_are_taken(three: list[Sample], count: int) -> None:
    assert sample_exactly(three, count, seed=0) == three[:count]


def test_no_more_are_decoded_than_are_asked_for(three: list[Sample]) -> None:
    three[2].path.write_bytes(b"no image, and not looked at")
    assert decode_exactly(three, 2, seed=0, strict=True).samples == three[:2]
    with pytest.raises(UserError, match=r"c\.png can't be decoded"):
        decode_exactly(three, 3, seed=0, strict=True)


def test_crops_of_each_in_turn_fill_up(three: list[Sample]) -> None:
    chosen = sample_exactly(three, 8, seed=0)
    assert chosen[:3] == three
    assert names(chosen[3:]) == ["a.png crop 1", "b.png crop 1", "c.png crop 1", "a.png crop 2", "b.png crop 2"]
    assert [sample.path for sample in chosen[3:6]] == [sample.path for sample in three]
    assert all(sample.crop for sample in chosen[3:])


def test_the_same_seed_gives_the_same_crops(three: list[Sample]) -> None:
    assert sample_exactly(three, 20, seed=7) == sample_exactly(three, 20, seed=7)


def test_another_seed_gives_other_crops(three: list[Sample]) -> None:
    first, second = (sample_exactly(three, 20, seed=seed)[3:] for seed in (7, 8))
    assert all(a.crop != b.crop for a, b in zip(first, second, strict=True))


def test_more_samples_begin_with_those_of_fewer(three: list[Sample]) -> None:
    """The perf run's image is one that the accuracy run saw, whatever their numbers of samples."""
    assert sample_exactly(three, 16, seed=0)[:5] == sample_exactly(three, 5, seed=0)


def test_every_sample_has_its_own_hash(three: list[Sample]) -> None:
    hashes = [sample.sha256() for sample in sample_exactly(three, 50, seed=0)]
    assert len(set(hashes)) == 50


def test_the_hash_is_of_the_content_not_of_the_name(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.png", "red"), save(tmp_path / "b.png", "red")
    other = save(tmp_path / "c.png", "blue")
    assert Sample("a", first).sha256() == Sample("b", second).sha256() != Sample("c", other).sha256()


def test_crops_lie_inside_and_cover_at_least_half_of_each_side(three: list[Sample]) -> None:
    for sample in sample_exactly(three, 200, seed=0)[3:]:
        left, top, right, bottom = sample.crop or (0, 0, 0, 0)
        assert 0 <= left <= right <= 1 + 1e-12
        assert 0 <= top <= bottom <= 1 + 1e-12
        assert min(right - left, bottom - top) >= decoding.SMALLEST_CROP - 1e-12


def test_a_crop_is_that_part_of_the_upright_image(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    crop = Sample("a", tmp_path / "a.png", crop=(0.25, 0.5, 0.75, 1.0)).load()
    assert np.array_equal(np.asarray(crop)[..., 0], grey[3:6, 2:6])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3)])
def test_the_smallest_image_has_no_empty_crop(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    crops = sample_exactly(find_samples([tmp_path / "a.png"]), 100, seed=0)
    assert all(min(crop.load().size) >= 1 for crop in crops)
