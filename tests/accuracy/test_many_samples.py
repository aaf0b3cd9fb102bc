"""Many samples: every image in batches, parts that a run which was cut goes on from, and which images are taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from accuracy.test_feature_files import figures, write_images
from conftest import ROOT, Runner
from helpers.forks import Forks
from helpers.logs import Records, read_records

import accuracy_run
from common.accuracy import inputs
from common.accuracy.inputs import DecodedImages
from common.cli.options import ImageChoice
from common.errors import UserError
from common.images import decoding
from common.log import events

COUNT = 70  # more than a part holds
HALF = ("--device", "cpu", "--dtype", "float16", "--image", "photos")

# Opens images as Pillow does, and is killed by the KILL_AT-th.
KILL_AT = """
import os, runpy, signal
import PIL.Image
opened, count = PIL.Image.open, 0
def open_or_die(path, *arguments, **keywords):
    global count
    count += str(path).endswith(".png")
    if count > int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(path, *arguments, **keywords)
PIL.Image.open = open_or_die
runpy.run_path(os.environ["SCRIPT"], run_name="__main__")
"""


def without_run(records: Records) -> Records:
    """All that a run found, without its name, its arguments and its hash."""
    kept = [record for record in records if record["event"] not in ("run_start", "run_end")]
    return [{key: value for key, value in record.items() if key != "run"} for record in kept]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, one of which is none."""
    monkeypatch.chdir(tmp_path)
    folder = write_images(tmp_path / "photos", COUNT)
    (folder / "class 0" / "bad.png").write_bytes(b"no image")
    return folder


def test_a_killed_run_is_resumed_to_the_same_records(
    photos: Path, run_script: Runner, forks: Forks, tiny_timm: Path, tmp_path: Path
) -> None:
    """Killed in its last part; the second run decodes what is missing, and the first images to know its device."""
    (tmp_path / "killed.py").write_text(KILL_AT)
    arguments = ("--model", tiny_timm, *HALF, "--samples", "all", "--workers", "0")
    whole = run_script("accuracy_run.py", *arguments, "--log-dir", "whole")
    assert whole.code == 0, whole.stderr
    assert not (tmp_path / "whole" / "accuracy.parts").exists()

    at_script = {"cwd": tmp_path, "path": (ROOT,), "SCRIPT": ROOT / "accuracy_run.py"}
    killed = forks.run(tmp_path / "killed.py", *arguments, KILL_AT=68, **at_script)
    assert killed.code == -9
    assert [path.suffix for path in sorted((tmp_path / "logs" / "accuracy.parts").iterdir())] == [
        ".safetensors",
        ".json",
    ]
    with pytest.raises(UserError, match=r"accuracy.parts is of another run \(references, dtype differ\)|dtype"):
        accuracy_run.main([*map(str, arguments), "--dtype", "float32", "--resume"])

    resumed = forks.run(tmp_path / "killed.py", *arguments, "--resume", KILL_AT=8 + 7 + 1, **at_script)
    assert resumed.code == 0, resumed.stderr
    assert "Resumed: what accuracy.parts holds is not compared again" in resumed.stdout
    found, expected = (read_records(tmp_path / name / "accuracy.log") for name in ("logs", "whole"))
    assert without_run(found) == without_run(expected)
    assert not (tmp_path / "logs" / "accuracy.parts").exists()
    assert len(figures(found)) == COUNT
    assert forks.run("check_accuracy_run_perf.py", "--only", "accuracy", cwd=tmp_path).code == 0


def test_every_image_is_compared_once_and_in_order_whatever_the_batches(
    photos: Path, tiny_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(photos / "class 1")
    found = {}
    for size in ("1", "3"):
        arguments = ["--model", str(tiny_timm), *HALF, "--samples", "0", "--batch-size", size, "--log-dir", size]
        assert accuracy_run.main(arguments) == 0
        found[size] = read_records(Path(size) / "accuracy.log")
    names = [sample.name for sample in decoding.find_samples([photos]) if sample.path.name != "bad.png"]
    for records in found.values():
        for output in events.OUTPUTS:
            assert [figure["image"] for figure in figures(records, output)] == names
    errors = [[figure["relative_l2"] for figure in figures(records)] for records in found.values()]
    np.testing.assert_allclose(*errors, rtol=0.2)


# ---------------------------------------------------------------------------------------------- which images are taken
def images(folder: Path, wanted: int, strict: bool = False) -> DecodedImages:
    """Of a preprocessing that only notes which image it was given."""
    choice = ImageChoice([folder], 0, strict)
    samples = decoding.find_samples([folder])
    return DecodedImages(samples, wanted, choice, lambda image: image, 2, 0)  # type: ignore[arg-type]


def taken(chosen: DecodedImages, bad: set[str]) -> list[str]:
    """The names of all rounds, without those that can't be decoded."""
    names: list[str] = []
    for batches in chosen.rounds():
        assert isinstance(batches, inputs.DecodedRound)
        tried = [sample.name for sample in batches.batches.samples]
        chosen.leave_out(name for name in tried if name in bad)
        names += [name for name in tried if name not in bad]
    return names


@pytest.mark.parametrize("bad", [set(), {"b.png"}, {"a.png", "b.png", "e.png"}])
@pytest.mark.parametrize("wanted", [0, 1, 2, 4, 5, 6, 12])
def test_the_first_that_can_be_decoded_are_taken_and_then_crops_of_them(
    wanted: int, bad: set[str], tmp_path: Path
) -> None:
    """As decode_exactly chooses them, which decodes all of them at once."""
    for number, name in enumerate("abcde"):
        shutil.copy(
            write_images(tmp_path / "one", 6) / f"class {number % 2}" / f"{number}.png", tmp_path / f"{name}.png"
        )
    shutil.rmtree(tmp_path / "one")
    found = taken(images(tmp_path, wanted), bad)
    for name in bad:
        (tmp_path / name).write_bytes(b"")
    samples = decoding.find_samples([tmp_path])
    expected = decoding.decode_exactly(samples, wanted or 5 - len(bad), 0, strict=False)
    assert found == [sample.name for sample in expected.samples]


def test_what_a_part_of_an_earlier_run_left_out_counts_where_it_is_tried(tmp_path: Path) -> None:
    """A part that is read tells of images in rounds to come."""
    for name in "abcd":
        shutil.copy(write_images(tmp_path / "one", 1) / "class 0" / "0.png", tmp_path / f"{name}.png")
    shutil.rmtree(tmp_path / "one")
    chosen = images(tmp_path, 2)
    rounds = chosen.rounds()
    next(rounds)
    chosen.leave_out(["b.png", "c.png"])
    assert [len(each) for each in rounds] == [1, 1]
    assert [sample.name for sample in chosen.tried] == ["a.png", "b.png", "c.png", "d.png"]


def test_none_that_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="none of the 1 images could be decoded"):
        taken(images(tmp_path, 0), {"a.png"})
