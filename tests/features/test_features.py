"""Feature files: parts of batches, joined to what one write of all of them would be."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from common.errors import UserError
from common.features import files
from common.features.files import FeatureParts, Part, fit_in_header, safetensors_header
from common.images.modes import Scaling
from common.images.remarks import Remarks
from common.log.whole_files import aside
from common.log.writer import NoLog

ABOUT = {"model": "some model", "preprocess": {"mean": [0.5]}}


def parts_of(path: Path, batches: int = 20, ranks: int = 1, batch_size: int = 2, **about: object) -> FeatureParts:
    return FeatureParts(path, batches, batch_size, ranks, {**ABOUT, **about})


def part(batches: range, width: int = 3, skipped: int = -1) -> Part:
    """Two images a batch, whose embedding is their number; the image of this number is left out."""
    numbers = [number for number in range(2 * batches.start, 2 * batches.stop) if number != skipped]
    embeddings = np.repeat(np.array(numbers, np.float32)[:, None], width, axis=1)
    names = [f"{number}.jpg" for number in numbers]
    return Part(
        embeddings, names, ["0" * 64] * len(numbers), {f"{skipped}.jpg": "no image"} if skipped in batches else {}
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_the_file_is_all_parts_in_order(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"features{suffix}"
    parts = parts_of(path)
    parts.start(resume=False)
    for batches in reversed(parts.ranges()):
        parts.write(batches, part(batches, skipped=5))
    assert parts.join(ABOUT) == (39, 3)
    wanted = [number for number in range(40) if number != 5]
    if suffix == ".npy":
        embeddings, about = np.load(path), json.loads(path.with_suffix(".json").read_text())
    else:
        with safe_open(path, "np") as opened:
            embeddings, about = opened.get_tensor("embedding"), opened.metadata()
            about = {**about, **{key: json.loads(about[key]) for key in ("images", "preprocess")}}
    assert embeddings.dtype == np.float32
    assert embeddings[:, 0].tolist() == wanted
    hashes = about.pop("image_sha256") if suffix == ".npy" else load_file(path)["image_sha256"]
    assert len(hashes) == 39
    assert about == {"images": [f"{number}.jpg" for number in wanted], **ABOUT}
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "features.json"}


@pytest.mark.parametrize(
    ("batches", "batch_size", "ranks"), [(1, 1, 1), (3, 8, 4), (101, 1, 3), (10_000, 8, 2), (7, 4096, 1)]
)
def test_parts_hold_each_batch_once_and_suffice_for_all_ranks(batches: int, batch_size: int, ranks: int) -> None:
    parts = FeatureParts(Path("features.npy"), batches, batch_size, ranks, {})
    ranges = parts.ranges()
    assert [index for each in ranges for index in each] == list(range(batches))
    assert len(ranges) >= min(batches, ranks)
    assert all(len(each) * batch_size <= max(1024, batch_size) for each in ranges)


def test_resume_keeps_the_parts_of_the_same_run(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "features.npy")
    assert not parts.start(resume=True)  # nothing to go on from
    parts.write(parts.ranges()[1], part(parts.ranges()[1]))
    again = parts_of(tmp_path / "features.npy", ranks=3)  # on more ranks: still the same parts
    assert again.start(resume=True)
    assert again.ranges() == parts.ranges()
    assert [again.is_done(batches) for batches in again.ranges()].count(True) == 1
    assert again.read(again.ranges()[1]).names == part(again.ranges()[1]).names
    assert not parts_of(tmp_path / "features.npy").start(resume=False)  # without --resume it begins again
    assert not any(map(again.is_done, again.ranges()))


@pytest.mark.parametrize(
    "change", [{"model": "another"}, {"preprocess": {"mean": [0.4]}}, {"batch_size": 4}, {"batches": 9}]
)
def test_resume_refuses_the_parts_of_another_run(change: dict[str, object], tmp_path: Path) -> None:
    parts_of(tmp_path / "features.npy").start(resume=False)
    with pytest.raises(UserError, match=rf"another run \({next(iter(change))} differ"):
        parts_of(tmp_path / "features.npy", **change).start(resume=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"half a part", b"\xff" * 100])
def test_a_part_that_is_not_whole_is_named(content: bytes, tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "features.npy")
    parts.start(resume=False)
    batches = parts.ranges()[0]
    parts.write(batches, part(batches))
    (file,) = (tmp_path / "features.npy.parts").glob("*.safetensors")
    file.write_bytes(content)
    with pytest.raises(UserError, match="is no whole part"):
        parts.read(batches)


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "features.npy", batches=1)
    parts.start(resume=False)
    parts.write(range(1), Part(np.empty((0, 0), np.float32), [], [], {"a.jpg": "no image", "b.jpg": "no image"}))
    with pytest.raises(UserError, match="none of the images"):
        parts.join({})
    assert not (tmp_path / "features.npy").exists()


def test_joining_takes_the_memory_of_a_part(tmp_path: Path) -> None:
    parts = parts_of(tmp_path / "features.safetensors", batches=4000)
    parts.start(resume=False)
    for batches in parts.ranges():
        parts.write(batches, part(batches, width=256))
    tracemalloc.start()
    shape = parts.join(ABOUT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shape == (8000, 256)
    assert peak < 8000 * 256 * 4 / 1.5


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"features\.npy\.parts can't be written: Not a directory"):
        parts_of(tmp_path / "file" / "features.npy").start(resume=False)


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    path.write_text("earlier")
    with pytest.raises(UserError, match=r"features\.npy can't be written: No space left"), aside(path) as new:
        new.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_remarked_of_images_is_in_the_parts(tmp_path: Path) -> None:
    """So that a run that goes on tells of all of them."""
    remarks = Remarks({"0.jpg": 3}, {"1.jpg": Scaling("I;16", 0, 4095)}, ["0.jpg"])
    parts = parts_of(tmp_path / "features.npy", batches=1)
    parts.start(resume=False)
    plain = part(range(1))
    parts.write(range(1), Part(plain.embeddings, plain.names, plain.sha256, {}, remarks))
    assert parts.read(range(1)).remarks == remarks


# ---------------------------------------------------------------------------------------------- the format's own limit
# How many images, and what they are called.
NAMES: dict[str, tuple[int, str]] = {
    "a few": (3, "photos/{}.jpg"),
    "ImageNet": (1_281_167, "n01440764/n01440764_{}.JPEG"),
    "long ones": (1_000_000, "2024/" + "a very long name of a folder/" * 5 + "{}.jpg"),
    "Chinese ones": (700_000, "照片/二〇二四年十二月的旅行照片/第{}张照片.jpg"),
    "quotes": (400_000, '"' * 62 + "{}.jpg"),
    "control characters": (400_000, "\x1b" * 35 + "{}.jpg"),
    "no UTF-8": (400_000, "\udcff" * 35 + "{}.jpg"),
}
WITH_ROOM = {"a few", "ImageNet"}


def named(count: int, pattern: str) -> list[str]:
    return [pattern.format(number) for number in range(count)]


@pytest.mark.parametrize("kind", NAMES)
def test_the_library_opens_the_header_of_any_number_of_names(kind: str, tmp_path: Path) -> None:
    names = named(*NAMES[kind])
    path = tmp_path / "f.safetensors"
    path.write_bytes(safetensors_header((len(names), 0), {"images": names, **ABOUT}))
    with safe_open(path, "np") as opened:
        about = opened.metadata()
        assert opened.get_slice("embedding").get_shape() == [len(names), 0]
    assert about.keys() - {"images"} == ABOUT.keys()
    assert ("images" in about) is (kind in WITH_ROOM) is fit_in_header(names)
    if "images" in about:
        assert json.loads(about["images"]) == names


def test_the_limit_is_the_library_s(tmp_path: Path) -> None:
    """A header of 100,000,000 bytes is opened, and one of 8 more is not."""
    path = tmp_path / "f.safetensors"
    for length, opens in ((files.LONGEST_HEADER, True), (files.LONGEST_HEADER + 8, False)):
        frame = json.dumps({"__metadata__": {"images": ""}}).encode()
        text = frame.replace(b'""', b'"' + b"a" * (length - len(frame)) + b'"')
        assert len(text) == length
        path.write_bytes(length.to_bytes(8, "little") + text)
        if opens:
            with safe_open(path, "np") as opened:
                assert len(opened.metadata()["images"]) == length - len(frame)
        else:
            with pytest.raises(SafetensorError, match=r"(?i)header too large"):
                safe_open(path, "np")


@pytest.mark.parametrize("more", [0, 1])
def test_names_have_room_up_to_the_last_byte(more: int, tmp_path: Path) -> None:
    frame = len(json.dumps(json.dumps([""])))
    names = ["a" * (files.LONGEST_NAMES - frame + more)]
    path = tmp_path / "f.safetensors"
    path.write_bytes(safetensors_header((1, 0), {"images": names, **ABOUT}))
    with safe_open(path, "np") as opened:
        assert ("images" in opened.metadata()) is (more == 0)


def written(path: Path, names: list[str], batch_size: int, skipped: Iterable[int] = ()) -> tuple[int, int]:
    """The feature file of images of these names, whose embeddings are their numbers."""
    batches = -(-len(names) // batch_size)
    parts = FeatureParts(path, batches, batch_size, 1, ABOUT)
    parts.require_room(NoLog(), names)
    parts.start(resume=False)
    left_out = set(skipped)
    for each in parts.ranges():
        numbers = range(each.start * batch_size, min(each.stop * batch_size, len(names)))
        good = [number for number in numbers if number not in left_out]
        reasons = {names[number]: "no image" for number in numbers if number in left_out}
        embeddings = np.array(good, np.float32)[:, None]
        parts.write(each, Part(embeddings, [names[number] for number in good], ["0" * 64] * len(good), reasons))
    return parts.join(ABOUT)


def test_a_million_long_names_are_written_in_seconds_and_read_by_the_library(tmp_path: Path) -> None:
    names = named(*NAMES["long ones"])
    path = tmp_path / "f.safetensors"
    start = time.process_time()
    assert written(path, names, batch_size=1000, skipped=[7]) == (999_999, 1)
    assert time.process_time() - start < 60  # some 10 s; a minute where the machine is busy
    wanted = [number for number in range(1_000_000) if number != 7]
    assert load_file(path)["embedding"][:, 0].tolist() == wanted
    with safe_open(path, "np") as opened:
        assert opened.metadata()["images_file"] == "f.json"
        assert "images" not in opened.metadata()
    about = json.loads((tmp_path / "f.json").read_text())
    assert about == {"images": [names[number] for number in wanted], **ABOUT}
    assert {file.name for file in tmp_path.iterdir()} == {"f.safetensors", "f.json"}


def test_names_that_fit_need_no_other_file(tmp_path: Path) -> None:
    written(tmp_path / "f.safetensors", named(5, "{}.jpg"), batch_size=2)
    assert [file.name for file in tmp_path.iterdir()] == ["f.safetensors"]


def test_where_the_names_go_is_said_before_and_holds_though_images_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = named(20, "{}.jpg")
    monkeypatch.setattr(files, "fit_in_header", lambda names: len(names) < 20)
    written(tmp_path / "f.safetensors", names, batch_size=5, skipped=[3, 4])
    with safe_open(tmp_path / "f.safetensors", "np") as opened:
        assert opened.metadata()["images_file"] == "f.json"
    assert len(json.loads((tmp_path / "f.json").read_text())["images"]) == 18


@pytest.mark.parametrize(("suffix", "most", "refused"), [(".safetensors", 10, True), (".npy", 10**6, True),
                                                         (".safetensors", 10**6, False)])  # fmt: skip
def test_a_folder_where_the_names_go_is_an_error_before_any_work(
    suffix: str, most: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_NAMES", most)
    (tmp_path / "f.json").mkdir()
    parts = parts_of(tmp_path / f"f{suffix}")
    if refused:
        with pytest.raises(UserError, match=r"f\.json can't be written: it is a folder"):
            parts.require_room(NoLog(), named(5, "{}.jpg"))
    else:
        parts.require_room(NoLog(), named(5, "{}.jpg"))


def test_a_batch_whose_names_fit_no_header_is_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_NAMES", 100)
    parts = parts_of(tmp_path / "f.npy")
    parts.start(resume=False)
    with pytest.raises(UserError, match="a smaller --batch-size"):
        parts.write(parts.ranges()[0], part(parts.ranges()[0]))


@pytest.mark.parametrize("shape", [(1, 1), (1_281_167, 1408), (2**40, 2**20)])
def test_numpy_s_own_limits_are_no_limits_of_the_shape(shape: tuple[int, int], tmp_path: Path) -> None:
    """Its header holds no names: it stays below the 10,000 bytes that np.load takes of a stranger."""
    with (tmp_path / "f.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        assert file.tell() == 128
        if shape == (1, 1):
            file.write(bytes(4))
    with (tmp_path / "f.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        assert np.lib.format.read_array_header_1_0(file)[0] == shape
