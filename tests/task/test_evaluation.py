"""The evaluation: by what images are judged, what is printed and recorded, and that it is what the arrays say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.logs import read_run
from torch import Tensor

from common.encoder.base import OwnClasses
from common.errors import UserError
from common.log.events import CLASSES, KNN, NEAREST, Task
from common.log.writer import RunLog
from common.task import evaluation, labels
from common.task.evaluation import Sides

NAMES = ["espresso", "tabby", "crane", "rocket"]


def logits(predicted: list[int], second: list[int] | None = None) -> Tensor:
    """Logits [N, 4] of 3 for each predicted class, 2 for the second, and 0."""
    made = torch.zeros(len(predicted), len(NAMES))
    made[range(len(predicted)), second or [(each + 1) % len(NAMES) for each in predicted]] = 2.0
    made[range(len(predicted)), predicted] = 3.0
    return made


def directions(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def run(folder: Path, images: list[str], reference: Tensor, device: Tensor, **options: Any) -> tuple[Task, str, Any]:
    """The task, what a run prints of it, and the run's log."""
    given = {"wanted": None, "label": None, "dtype": "float32", "allowed": 0.01, **options}
    own = OwnClasses(len(NAMES), given["label"]) if given["label"] else None
    sides = Sides.of(images, reference.numpy(), device.numpy(), "float32", given["dtype"])
    with RunLog(folder / "accuracy.log", "accuracy_run.py", []) as log:
        task = evaluation.evaluate(log, sides, own, given["wanted"], given["allowed"])
    text = (folder / "accuracy.log").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("@record")]
    log_on_disk = read_run(folder / "accuracy.log")
    assert not log_on_disk.problems
    return task, "\n".join(lines), log_on_disk


def test_a_classifier_is_judged_by_its_own_classes(tmp_path: Path) -> None:
    """Four images: right on both sides, lost, right, and wrong on both."""
    images = ["tabby/1.png", "tabby/2.png", "espresso/1.png", "3/1.png"]
    task, text, log = run(
        tmp_path, images, logits([1, 1, 0, 0]), logits([1, 2, 0, 0]), label=NAMES.__getitem__, allowed=0.5
    )
    (record,) = log.events("prediction")
    assert record["labels"] == [1, 1, 0, 3]
    assert (record["reference"], record["device"]) == ([1, 1, 0, 0], [1, 2, 0, 0])
    assert record["margins"] == pytest.approx([1 / math.sqrt(2 * 13)] * 4)
    assert (task.by, task.labels, task.neighbours) == (CLASSES, "folders", None)
    assert task.classes == {"3": 3, "espresso": 0, "tabby": 1}
    assert (task.figures.reference_accuracy, task.figures.device_accuracy) == (0.75, 0.5)
    assert "  tabby/2.png: tabby -> class 2 (label: tabby), margin 19.6116%" in text
    assert "task accuracy_drop: 25%" in text
    assert "task result: CANNOT JUDGE" in text  # of a bound that takes five images
    assert "1 of 4 predictions changed" in text.splitlines()[-1]


def test_an_encoder_is_judged_by_a_vote(tmp_path: Path) -> None:
    """As many neighbours vote as the smallest class has images: three."""
    images = [f"{label}/{at}.png" for at, label in enumerate("aaabbbb")]
    reference = directions(0, 5, 10, 90, 95, 100, 20)
    device = directions(0, 5, 10, 90, 95, 100, 80)
    task, text, log = run(tmp_path, images, reference, device, allowed=0.5)
    assert (task.by, task.neighbours, task.temperature, task.classes) == (KNN, 3, 0.07, {"a": 0, "b": 1})
    (record,) = log.events("prediction")
    assert (record["reference"], record["device"]) == ([0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1])
    assert task.figures.accuracy_drop == pytest.approx(-1 / 7)
    assert "judged by a vote of their 3 nearest neighbours" in text
    assert task.result == "PASS"


def test_without_labels_neighbours_are_compared(tmp_path: Path) -> None:
    images = ["1.png", "2.png", "3.png", "4.png"]
    task, text, log = run(tmp_path, images, directions(0, 10, 30, 90), directions(0, 35, 30, 90))
    (record,) = log.events("prediction")
    assert (task.by, task.neighbours, task.result, task.figures.neighbours_kept) == (NEAREST, 3, None, 1.0)
    assert (record["reference"], record["device"]) == ([1, 0, 1, 2], [2, 2, 1, 1])
    assert record["kept"] == [3] * 4
    assert "  1.png: image 2 -> image 3, margin " in text
    assert record["changed_images"] == ["1.png", "2.png", "4.png"]
    assert "task result" not in text
    assert "labels" not in record


@pytest.mark.parametrize("wanted", [None, labels.NO_LABELS])
def test_a_classifier_without_labels_is_judged_by_what_changes(wanted: str | None, tmp_path: Path) -> None:
    images = ["1.png", "2.png"] if wanted is None else ["tabby/1.png", "crane/1.png"]
    options = {"wanted": wanted, "label": NAMES.__getitem__}
    task, _, log = run(tmp_path, images, logits([1, 2]), logits([1, 3]), **options)
    assert (task.by, task.labels, task.classes, task.result) == (CLASSES, None, {}, "FAIL")
    assert task.figures.reference_accuracy is None
    assert "labels" not in log.events("prediction")[0]


def test_labels_that_are_no_classes_of_a_classifier_are_left_to_its_neighbours(tmp_path: Path) -> None:
    images = ["summer/1.png", "summer/2.png", "winter/1.png", "winter/2.png"]
    found = logits([0, 0, 1, 1])
    task, text, _ = run(tmp_path, images, found, found, label=NAMES.__getitem__)
    assert (task.by, task.classes) == (KNN, {"summer": 0, "winter": 1})
    assert "note: the labels (summer, winter) are no classes of the model" in text


@pytest.mark.parametrize("label", [None, NAMES.__getitem__])
def test_one_label_alone_tells_nothing(label: Any, tmp_path: Path) -> None:
    images = ["all/1.png", "all/2.png"]
    task, text, _ = run(tmp_path, images, logits([0, 1]), logits([0, 1]), label=label)
    assert task.by == (CLASSES if label else NEAREST)
    assert task.labels is None
    assert "note: all images have the one label all, which tells nothing" in text


def test_one_class_of_a_classifier_is_enough(tmp_path: Path) -> None:
    images = ["tabby/1.png", "tabby/2.png"]
    task, _, _ = run(tmp_path, images, logits([1, 0]), logits([1, 0]), label=NAMES.__getitem__, allowed=1.5)
    assert (task.by, task.figures.reference_accuracy) == (CLASSES, 0.5)


def test_one_image_alone_has_no_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--task compares images with each other, and there is one"):
        run(tmp_path, ["1.png"], logits([1]), logits([1]))


def test_a_device_that_gives_nan_has_changed_and_lost(tmp_path: Path) -> None:
    device = logits([1, 2])
    device[1] = math.nan
    images = ["tabby/1.png", "crane/1.png"]
    task, text, log = run(tmp_path, images, logits([1, 2]), device, label=NAMES.__getitem__)
    assert log.events("prediction")[0]["device"] == [1, -1]
    assert (task.figures.changed, task.figures.ties, task.figures.accuracy_drop, task.result) == (1, 0, 0.5, "FAIL")
    assert "not finite of error" in text


@pytest.mark.parametrize(("dtype", "ties"), [("float32", 0), ("float16", 0), ("bfloat16", 1)])
def test_a_change_within_the_rounding_of_the_dtype_is_a_tie(dtype: str, ties: int, tmp_path: Path) -> None:
    """The gap that changed takes an error of 0.8 %: bfloat16's rounding is 1.6 %, float16's 0.2 %."""
    reference = torch.tensor([[3.0, 2.94, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    device = reference.clone()
    device[0, 1] = 3.01
    task, text, _ = run(tmp_path, ["1.png", "2.png"], reference, device, label=NAMES.__getitem__, dtype=dtype)
    assert (task.figures.changed, task.figures.ties) == (1, ties)
    assert (", a tie" in text) == bool(ties)


def test_many_images_are_recorded_in_parts(tmp_path: Path) -> None:
    n = 2 * evaluation.IMAGES_A_RECORD + 7
    reference = logits([at % 4 for at in range(n)])
    device = logits([at % 4 if at % 200 else (at + 1) % 4 for at in range(n)])
    images = [f"{NAMES[at % 4]}/{at}.png" for at in range(n)]
    task, text, log = run(tmp_path, images, reference, device, label=NAMES.__getitem__)
    assert [(each["first"], len(each["device"])) for each in log.events("prediction")] == [
        (0, 1000),
        (1000, 1000),
        (2000, 7),
    ]
    assert task.figures.changed == 11
    assert sum(line.startswith("  ") for line in text.splitlines()) == evaluation.MOST_PRINTED + 1
    assert "  ... and 6 more" in text
