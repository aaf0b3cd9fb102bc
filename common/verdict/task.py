"""The checks of an evaluation on a task: predictions that fit their images, figures computed again, the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from itertools import chain, pairwise
from operator import ne

from common.log import formulas, schema, tasks
from common.log.conclusions import Words
from common.log.events import CLASSES, KNN, NEAREST, OUTPUTS, Accuracy, Model, Prediction, Sample, Task
from common.log.figures import bound
from common.log.reader import Run, UnjudgeableError
from common.log.samples import MOST_SINGLE, each_sample
from common.log.tasks import FOLDERS, NO_PREDICTION, Seen, images_of
from common.verdict.evidence import Check, Verdict, at_most, equal, judgeable, passed

EMBEDDING = OUTPUTS[0]
FIRST_ORDER = 0.1  # of a margin, which neglects the square of the error
ROUNDING = 1e-5  # of the float32 numbers that it is computed from


def check_task(run: Run, allowed: float) -> Iterator[Check]:
    """What the device's error does to the task, by this bound; nothing of a run that was not asked for it."""
    predictions = run.all(Prediction)
    if not run.all(Task) and not predictions:
        return
    task, model = run.one(Task), run.one(Model)
    require_whole(task, predictions)
    require_source(task, run.start.argv)
    n, count = sum(len(each.reference) for each in predictions), sum(1 for _ in samples_of(run, task))
    yield Check("task images", f"{n}", f"{count}, the samples", passed(n == count))
    if n != count:
        return
    require_meaning(task, predictions, n, next(samples_of(run, task)).shape[-1], model)
    fault = next(chain(faults_of_labels(run, task, predictions), faults_of_predictions(run, task, predictions)), None)
    yield Check("task predictions", fault or "fit their images", "of these images", passed(fault is None))
    computed = schema.encode(tasks.summarize(predictions, task.rounding, task.neighbours))
    stated = schema.encode(task.figures)
    wrong = [key for key, figure in computed.items() if not equal(stated[key], figure)]
    value = f"{wrong[0]} contradicts its predictions" if wrong else f"n={n}, computed again"
    yield Check("task figures", value, "equal", passed(not wrong))
    if not wrong:
        yield from check_gate(task, allowed)


def check_gate(task: Task, allowed: float) -> Iterator[Check]:
    """What was lost, and whether so many images, and such labels, can show it."""
    result = tasks.result_of(task)
    yield Check("task result in the log", str(task.result), str(result), passed(task.result == result))
    gated = tasks.gated(task, allowed)
    if not gated:
        yield Check("task neighbours kept", bound(task.figures.neighbours_kept or 0.0), "any: no labels", Verdict.PASS)
        return
    for each in gated:
        yield Check(f"task {each.name}", bound(each.value), at_most(allowed), passed(each.passes))
    if not all(each.passes for each in gated):  # with any number of images
        return
    enough, right = tasks.is_supported(task, allowed)
    images, least = task.figures.images, tasks.upwards(tasks.largest_rate(0, task.figures.images))
    wanted = f">= {tasks.fewest_images(allowed)}" + ("" if enough else f": more, or --max-accuracy-drop {least}")
    yield Check("task size", f"{images}", wanted, judgeable(enough))
    accuracy = task.figures.reference_accuracy
    if accuracy is not None:
        least = bound(tasks.least_accuracy(task, allowed))
        yield Check("task reference_accuracy", bound(accuracy), f"> {least}", judgeable(right))


def conclusion_of(run: Run) -> Words | None:
    """What a run's error does to the task, in words; None of a run without a task. The figures are the log's own."""
    task = next(iter(run.all(Task)), None)
    if task is None:
        return None
    done, compared = tasks.conclude_task(task, error_of(run, task)), tasks.compare_accuracies(task)
    return Words(f"{done.en}; {compared.en}", f"{done.zh}；{compared.zh}") if compared else done


def error_of(run: Run, task: Task) -> float | None:
    """The worst relative L2 of the embeddings that were judged; None where it is not finite or not there."""
    found = [each for each in run.all(Accuracy) if (each.output, each.reference) == (EMBEDDING, task.reference)]
    return found[0].worst.relative_l2 if found else None


def samples_of(run: Run, task: Task) -> Iterator[Sample]:
    """Those of the embeddings that the predictions were made from: theirs are in the same order."""
    return (each for each in each_sample(run) if (each.output, each.reference) == (EMBEDDING, task.reference))


# ------------------------------------------------------------------------------------------------ what no run writes
def require_whole(task: Task, predictions: Sequence[Prediction]) -> None:
    """Raises UnjudgeableError unless all predictions are there, each with what its kind of task has."""
    place = 0
    for each in predictions:
        columns: list[Sized | None] = [each.reference, each.device, each.margins, each.labels, each.kept]
        if each.first != place or not each.reference:
            raise UnjudgeableError("prediction records: not one image after another")
        if len({len(column) for column in columns if column is not None}) != 1:
            raise UnjudgeableError("prediction record: lists of different lengths")
        if (each.labels is None, each.kept is None) != (task.labels is None, task.by != NEAREST):
            raise UnjudgeableError("prediction record: not what the task is judged by")
        if not all(0 <= margin <= 1 for margin in each.margins):
            raise UnjudgeableError("prediction record: a margin that is no relative L2")
        if each.kept is not None and not all(0 <= kept <= (task.neighbours or 0) for kept in each.kept):
            raise UnjudgeableError("prediction record: more neighbours kept than there are")
        if len(each.changed_images) != sum(map(ne, each.reference, each.device)):
            raise UnjudgeableError("prediction record: the names of what changed are not as many")
        place += len(each.reference)
    if not place:
        raise UnjudgeableError("no prediction records")


def require_source(task: Task, argv: Sequence[str]) -> None:
    """Raises UnjudgeableError for labels from elsewhere than the run's command line says."""
    typed = [word.removeprefix("--labels=") for word in argv if word.startswith("--labels=")]
    typed += [word for flag, word in pairwise(argv) if flag == "--labels"]
    if task.labels not in (None, *(typed[-1:] or [FOLDERS])):
        raise UnjudgeableError("task record: labels from elsewhere than the command line says")


def require_meaning(task: Task, predictions: Sequence[Prediction], n: int, classes: int, model: Model) -> None:
    """Raises UnjudgeableError for a task that no run asks of this model and these n images.

    `classes` is how many a classifier has.
    """
    if task.rounding != formulas.rounding_of(model.dtype):
        raise UnjudgeableError(f"task record: rounding is not that of {model.dtype}")
    if task.temperature != (tasks.TEMPERATURE if task.by == KNN else None):
        raise UnjudgeableError("task record: not the temperature of a vote")
    if (task.labels is None) != (not task.classes) or (task.by == NEAREST and task.classes):
        raise UnjudgeableError("task record: labels without classes, or classes without labels")
    if task.by == CLASSES and not model.classifier:
        raise UnjudgeableError("task record: classes of a model that is no classifier")
    if task.by == KNN and task.classes != {label: index for index, label in enumerate(sorted(task.classes))}:
        raise UnjudgeableError("task record: classes that are not numbered in their order")
    counts = Counter(chain.from_iterable(each.labels or () for each in predictions))
    if task.by == KNN and (len(counts) < 2 or set(counts) != set(task.classes.values())):
        raise UnjudgeableError("task record: classes that are not those of the labels")
    asked = {
        CLASSES: None,
        KNN: min(tasks.MOST_VOTES, min(counts.values(), default=0)),
        NEAREST: min(tasks.MOST_COMPARED, n - 1),
    }
    if task.neighbours != asked[task.by]:
        raise UnjudgeableError("task record: not as many neighbours as are asked")
    largest = {CLASSES: classes, KNN: len(task.classes), NEAREST: n}[task.by]
    predicted = {index for each in predictions for side in (each.reference, each.device) for index in side}
    if not all(NO_PREDICTION <= index < largest for index in predicted):
        raise UnjudgeableError("prediction record: an index of nothing")
    if not all(0 <= index < largest for index in task.classes.values()):
        raise UnjudgeableError("task record: an index of nothing")


# ------------------------------------------------------------------------------------------------- contradictions
def faults_of_labels(run: Run, task: Task, predictions: Sequence[Prediction]) -> Iterator[str]:
    """Labels that are not those of the images' folders, as far as these are recorded, or not of the classes."""
    known = set(task.classes.values())
    if any(image.label not in known for image in images_of(predictions) if image.label is not None):
        yield "a label is none of the classes"
    named = (each for each in run.all(Sample) if (each.output, each.reference) == (EMBEDDING, task.reference))
    for image, sample in zip(images_of(predictions), named, strict=False):
        if task.labels == FOLDERS and task.classes.get(tasks.class_of(sample.image) or "") != image.label:
            yield f"the label of image {image.place} is not its folder's"
    for label, index in task.classes.items():
        if task.by == CLASSES and label.isascii() and label.isdigit() and int(label) != index:
            yield f"the class of the label {label:.20} is another"


def faults_of_predictions(run: Run, task: Task, predictions: Sequence[Prediction]) -> Iterator[str]:
    """Predictions that the samples' own figures rule out: an error does not change more than it can."""
    names = iter([name for each in predictions for name in each.changed_images])
    largest = error_of(run, task)
    for image, sample in zip(images_of(predictions), samples_of(run, task), strict=True):
        gap, error = sample.metrics.top1_gap, sample.metrics.relative_l2 if task.by == CLASSES else largest
        if task.by == CLASSES and gap is not None and contradicts(image, gap):
            yield f"the class of image {image.place} contradicts its top1_gap"
        if task.by == NEAREST and image.place in (image.reference, image.device):
            yield f"image {image.place} is its own neighbour"
        if not image.changed:
            continue
        if error is not None and image.margin > error * (1 + FIRST_ORDER) + ROUNDING:
            yield f"image {image.place} changed by less than its margin"
        if next(names) != sample.image and image.place < MOST_SINGLE:
            yield f"image {image.place} changed by another name"


def contradicts(image: Seen, gap: float) -> bool:
    """Whether a class stayed where a sample's top1_gap says that it changed, or the other way, beyond rounding."""
    return gap == 0 and image.margin > ROUNDING if image.changed else gap > ROUNDING
