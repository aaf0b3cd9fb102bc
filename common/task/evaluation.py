"""The evaluation on a task: what the reference and the device make of the same images, printed and recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from common.encoder.base import OwnClasses
from common.errors import UserError
from common.log import formulas, tasks
from common.log.events import CLASSES, KNN, NEAREST, Prediction, Task
from common.log.figures import format_figure
from common.log.schema import Integers, Numbers
from common.log.writer import RunLog
from common.task import labels, neighbours
from common.task.labels import Labels

IMAGES_A_RECORD = 1000
MOST_PRINTED = 5  # of the images whose prediction changed


@dataclass(frozen=True)
class Sides:
    """What both sides give of N images by their names: `reference` and `device` [N, D] on the CPU.

    `against` is what the reference is, `dtype` what the device computes in.
    """

    images: Sequence[str]
    reference: Tensor
    device: Tensor
    against: str
    dtype: str

    @classmethod
    def of(cls, images: Sequence[str], reference: np.ndarray, device: np.ndarray, against: str, dtype: str) -> Sides:
        """Of arrays that may be mapped from files, of which torch takes copies."""
        r, y = (torch.from_numpy(np.require(each, requirements="W")) for each in (reference, device))
        return cls(images, r, y, against, dtype)

    @property
    def error(self) -> float | None:
        """The worst relative L2 of the device's embeddings from the reference's; None where one is not finite."""
        errors = []
        for at in neighbours.chunks(*self.reference.shape):
            reference, device = self.reference[at].double(), self.device[at].double()
            errors.append((device - reference).norm(dim=1) / reference.norm(dim=1))
        worst = float(torch.cat(errors).max())
        return worst if math.isfinite(worst) else None


@dataclass(frozen=True)
class Question:
    """What is asked of each image: by what it is judged, and its label [N], if any, by the indices of `classes`."""

    by: str
    labels: Tensor | None = None
    source: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()  # for people


@dataclass(frozen=True)
class Answers:
    """The predictions [N] of both sides, and the margins of the reference's.

    `neighbours` is how many were asked; `kept` [N] counts those that are the same.
    """

    reference: Tensor
    device: Tensor
    margins: Tensor
    neighbours: int | None = None
    kept: Tensor | None = None


def evaluate(log: RunLog, sides: Sides, own: OwnClasses | None, wanted: str | None, allowed: float) -> Task:
    """Judge both sides on the task, print and record what comes out.

    `own` are a classifier's classes, `wanted` is what --labels names, `allowed` the largest change of the accuracy that
    passes. Raises UserError for labels that do not fit, and for an image alone.
    """
    if len(sides.images) < 2:
        raise UserError("--task compares images with each other, and there is one: --image names a folder of more")
    question = ask(sides.images, own, wanted)
    answers = ANSWERS[question.by](sides, question)
    predictions = list(split(sides.images, question, answers))
    rounding = formulas.rounding_of(sides.dtype)
    task = Task(
        by=question.by,
        reference=sides.against,
        labels=question.source,
        classes=question.classes,
        neighbours=answers.neighbours,
        temperature=tasks.TEMPERATURE if question.by == KNN else None,
        rounding=rounding,
        figures=tasks.summarize(predictions, rounding, answers.neighbours),
        threshold=allowed,
        result=None,
    )
    task = replace(task, result=tasks.result_of(task))
    for prediction in predictions:
        log.record(prediction)
    log.line()
    for note in question.notes:
        log.line(f"note: {note}")
    report(log, task, predictions, sides.error)
    log.record(task)
    return task


def split(images: Sequence[str], question: Question, answers: Answers) -> Iterator[Prediction]:
    """The answers as records, each of so many images."""
    changed = (answers.reference != answers.device).tolist()
    for first in range(0, len(images), IMAGES_A_RECORD):
        at = slice(first, first + IMAGES_A_RECORD)
        yield Prediction(
            first=first,
            labels=None if question.labels is None else Integers(question.labels[at].tolist()),
            reference=Integers(answers.reference[at].tolist()),
            device=Integers(answers.device[at].tolist()),
            margins=Numbers(answers.margins[at].tolist()),
            kept=None if answers.kept is None else Integers(answers.kept[at].tolist()),
            changed_images=[name for name, other in zip(images[at], changed[at], strict=True) if other],
        )


# -------------------------------------------------------------------------------------------------------- the question
def ask(images: Sequence[str], own: OwnClasses | None, wanted: str | None) -> Question:
    """By what these images can be judged: a classifier by its own classes, an encoder by the labels of neighbours.

    Raises UserError for labels that do not fit.
    """
    given, notes = labels.labels_of(images, wanted), []
    if given and own:
        indices = labels.indices_of(given, own)
        if indices:
            return Question(CLASSES, _indexed(given, indices), given.source, indices)
        some = ", ".join(given.different[: labels.SHOWN])
        notes.append(f"the labels ({some}) are no classes of the model: its neighbours vote")
    if given and len(given.different) > 1:
        indices = {text: index for index, text in enumerate(given.different)}
        return Question(KNN, _indexed(given, indices), given.source, indices, notes)
    if given:
        notes = [f"all images have the one label {given.different[0]}, which tells nothing: done without labels"]
    return Question(CLASSES if own else NEAREST, notes=notes)


def _indexed(given: Labels, indices: dict[str, int]) -> Tensor:
    return torch.tensor([indices[text] for text in given.texts])


# --------------------------------------------------------------------------------------------------------- the answers
def by_classes(sides: Sides, question: Question) -> Answers:
    """The largest logit of each side."""
    reference, device = (neighbours.predict_classes(each) for each in (sides.reference, sides.device))
    return Answers(reference, device, neighbours.class_margins(sides.reference, reference, device))


def by_vote(sides: Sides, question: Question) -> Answers:
    """What the nearest others vote for: as many as DINO's evaluation asks, but no more than the smallest class has."""
    given = question.labels
    assert given is not None
    k = min(tasks.MOST_VOTES, int(given.bincount()[given].min()))
    ours = neighbours.find(sides.reference, 2 * k, "neighbours of the reference")
    theirs = neighbours.find(sides.device, k, "neighbours of the device")
    reference, device = (neighbours.vote(each, given, k) for each in (ours, theirs))
    return Answers(reference, device, neighbours.vote_margins(ours, given, k, reference, device), k)


def by_nearest(sides: Sides, question: Question) -> Answers:
    """The nearest other, and how many of the ten nearest are the same."""
    ours = neighbours.find(sides.reference, tasks.MOST_COMPARED, "neighbours of the reference")
    theirs = neighbours.find(sides.device, tasks.MOST_COMPARED, "neighbours of the device")
    reference, device = (neighbours.nearest(each) for each in (ours, theirs))
    margins = neighbours.nearest_margins(ours, sides.reference, reference, device)
    return Answers(reference, device, margins, ours.place.shape[1], neighbours.kept(ours, theirs))


ANSWERS: dict[str, Callable[[Sides, Question], Answers]] = {
    CLASSES: by_classes,
    KNN: by_vote,
    NEAREST: by_nearest,
}


# ---------------------------------------------------------------------------------------------------------- the report
def report(log: RunLog, task: Task, predictions: Sequence[Prediction], error: float | None) -> None:
    """Print what was asked, the figures by their keys, what changed, and what that says."""
    figures = task.figures
    log.line(f"Task: {tasks.describe_task(task).en}")
    for key in tasks.TASK_KEYS:
        value = getattr(figures, key)
        if value is not None:
            log.line(f"task {key}: {format_figure(key, value)}")
    for name, image in islice(tasks.changes_of(predictions), MOST_PRINTED):
        log.line(f"  {name}: {tasks.describe_change(image, task).en}")
    if figures.changed > MOST_PRINTED:
        log.line(f"  ... and {figures.changed - MOST_PRINTED} more, each in the log's records")
    for doubt in tasks.doubts_of_task(task, task.threshold):
        log.line(f"warning: {doubt.en}")
    if task.result:
        log.line(f"task threshold: {format_figure('threshold', task.threshold)}")
        log.line(f"task result: {task.result}")
    log.line(f"task: {tasks.conclude_task(task, error).en}")
