"""What follows from predictions: accuracies, changes, ties, the bound of Clopper and Pearson, the gate, the words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.words import in_both
from scipy.stats import beta, binom

from common.log import tasks
from common.log.events import CLASSES, KNN, NEAREST, Prediction, Task, TaskFigures
from common.log.schema import Integers, Numbers

ROUNDING = 1e-5


def prediction(first: int = 0, **columns: Any) -> Prediction:
    """Images with these columns; their margins are large unless they are given."""
    margins = columns.pop("margins", [0.1] * len(columns["reference"]))
    made = {key: Integers(column) for key, column in columns.items()}
    changed = [f"{at}.png" for at in range(len(margins)) if columns["reference"][at] != columns["device"][at]]
    return Prediction(first=first, margins=Numbers(margins), changed_images=changed, **made)


def task(images: int = 500, *, by: str = CLASSES, changed: int = 0, ties: int = 0, **more: Any) -> Task:
    """A task with the figures of so many images, a tenth of which the reference gets wrong where there are labels."""
    drop = more.pop("drop", 0)
    labelled = {"reference_accuracy": 0.9, "device_accuracy": 0.9 - drop, "accuracy_drop": drop}
    labelled["lost"] = more.pop("lost", round(max(drop, 0) * images) - ties)
    known = labelled if more.get("labels") else dict.fromkeys(labelled)
    figures = TaskFigures(
        images=images,
        changed=changed,
        ties=ties,
        changed_at_most=tasks.largest_rate(changed, images),
        neighbours_kept=0.95 if by == NEAREST else None,
        **known,
    )
    fields = {"labels": None, "classes": {"cat": 0, "dog": 1} if more.get("labels") else {}, "threshold": 0.01, **more}
    neighbours = {CLASSES: None, KNN: 20, NEAREST: 10}[by]
    fixed: dict[str, Any] = {"temperature": 0.07 if by == KNN else None, "rounding": ROUNDING, "result": None}
    return Task(by=by, reference="float32", neighbours=neighbours, figures=figures, **fixed, **fields)


# --------------------------------------------------------------------------------------------------------- the figures
def test_figures_of_six_images_by_hand() -> None:
    """In two records: right on both sides, wrong on both, lost, won, lost by a tie, and wrong in another way."""
    records = [
        prediction(labels=[0, 1, 0], reference=[0, 0, 0], device=[0, 0, 1]),
        prediction(3, labels=[1, 1, 2], reference=[0, 1, 0], device=[1, 0, 1], margins=[0.2, ROUNDING, 0.2]),
    ]
    assert tasks.summarize(records, ROUNDING, None) == TaskFigures(
        images=6,
        reference_accuracy=3 / 6,
        device_accuracy=2 / 6,
        accuracy_drop=1 / 6,
        lost=1,
        changed=4,
        ties=1,
        changed_at_most=tasks.largest_rate(4, 6),
        neighbours_kept=None,
    )


def test_without_labels_there_is_no_accuracy() -> None:
    figures = tasks.summarize([prediction(reference=[3, 5], device=[3, 4], kept=[10, 7])], ROUNDING, 10)
    assert (figures.reference_accuracy, figures.device_accuracy, figures.accuracy_drop) == (None, None, None)
    assert (figures.changed, figures.neighbours_kept) == (1, 0.85)


@pytest.mark.parametrize(("reference", "device"), [(tasks.NO_PREDICTION, 1), (1, tasks.NO_PREDICTION)])
def test_what_is_not_finite_is_no_tie(reference: int, device: int) -> None:
    figures = tasks.summarize([prediction(reference=[reference], device=[device], margins=[0.0])], ROUNDING, None)
    assert (figures.changed, figures.ties) == (1, 0)


def test_a_drop_is_counted_in_images_and_not_in_rounding() -> None:
    """0.932 - 0.922 is more than 0.01 in float64; five images of 500 are not."""
    records = [prediction(labels=[0] * 500, reference=[0] * 466 + [1] * 34, device=[0] * 461 + [1] * 39)]
    assert tasks.summarize(records, ROUNDING, None).accuracy_drop == 0.01


# ----------------------------------------------------------------------------------------------------------- the bound
@pytest.mark.parametrize("n", [1, 2, 10, 299, 500, 5000, 1_000_000])
def test_the_bound_is_scipys(n: int) -> None:
    for count in {0, 1, 2, n // 100, n // 2, n - 1}:
        if count < n:
            assert tasks.largest_rate(count, n) == pytest.approx(beta.ppf(0.95, count + 1, n - count), rel=1e-8)
    assert tasks.largest_rate(n, n) == 1


@pytest.mark.parametrize(("count", "n"), [(0, 500), (3, 500), (40, 90)])
def test_at_the_bound_so_few_happen_in_five_percent_of_all_samples(count: int, n: int) -> None:
    assert binom.cdf(count, n, tasks.largest_rate(count, n)) == pytest.approx(0.05)


def test_none_among_n_allows_about_three() -> None:
    assert tasks.largest_rate(0, 500) == pytest.approx(0.005974, abs=1e-6)
    assert tasks.largest_rate(0, 10_000) == pytest.approx(3 / 10_000, rel=2e-3)


def test_the_images_that_changed_have_their_names() -> None:
    records = [prediction(reference=[3, 5], device=[3, 4]), prediction(2, reference=[1], device=[2])]
    found = [(name, image.place, image.device) for name, image in tasks.changes_of(records)]
    assert found == [("1.png", 1, 4), ("0.png", 2, 2)]


@pytest.mark.parametrize("drop", [0.5, 0.05, 0.01, 0.001])
def test_the_fewest_images_are_those_that_could_show_it(drop: float) -> None:
    fewest = tasks.fewest_images(drop)
    assert tasks.largest_rate(0, fewest) <= drop < tasks.largest_rate(0, fewest - 1)


def test_one_percent_takes_299_images_and_all_of_it_one() -> None:
    assert (tasks.fewest_images(0.01), tasks.fewest_images(1.0), tasks.fewest_images(2.0)) == (299, 1, 1)


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.005974, "0.6%"),
        (0.0125, "1.3%"),
        (0.0101, "1.1%"),
        (0.1, "10%"),
        (0.999, "100%"),
        (1.0, "100%"),
        (3e-6, "0.0003%"),
    ],
)
def test_a_bound_is_rounded_upwards(share: float, shown: str) -> None:
    assert tasks.upwards(share) == shown


# ------------------------------------------------------------------------------------------------------------ the gate
LABELLED = {"labels": tasks.FOLDERS}
GATES: dict[str, tuple[Task, str | None]] = {
    "nothing lost": (task(**LABELLED), "PASS"),
    "as much lost as may be": (task(**LABELLED, changed=5, drop=0.01), "PASS"),
    "more lost": (task(**LABELLED, changed=6, drop=0.012), "FAIL"),
    "as much lost, and won elsewhere": (task(**LABELLED, changed=10, drop=0.0, lost=5), "PASS"),
    "more lost, and won elsewhere": (task(**LABELLED, changed=12, drop=0.0, lost=6), "FAIL"),
    "nothing lost, and much won": (task(**LABELLED, changed=40, drop=-0.08), "PASS"),
    "too few images": (task(298, **LABELLED), "CANNOT JUDGE"),
    "just enough": (task(299, **LABELLED), "PASS"),
    "too few images, and more lost": (task(8, **LABELLED, changed=1, drop=0.125), "FAIL"),
    "a vote": (task(by=KNN, **LABELLED), "PASS"),
    "classes without labels": (task(changed=5), "PASS"),
    "classes without labels that change": (task(changed=6), "FAIL"),
    "classes without labels that are tied": (task(changed=6, ties=1), "PASS"),
    "ties that are lost": (task(**LABELLED, changed=6, ties=6, drop=0.012), "FAIL"),
    "ties that are lost, and won elsewhere": (task(**LABELLED, changed=12, ties=12, drop=0.0, lost=0), "PASS"),
    "nearest neighbours": (task(by=NEAREST, changed=100), None),
}


@pytest.mark.parametrize("name", GATES)
def test_the_gate(name: str) -> None:
    found, result = GATES[name]
    assert tasks.result_of(found) == result


@pytest.mark.parametrize(
    ("by", "accuracy", "result"),
    [
        (CLASSES, 0.0, "CANNOT JUDGE"),
        (CLASSES, 0.01, "CANNOT JUDGE"),
        (CLASSES, 0.02, "PASS"),
        (KNN, 0.5, "CANNOT JUDGE"),
        (KNN, 0.51, "PASS"),
    ],
)
def test_where_nothing_can_be_lost_nothing_is_proved(by: str, accuracy: float, result: str) -> None:
    """A reference that is never right loses nothing, and a vote between two classes is right by chance."""
    found = task(by=by, **LABELLED)
    figures = dataclasses.replace(found.figures, reference_accuracy=accuracy, device_accuracy=accuracy)
    assert tasks.result_of(dataclasses.replace(found, figures=figures)) == result


def test_what_keeps_a_gate_from_proving_anything_is_said() -> None:
    few = task(100, **LABELLED)
    (doubt,) = tasks.doubts_of_task(few, 0.01)
    in_both(doubt, "100 images are too few for a bound of 1%: it takes 299, or --max-accuracy-drop 3%")
    assert not list(tasks.doubts_of_task(few, 0.03))
    wrong = dataclasses.replace(few, figures=dataclasses.replace(few.figures, images=500, reference_accuracy=0.001))
    (doubt,) = tasks.doubts_of_task(wrong, 0.01)
    in_both(
        doubt,
        "the reference itself is right on 0.1% of the images, no more than the 1% that prove nothing: are "
        "these labels what the encoder tells apart?",
    )
    assert not list(tasks.doubts_of_task(task(5, by=NEAREST), 0.01))


# ------------------------------------------------------------------------------------------------------------ in words
CONCLUSIONS = {
    "0.3500% of error, 0 of 500 predictions changed, at most 0.6% with 95% confidence": task(),
    "0.3500% of error, 3 of 500 predictions changed (1 tie), at most 1.6% with 95% confidence": task(
        changed=3, ties=1, **LABELLED
    ),
    "0.3500% of error, 3 of 500 predictions changed (2 ties), at most 1.6% with 95% confidence": task(
        changed=3, ties=2
    ),
    "0.3500% of error, 2 of 500 nearest neighbours changed, at most 1.3% with 95% confidence; of the 10 nearest 95% "
    "are the same": task(by=NEAREST, changed=2),
}


@pytest.mark.parametrize("text", CONCLUSIONS)
def test_what_an_error_does_is_said_in_words(text: str) -> None:
    in_both(tasks.conclude_task(CONCLUSIONS[text], 0.0035), text)


def test_accuracies_are_compared_in_words() -> None:
    words = tasks.compare_accuracies(task(drop=0.002, **LABELLED))
    assert words
    in_both(words, "accuracy 89.8%, of the reference 90%, 1 lost")
    assert tasks.compare_accuracies(task()) is None


ASKED = {
    "500 images without labels, judged by the model's own classes": task(),
    "500 images of 2 classes (by folder), judged by the model's own classes": task(**LABELLED),
    "500 images of 2 classes (by a.csv), judged by a vote of their 20 nearest neighbours": task(by=KNN, labels="a.csv"),
    "500 images without labels, judged by their 10 nearest neighbours": task(by=NEAREST),
    "500 images of 2 classes (by folder), judged by a vote of their 1 nearest neighbour": dataclasses.replace(
        task(by=KNN, **LABELLED), neighbours=1
    ),
}


@pytest.mark.parametrize("text", ASKED)
def test_what_was_asked_is_said_in_words(text: str) -> None:
    in_both(tasks.describe_task(ASKED[text]), text)


CHANGES = {
    "cat -> dog (label: cat), margin 0.0200%": (task(**LABELLED), tasks.Seen(0, 0, 0, 1, 2e-4)),
    "cat -> class 7 (label: cat), margin 0.0001%, a tie": (task(**LABELLED), tasks.Seen(0, 0, 0, 7, 1e-6)),
    "class 1 -> -, margin 0%": (task(), tasks.Seen(0, None, 1, -1, 0.0)),
    "image 2 -> image 3, margin 10.0000%": (task(by=NEAREST), tasks.Seen(0, None, 1, 2, 0.1)),
}


@pytest.mark.parametrize("text", CHANGES)
def test_a_change_is_said_in_words(text: str) -> None:
    asked, seen = CHANGES[text]
    in_both(tasks.describe_change(seen, asked), text)


@pytest.mark.parametrize(
    ("image", "label"),
    [("cat/1.png", "cat"), ("val/cat/1.png", "cat"), ("1.png", None), ("cat/1.png crop 3", "cat"), ("~/1.png", "~")],
)
def test_an_images_label_is_its_own_folder(image: str, label: str | None) -> None:
    assert tasks.class_of(image) == label
