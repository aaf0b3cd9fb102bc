"""Runs with --task: which images, errors before anything is computed, feature files, and devices that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_TIMM, Runner, save_timm
from helpers.forks import Forks, needs_simulated_npu
from helpers.image_folders import write_classes
from helpers.logs import Records, find, read_records
from helpers.npu_runs import ON_NPU

import accuracy_run
import inference

COUNTS = {"a": 5, "b": 4, "c": 6}
N = sum(COUNTS.values())
FEW = ("--max-accuracy-drop", "30")  # percent, for which so few images are enough
TASK = ("task", "prediction")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "images", COUNTS)


def run(folder: Path, model: object, *flags: object) -> Records:
    """The records of an accuracy run in this process, on the CPU in float16."""
    common = ["--model", model, "--device", "cpu", "--dtype", "float16", "--log-dir", folder, *flags]
    assert accuracy_run.main([str(word) for word in common]) == 0
    return read_records(folder / "accuracy.log")


def judged(records: Records) -> list[dict[str, Any]]:
    """What is recorded of the task, whichever run it is of."""
    own = ("run", "seq")
    found = [record for record in records if record["event"] in TASK]
    return [{key: value for key, value in record.items() if key not in own} for record in found]


# ---------------------------------------------------------------------------------------------------- which images
@pytest.mark.parametrize(
    ("flags", "samples"),
    [
        (["--task"], 299),
        (["--task", "--max-accuracy-drop", "10%"], 29),
        (["--task", "--image", "x"], 0),
        (["--task", "--image", "x", "--samples", "50"], 50),
        (["--task", "--reference", "r.npy"], None),
        (["--image", "x"], None),
    ],
)
def test_a_task_is_of_all_images_or_of_as_many_crops_as_it_takes(flags: list[str], samples: int | None) -> None:
    assert accuracy_run.parse(flags).samples == samples


def test_all_images_of_a_folder_are_judged(images: Path, tiny_vit: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_vit, "--image", images, "--task", *FEW)
    task, prediction = find(records, "task"), find(records, "prediction")
    assert (task["images"], task["neighbours"], task["reference"]) == (N, 4, "float32")
    assert prediction["labels"] == [0] * 5 + [1] * 4 + [2] * 6
    assert task["rounding"] == pytest.approx(1e-5 + 2 * 2**-10)
    assert (tmp_path / "accuracy.log").read_text().count("\ntask: ") == 1


def test_a_run_without_the_flag_has_no_task(images: Path, tiny_vit: Path, tmp_path: Path) -> None:
    assert judged(run(tmp_path, tiny_vit, "--image", images)) == []


def test_crops_have_the_labels_of_their_images(tiny_vit: Path, tmp_path: Path) -> None:
    """By their folders, and by a table."""
    images = write_classes(tmp_path / "images", {"a": 1, "b": 1})
    table = tmp_path / "labels.csv"
    table.write_text("name,label\na/0000.png,one\nb/0000.png,two\n")
    flags = ("--image", images, "--samples", 6, "--task", *FEW)
    by_folder = run(tmp_path / "folder", tiny_vit, *flags)
    by_table = run(tmp_path / "table", tiny_vit, *flags, "--labels", table)
    assert [find(each, "prediction")["labels"] for each in (by_folder, by_table)] == [[0, 1, 0, 1, 0, 1]] * 2
    assert find(by_table, "task")["classes"] == {"one": 0, "two": 1}
    assert find(by_table, "task")["labels"] == "labels.csv"


# ------------------------------------------------------------------------------------------------------------ errors
def test_labels_that_do_not_fit_are_told_before_anything_runs(images: Path, run_script: Runner, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a/0000.png,a\n")
    common = ("accuracy_run.py", "--model", "timm/test_vit", "--weights", "random", "--device", "cpu")
    done = run_script(*common, "--image", images, "--task", "--labels", "labels.csv")
    assert done.code == 2
    assert done.stderr.splitlines()[-1].startswith("error: labels.csv has no label of the image a/0001.png and 13 more")
    assert not [record for record in read_records(tmp_path / "logs" / "accuracy.log") if record["event"] == "model"]


def test_an_image_beside_the_folders_is_an_error(images: Path, run_script: Runner) -> None:
    (images / "x.png").write_bytes((images / "a" / "0000.png").read_bytes())
    common = ("accuracy_run.py", "--model", "timm/test_vit", "--weights", "random", "--device", "cpu")
    done = run_script(*common, "--image", images, "--task")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: x.png is in no folder that is its class")


def test_one_image_is_no_task(images: Path, run_script: Runner) -> None:
    common = ("accuracy_run.py", "--model", "timm/test_vit", "--weights", "random", "--device", "cpu")
    done = run_script(*common, "--image", images / "a" / "0000.png", "--task")
    assert done.code == 2
    assert "error: --task compares images with each other, and there is one" in done.stderr


def test_labels_without_a_task_are_a_usage_error(run_script: Runner) -> None:
    done = run_script("accuracy_run.py", "--labels", "labels.csv", env={})
    assert (done.code, done.stderr.splitlines()[-1]) == (2, "error: --labels is of --task")


# ----------------------------------------------------------------------------------------------------- feature files
def embed(folder: Path, model: object, images: Path, dtype: str) -> Path:
    file = folder / f"{dtype}.safetensors"
    words = ["--model", model, "--device", "cpu", "--dtype", dtype, "--image", images, "--output", file]
    assert inference.main([str(word) for word in [*words, "--batch-size", 1, "--log-dir", folder]]) == 0
    return file


def compare_files(folder: Path, reference: Path, candidate: Path, *flags: object) -> Records:
    words = ["--reference", reference, "--candidate", candidate, "--task", "--log-dir", folder, *FEW, *flags]
    assert accuracy_run.main([str(word) for word in words]) == 0
    return read_records(folder / "accuracy.log")


def test_two_files_give_what_one_run_gives(images: Path, tiny_vit: Path, tmp_path: Path) -> None:
    files = [embed(tmp_path, tiny_vit, images, dtype) for dtype in ("float32", "float16")]
    *predictions, task = judged(compare_files(tmp_path / "files", *files))
    *expected, computed = judged(run(tmp_path / "run", tiny_vit, "--image", images, "--task", *FEW))
    assert predictions == expected
    assert {**task, "reference": "float32"} == computed
    assert task["reference"] == "features"


def test_of_two_files_a_classifiers_labels_are_indices(tmp_path: Path) -> None:
    named = save_timm(tmp_path / "named", {**TINY_TIMM, "label_names": [f"class {index}" for index in range(10)]})
    by_index = write_classes(tmp_path / "indices", {"9": 4, "6": 3})
    by_name = write_classes(tmp_path / "names", {"class 9": 4, "class_6": 3})
    tasks = {}
    for images in (by_index, by_name):
        folder = tmp_path / f"of {images.name}"
        folder.mkdir()
        files = [embed(folder, named, images, dtype) for dtype in ("float32", "float16")]
        tasks[images] = find(compare_files(folder, *files), "task")
    assert (tasks[by_index]["by"], tasks[by_index]["classes"]) == ("classes", {"6": 6, "9": 9})
    assert tasks[by_name]["by"] == "knn"  # a file has no names
    with_names = find(run(tmp_path / "run", named, "--image", by_name, "--task", *FEW), "task")
    assert (with_names["by"], with_names["classes"]) == ("classes", {"class 9": 9, "class_6": 6})


# ------------------------------------------------------------------------------------------ devices that are wrong
DEVICES: dict[str, tuple[dict[str, str], list[str], str]] = {
    "clean": ({}, [], "PASS"),
    "HF32": ({}, ["--numerics", "fast"], "PASS"),
    "rounding as float8's": ({"SIMULATED_NPU_FAULT": "conv:noise=0.06"}, [], "FAIL"),
}


@needs_simulated_npu
@pytest.mark.parametrize("name", DEVICES)
def test_what_an_npus_error_does_to_the_demo(name: str, forks: Forks, tmp_path: Path) -> None:
    """The real weights of a classifier, on crops of a photo."""
    environment, flags, result = DEVICES[name]
    command = ("accuracy_run.py", *ON_NPU, "--model", "demo", "--task", "--max-accuracy-drop", "12", *flags)
    done = forks.run(*command, cwd=tmp_path, **environment)
    assert done.code == 0, done.stderr
    task = find(read_records(tmp_path / "logs" / "accuracy.log"), "task")
    assert (task["by"], task["images"], task["result"]) == ("classes", 24, result)
    said = [line for line in done.stdout.splitlines() if line.startswith("task: ")]
    if result == "PASS":
        assert task["changed"] == 0
        assert said[0].endswith("% of error, 0 of 24 predictions changed, at most 12% with 95% confidence")
    else:
        assert task["changed"] > 6
    judge = ("check_accuracy_run_perf.py", "--only", "accuracy", "--max-accuracy-drop", "12")
    assert forks.run(*judge, cwd=tmp_path).code == (0 if result == "PASS" else 1)


@needs_simulated_npu
def test_a_broken_norm_loses_what_was_right(images: Path, forks: Forks, tmp_path: Path) -> None:
    vit = ("--model", "timm/test_vit", "--weights", "random", "--image", images, "--task", *FEW)
    fault = "layer_norm:scale=3"
    assert forks.run("accuracy_run.py", *ON_NPU, *vit, cwd=tmp_path, SIMULATED_NPU_FAULT=fault).code == 0
    task = find(read_records(tmp_path / "logs" / "accuracy.log"), "task")
    assert task["changed"] > 0
    assert task["lost"] > 0
