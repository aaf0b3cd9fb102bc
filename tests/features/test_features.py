"""Feature files: parts of batches, joined to what one write of all of them would be."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from common.errors import UserError
from common.features.files import FeatureParts, Part
from common.log.whole_files import aside

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
