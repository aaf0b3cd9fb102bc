"""The checker on an evaluation: good ones pass or are not judged, and no edit that was signed again passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_TIMM, save_timm
from helpers.image_folders import write_classes
from helpers.logs import Edit, Records, change, drop, edited, find

import accuracy_run
import check_accuracy_run_perf as checker
from common.log import schema, tasks
from common.log.events import Prediction

COUNTS = {"9": 8, "6": 7, "4": 6}  # the classes that the classifier's random weights see in these colours
N = sum(COUNTS.values())
ENOUGH = "30"  # percent, for which so few images are enough
KINDS = ("knn", "classes", "nearest", "unlabelled")

Judge = Callable[..., tuple[int, str]]
Logs = dict[str, Path]


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Logs:
    """A good log of each kind of task, in float16 on the CPU, of the same few images."""
    folder = tmp_path_factory.mktemp("tasks")
    images = write_classes(folder / "images", COUNTS)
    named = save_timm(folder / "named", {**TINY_TIMM, "label_names": [f"class {index}" for index in range(10)]})
    flags = {
        "knn": ["--model", str(tiny_vit)],
        "classes": ["--model", str(named)],
        "nearest": ["--model", str(tiny_vit), "--labels", "none"],
        "unlabelled": ["--model", str(named), "--labels", "none"],
    }
    common = ["--device", "cpu", "--dtype", "float16", "--task", "--image", str(images), "--samples", str(N)]
    for kind in KINDS:
        own = ["--max-accuracy-drop", ENOUGH, "--log-dir", str(folder / kind), *flags[kind]]
        assert accuracy_run.main([*common, *own]) == 0
    return {kind: folder / kind / "accuracy.log" for kind in KINDS}


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> Judge:
    """Judge an accuracy log alone: the exit code and what is printed, every row where nothing else is asked for."""

    def run(log: Path, *flags: str, bound: str = ENOUGH) -> tuple[int, str]:
        capsys.readouterr()
        code = checker.main([str(log), "--only", "accuracy", "--max-accuracy-drop", bound, *(flags or ("--verbose",))])
        return code, capsys.readouterr().out

    return run


def failing(output: str) -> list[str]:
    return [row for row in output.splitlines()[1:-1] if row.endswith(("FAIL", "CANNOT JUDGE"))]


def column(records: Records, key: str) -> list[Any]:
    found: list[Any] = find(records, "prediction")[key]
    return found


def named(records: Records) -> None:
    """The names of the images that changed, as they follow from the predictions."""
    record = find(records, "prediction")
    names = [each["image"] for each in records if each["event"] == "sample" and each["output"] == "embedding"]
    rows = zip(names, record["reference"], record["device"], strict=False)
    record["changed_images"] = [name for name, reference, device in rows if reference != device]


def summed(records: Records) -> None:
    """The figures of the task as they follow from its predictions, as one would who edits a log with care."""
    named(records)
    record, task = find(records, "prediction"), find(records, "task")
    own = {key: value for key, value in record.items() if key in schema.keys(Prediction)}
    prediction = schema.decode(Prediction, own)
    task |= schema.encode(tasks.summarize([prediction], task["rounding"], task["neighbours"]))


def both(*edits: Edit) -> Edit:
    def edit(records: Records) -> None:
        for each in edits:
            each(records)

    return edit


def carefully(*edits: Edit) -> Edit:
    """The edits, and figures that follow from them."""
    return both(*edits, summed)


def at(key: str, place: int, value: Any) -> Edit:
    """An edit of one image."""

    def edit(records: Records) -> None:
        column(records, key)[place] = value

    return edit


MARGIN = 0.004  # more than float16's rounding
ERROR = 0.005


def lose(count: int) -> Edit:
    """The device errs by 0.5 % and no longer predicts what is right, by margins that such an error closes."""

    def edit(records: Records) -> None:
        record = find(records, "prediction")
        given = record.get("labels") or record["reference"]
        compared = [
            each for each in records if each["event"] in ("sample", "accuracy") and each["output"] == "embedding"
        ]
        embeddings = [each for each in compared if each["event"] == "sample"]
        for each in embeddings:  # which are of the outputs as they were
            each.pop("reference_top5", None)
            each.pop("device_top5", None)
        squared = {"nmse": ERROR**2, "sqnr_db": -10 * math.log10(ERROR**2), "one_minus_cosine": 0.0}
        for each in compared:
            each.update(relative_error=ERROR, relative_l2=ERROR, cosine_similarity=1.0, **squared)
        places = [place for place, right in enumerate(given) if record["reference"][place] == right][:count]
        for place in places:
            record["device"][place] = next(each for each in (0, 1, 2) if each != record["reference"][place])
            record["margins"][place] = MARGIN
            if find(records, "task")["by"] == "classes":
                embeddings[place]["top1_gap"] = 1e-6
                find(records, "accuracy", output="embedding")["top1_gap"] = 1e-6
        assert len(places) == count
        summed(records)

    return edit


# --------------------------------------------------------------------------------------------------------- good ones
@pytest.mark.parametrize("kind", KINDS)
def test_a_good_evaluation_passes(kind: str, logs: Logs, judge: Judge) -> None:
    code, output = judge(logs[kind])
    assert code == 0, output
    assert max(map(len, output.splitlines())) <= 100
    rows = {row[:30].strip() for row in output.splitlines() if row.startswith("task")}
    gated = {"knn": "task accuracy_drop", "classes": "task accuracy_drop", "nearest": "task neighbours kept"}
    assert {"task images", "task predictions", "task figures", gated.get(kind, "task changed")} <= rows


@pytest.mark.parametrize("kind", KINDS)
def test_at_a_glance_a_task_is_a_line(kind: str, logs: Logs, judge: Judge) -> None:
    _, output = judge(logs[kind], "--only", "accuracy")
    (line,) = [line for line in output.splitlines() if line.startswith("  task")]
    assert line.startswith("  task         PASS  0.")
    assert f"0 of {N} " in output
    nothing = "the task has no labels: neighbours are compared, and nothing of it is gated." in output
    assert nothing == (kind == "nearest")


def test_a_run_without_a_task_has_no_rows_of_one(logs: Logs, judge: Judge, tmp_path: Path) -> None:
    def without(records: Records) -> None:
        records[:] = [record for record in records if record["event"] not in ("task", "prediction")]

    code, output = judge(edited(logs["knn"], tmp_path / "accuracy.log", without))
    assert code == 0
    assert "task" not in output


# --------------------------------------------------------------------------------------------------------- the gates
@pytest.mark.parametrize(
    ("kind", "row"), [("knn", "accuracy_drop"), ("classes", "accuracy_drop"), ("unlabelled", "changed")]
)
def test_what_is_lost_fails_beyond_the_bound(kind: str, row: str, logs: Logs, judge: Judge, tmp_path: Path) -> None:
    """Six of 21 are 28.6 %, seven are 33.3 %; the log's own result stands or falls with them."""
    for count, expected in ((6, 0), (7, 1)):

        def edit(records: Records, count: int = count) -> None:
            lose(count)(records)
            find(records, "task")["result"] = "PASS" if count == 6 else "FAIL"

        code, output = judge(edited(logs[kind], tmp_path / "accuracy.log", edit))
        assert code == expected, output
        assert any(f"task {row}" in line for line in failing(output)) == bool(expected)


def test_what_is_won_elsewhere_does_not_make_up_for_what_is_lost(logs: Logs, judge: Judge, tmp_path: Path) -> None:
    """Six images that the reference gets wrong, and the device now right, as many as it loses."""

    def swap(records: Records) -> None:
        lose(6)(records)
        record = find(records, "prediction")
        places = [at for at, label in enumerate(record["labels"]) if record["reference"][at] != label]
        for place in places:
            record["device"][place], record["margins"][place] = record["labels"][place], MARGIN
        assert len(places) == 6
        summed(records)
        assert find(records, "task")["accuracy_drop"] == 0

    log = edited(logs["knn"], tmp_path / "accuracy.log", swap)
    assert judge(log)[0] == 0
    code, output = judge(log, bound="25")
    assert code == 1
    assert ["task", "lost", "28.571%", "<=", "25%", "FAIL"] in [row.split() for row in failing(output)]


def test_the_checkers_bound_counts_and_not_the_logs(logs: Logs, judge: Judge, tmp_path: Path) -> None:
    log = edited(logs["knn"], tmp_path / "accuracy.log", lose(3))
    assert judge(log)[0] == 0
    assert judge(log, bound="14")[0] == 1


def test_more_lost_than_the_bound_fails_with_any_number_of_images(logs: Logs, judge: Judge, tmp_path: Path) -> None:
    code, output = judge(edited(logs["knn"], tmp_path / "accuracy.log", lose(1)), bound="1")
    assert code == 1, output


@pytest.mark.parametrize("kind", ["knn", "classes", "unlabelled"])
def test_too_few_images_for_the_bound_cannot_be_judged(kind: str, logs: Logs, judge: Judge) -> None:
    code, output = judge(logs[kind], bound="1")
    assert code == 2
    (row,) = failing(output)
    assert row.split()[:5] == ["task", "size", "21", ">=", "299:"]
    assert "more, or --max-accuracy-drop 14%" in row
    code, output = judge(logs[kind], "--only", "accuracy", bound="1")
    assert "CANNOT JUDGE: the task has too few images: 21; wanted: >= 299: more, or --max-accuracy-drop 14%" in output


def test_neighbours_alone_are_never_too_few(logs: Logs, judge: Judge) -> None:
    assert judge(logs["nearest"], bound="1")[0] == 0


def test_a_reference_that_can_lose_nothing_cannot_be_judged(logs: Logs, judge: Judge) -> None:
    """It is right on less than the bound lets the device lose."""
    code, output = judge(logs["knn"], bound="80")
    assert code == 2
    (row,) = failing(output)
    assert row.split()[:4] == ["task", "reference_accuracy", "71.429%", ">"]
    _, output = judge(logs["knn"], "--only", "accuracy", bound="80")
    assert "the reference itself is right on 71.429% of the task's images" in output


# --------------------------------------------------------------------------------------------------------- the edits
def an_image_less(records: Records) -> None:
    for key in ("labels", "reference", "device", "margins"):
        column(records, key).pop()


def another_name(records: Records) -> None:
    column(records, "changed_images")[0] = "another.png"


def of_another_class(records: Records) -> None:
    """As if the folder 9 were the class 8."""
    find(records, "task")["classes"]["9"] = 8
    record = find(records, "prediction")
    record["labels"] = [8 if label == 9 else label for label in record["labels"]]
    summed(records)


FIGURES = [
    *(("images", 22), ("reference_accuracy", 1.0), ("reference_accuracy", None), ("device_accuracy", 0.99)),
    *(("accuracy_drop", -0.01), ("lost", 1), ("lost", None), ("changed", 1), ("ties", 1), ("changed_at_most", 0.0)),
    ("neighbours_kept", 1.0),
]
# Of each the log, an edit, the words of the row that does not pass, and the exit code.
EDITS: dict[str, tuple[str, Edit, str, int]] = {
    **{f"{key} {value}": ("knn", change("task", key, value), f"{key} contradicts", 1) for key, value in FIGURES},
    "neighbours that were not kept": ("nearest", at("kept", 3, 9), "neighbours_kept contradicts", 1),
    "a result": ("knn", change("task", "result", "FAIL"), "task result in the log", 1),
    "no result": ("knn", change("task", "result", None), "task result in the log", 1),
    "a result of neighbours": ("nearest", change("task", "result", "PASS"), "task result in the log", 1),
    "a prediction of the device": ("knn", at("device", 0, 1), "the names of what changed", 2),
    "a prediction of the reference": ("classes", at("reference", 0, 1), "the names of what changed", 2),
    "the same prediction of both": ("knn", both(at("reference", 0, 2), at("device", 0, 2)), "contradicts", 1),
    "a name": ("knn", both(carefully(at("device", 0, 1), at("margins", 0, 0.0)), another_name), "another name", 1),
    "names of nothing": ("knn", change("prediction", "changed_images", ["9/0000.png"]), "names of what changed", 2),
    "a changed class, with care": ("classes", carefully(at("device", 0, 1)), "image 0 contradicts its top1_gap", 1),
    "a changed vote, with care": ("knn", carefully(at("device", 0, 1), at("margins", 0, 0.5)), "by less than its", 1),
    "a label": ("knn", at("labels", 20, 1), "label of image 20 is not its folder's", 1),
    "a label, with care": ("classes", carefully(at("labels", 20, 4)), "label of image 20 is not its folder's", 1),
    "a class": ("classes", change("task", "classes", {"4": 5, "6": 6, "9": 9}), "a label is none of the classes", 1),
    "a class and all its labels": ("classes", of_another_class, "the class of the label 9 is another", 1),
    "an image less": ("knn", carefully(an_image_less), "task images", 1),
    "another source of labels": ("knn", change("task", "labels", "labels.csv"), "labels from elsewhere", 2),
    "another reference": ("knn", change("task", "reference", "float64"), "task images", 1),
    "a neighbour of its own": ("nearest", carefully(at("device", 5, 5), at("margins", 5, 0.0)), "its own neigh", 1),
    "no predictions": ("knn", drop("prediction"), "no prediction records", 2),
    "no task": ("knn", drop("task"), "0 task records, not 1", 2),
    "predictions twice": ("knn", lambda r: r.insert(-1, dict(find(r, "prediction"))), "not one image after another", 2),
    "a place": ("knn", change("prediction", "first", 1), "not one image after another", 2),
    "a list that is short": ("knn", lambda r: column(r, "device").pop(), "different lengths", 2),
    "no labels": ("knn", lambda r: find(r, "prediction").pop("labels"), "not what the task is judged by", 2),
    "labels that are said not to be": ("knn", change("task", "labels", None), "not what the task is judged by", 2),
    "kept neighbours of a vote": ("knn", lambda r: find(r, "prediction").update(kept=[1] * N), "not what the task", 2),
    "more kept than there are": ("nearest", at("kept", 0, 11), "more neighbours kept", 2),
    "a margin below 0": ("knn", at("margins", 0, -1e-9), "a margin that is no relative L2", 2),
    "a margin above 1": ("knn", at("margins", 0, 1.5), "a margin that is no relative L2", 2),
    "a rounding": ("knn", change("task", "rounding", 0.5), "rounding is not that of float16", 2),
    "a temperature": ("knn", change("task", "temperature", 0.7), "not the temperature", 2),
    "a temperature of classes": ("classes", change("task", "temperature", 0.07), "not the temperature", 2),
    "fewer neighbours": ("knn", change("task", "neighbours", 5), "not as many neighbours", 2),
    "neighbours of classes": ("classes", change("task", "neighbours", 5), "not as many neighbours", 2),
    "another way to judge": ("knn", change("task", "by", "classes"), "not the temperature", 2),
    "classes of no classifier": ("classes", change("model", "classifier", False), "no classifier", 2),
    "no classes": ("knn", change("task", "classes", {}), "labels without classes", 2),
    "classes without labels": ("unlabelled", change("task", "classes", {"9": 9}), "classes without labels", 2),
    "classes in another order": ("knn", change("task", "classes", {"4": 1, "6": 0, "9": 2}), "not numbered", 2),
    "a class too many": ("knn", change("task", "classes", {"4": 0, "6": 1, "9": 2, "a": 3}), "not those of", 2),
    "a class that there is not": ("classes", both(at("device", 0, 10), named), "an index of nothing", 2),
    "a vote for nothing": ("knn", both(at("device", 0, 3), named), "an index of nothing", 2),
    "less than nothing": ("knn", both(at("device", 0, -2), named), "an index of nothing", 2),
    "a neighbour that there is not": ("nearest", both(at("reference", 0, N), named), "an index of nothing", 2),
    "a bound of nothing": ("knn", change("task", "threshold", 0.0), "figures out of range", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_was_signed_again_does_not_pass(name: str, logs: Logs, judge: Judge, tmp_path: Path) -> None:
    kind, edit, words, expected = EDITS[name]
    log = edited(logs[kind], tmp_path / "accuracy.log", edit)
    code, output = judge(log)
    assert code == expected, output
    assert any(words in row for row in failing(output)), output
    code, output = judge(log, "--only", "accuracy")
    assert code == expected, output
    assert max(map(len, output.splitlines())) <= 100


def test_a_log_without_changes_stays_good_with_other_margins(logs: Logs, judge: Judge, tmp_path: Path) -> None:
    """What no figure follows from; a margin of a prediction that stayed informs the plot alone."""
    assert judge(edited(logs["knn"], tmp_path / "accuracy.log", at("margins", 0, 0.25)))[0] == 0
