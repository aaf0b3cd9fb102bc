"""What follows from an encoder's predictions on a task: accuracies, changes and their bound, the gate, the words.

Runs write it, the checker computes it again. Standard library only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from common.log.conclusions import Words
from common.log.events import CLASSES, KNN, NEAREST, Prediction, Task, TaskFigures
from common.log.figures import bound, percent
from common.log.formulas import CONFIDENCE

MOST_VOTES, TEMPERATURE = 20, 0.07  # nearest neighbours that vote, and the temperature: as DINO's evaluation has them
MOST_COMPARED = 10  # nearest neighbours, where nothing is voted on
NO_PREDICTION = -1
FOLDERS = "folders"  # labels that are the names of the images' own folders
BISECTIONS = 60
TASK_KEYS = tuple(TaskFigures.__annotations__)


class Seen(NamedTuple):
    """One image: its place, its label, what both sides predict, and the margin of that."""

    place: int
    label: int | None
    reference: int
    device: int
    margin: float

    @property
    def changed(self) -> bool:
        return self.reference != self.device

    def is_tie(self, rounding: float) -> bool:
        """Whether rounding alone may have changed the prediction; what is not finite it does not explain."""
        return self.changed and NO_PREDICTION not in (self.reference, self.device) and self.margin <= rounding


def images_of(predictions: Sequence[Prediction]) -> Iterator[Seen]:
    """Every image, in order."""
    for each in predictions:
        labels: Sequence[int | None] = [None] * len(each.reference) if each.labels is None else each.labels
        rows = zip(labels, each.reference, each.device, each.margins, strict=True)
        for place, row in enumerate(rows, start=each.first):
            yield Seen(place, *row)


def changes_of(predictions: Sequence[Prediction]) -> Iterator[tuple[str, Seen]]:
    """The images whose prediction changed, with their names."""
    names = (name for each in predictions for name in each.changed_images)
    return zip(names, (image for image in images_of(predictions) if image.changed), strict=True)


def class_of(image: str) -> str | None:
    """The label of an image by its own folder, as torchvision's ImageFolder and timm have it; None without a folder."""
    return PurePosixPath(image).parent.name or None


# --------------------------------------------------------------------------------------------------------- the figures
def summarize(predictions: Sequence[Prediction], rounding: float, neighbours: int | None) -> TaskFigures:
    """The figures of all predictions, of which there is at least one."""
    counts: Counter[str] = Counter()
    for image in images_of(predictions):
        counts["images"] += 1
        counts["reference"] += image.reference == image.label
        counts["device"] += image.device == image.label
        counts["changed"] += image.changed
        counts["ties"] += image.is_tie(rounding)
        counts["lost"] += image.reference == image.label != image.device and not image.is_tie(rounding)
    n, labelled = counts["images"], predictions[0].labels is not None
    kept = sum(sum(each.kept) for each in predictions if each.kept is not None)
    return TaskFigures(
        images=n,
        reference_accuracy=counts["reference"] / n if labelled else None,
        device_accuracy=counts["device"] / n if labelled else None,
        accuracy_drop=(counts["reference"] - counts["device"]) / n if labelled else None,
        lost=counts["lost"] if labelled else None,
        changed=counts["changed"],
        ties=counts["ties"],
        changed_at_most=largest_rate(counts["changed"], n),
        neighbours_kept=None if predictions[0].kept is None or not neighbours else kept / (n * neighbours),
    )


def largest_rate(count: int, n: int) -> float:
    """The upper bound, with 95 % confidence, of the rate of what happened `count` times of `n` (Clopper-Pearson).

    The rate at which so few would happen with a probability of 5 %: 1 - 0.05^(1/n), about 3/n, where nothing did.
    """
    if count >= n:
        return 1.0
    if count == 0:
        return -math.expm1(math.log(1 - CONFIDENCE) / n)
    low, high = count / n, 1.0
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(count, n, rate) > 1 - CONFIDENCE else (low, rate)
    return high


def _at_most(count: int, n: int, rate: float) -> float:
    """The probability of `count` or fewer of n, for a rate above count / n and below 1.

    From `count` down each term is smaller than the one before: the sum ends where they no longer count.
    """
    choices = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    term = total = math.exp(choices + count * math.log(rate) + (n - count) * math.log1p(-rate))
    for fewer in range(count, 0, -1):
        term *= fewer / (n - fewer + 1) * (1 - rate) / rate
        total += term
        if term <= total * 1e-17:
            break
    return total


def fewest_images(drop: float) -> int:
    """How many images it takes, none of them changed, to rule out with 95 % confidence that more than the share `drop`
    of all do: 299 for 1 %.
    """
    return 1 if drop >= 1 else math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-drop))


# ------------------------------------------------------------------------------------------------------------ the gate
class Gated(NamedTuple):
    """What decides, as a share of the images, by its name, and the largest that passes."""

    name: str
    value: float
    allowed: float

    @property
    def passes(self) -> bool:
        return self.value <= self.allowed


def gated(task: Task, allowed: float) -> list[Gated]:
    """With labels the accuracy that is lost, and the images that are, but for ties: others that are won do not make up
    for them. Of classes without labels the predictions that changed, each of which may be one lost. Of nearest
    neighbours alone nothing.
    """
    figures = task.figures
    if figures.accuracy_drop is not None and figures.lost is not None:
        lost = Gated("lost", figures.lost / figures.images, allowed)
        return [Gated("accuracy_drop", figures.accuracy_drop, allowed), lost]
    if task.by == CLASSES:
        return [Gated("changed", (figures.changed - figures.ties) / figures.images, allowed)]
    return []


def least_accuracy(task: Task, allowed: float) -> float:
    """What the reference's accuracy has to exceed: a vote's the one of guessing, and any the bound of what is lost.
    Below it nothing can be lost, and the gate could not fail.
    """
    return max(allowed, 1 / len(task.classes) if task.by == KNN and task.classes else 0.0)


def is_supported(task: Task, allowed: float) -> tuple[bool, bool]:
    """Whether there are images enough for the bound, and whether the reference is right often enough."""
    accuracy = task.figures.reference_accuracy
    return task.figures.images >= fewest_images(allowed), accuracy is None or accuracy > least_accuracy(task, allowed)


def result_of(task: Task) -> str | None:
    """What a run's log says of its task, by its own bound; None where nothing is gated."""
    found = gated(task, task.threshold)
    if not found:
        return None
    if not all(each.passes for each in found):
        return "FAIL"
    return "PASS" if all(is_supported(task, task.threshold)) else "CANNOT JUDGE"


# ------------------------------------------------------------------------------------------------------------ in words
def describe_task(task: Task) -> Words:
    """What was asked of how many images."""
    n, classes, k = task.figures.images, len(task.classes), task.neighbours
    images = Words(f"{n} images without labels", f"{n} 张无标签图像")
    if task.labels is not None:
        source = Words("folder", "文件夹") if task.labels == FOLDERS else Words(task.labels, f" {task.labels} ")
        images = Words(
            f"{n} images of {classes} classes (by {source.en})", f"{n} 张图像，按{source.zh}分为 {classes} 类"
        )
    others = "neighbour" if k == 1 else "neighbours"
    way = {
        CLASSES: Words("judged by the model's own classes", "以模型自身的类别评判"),
        KNN: Words(f"judged by a vote of their {k} nearest {others}", f"以 {k} 个近邻的投票评判"),
        NEAREST: Words(f"judged by their {k} nearest {others}", f"以 {k} 个近邻评判"),
    }[task.by]
    return Words(f"{images.en}, {way.en}", f"{images.zh}，{way.zh}")


def describe_change(seen: Seen, task: Task) -> Words:
    """What a prediction became."""
    names = {index: text for text, index in task.classes.items()}

    def name(prediction: int) -> str:
        if prediction < 0:
            return "-"
        return names.get(prediction, f"image {prediction + 1}" if task.by == NEAREST else f"class {prediction}")

    label = "" if seen.label is None else f" (label: {name(seen.label)})"
    label_zh = "" if seen.label is None else f"（标签：{name(seen.label)}）"
    tie = seen.is_tie(task.rounding)
    change, margin = f"{name(seen.reference)} -> {name(seen.device)}", percent(seen.margin)
    return Words(
        f"{change}{label}, margin {margin}{', a tie' if tie else ''}",
        f"{change}{label_zh}，裕度 {margin}{'，平局' if tie else ''}",
    )


def conclude_task(task: Task, error: float | None) -> Words:
    """What an error, the worst relative L2 of the embeddings, does to the task."""
    figures, size, most = task.figures, percent(error), upwards(task.figures.changed_at_most)
    n, changed = figures.images, figures.changed
    tied = f" ({figures.ties} {'tie' if figures.ties == 1 else 'ties'})" if figures.ties else ""
    tied_zh = f"（其中 {figures.ties} 个平局）" if figures.ties else ""
    if task.by == NEAREST:
        kept = bound(figures.neighbours_kept or 0.0)
        return Words(
            f"{size} of error, {changed} of {n} nearest neighbours changed{tied}, at most {most} with 95% "
            f"confidence; of the {task.neighbours} nearest {kept} are the same",
            f"误差 {size}，{n} 个最近邻中有 {changed} 个改变{tied_zh}，95% 置信度下至多 {most}；"
            f"前 {task.neighbours} 个近邻中 {kept} 相同",
        )
    return Words(
        f"{size} of error, {changed} of {n} predictions changed{tied}, at most {most} with 95% confidence",
        f"误差 {size}，{n} 个预测中有 {changed} 个改变{tied_zh}，95% 置信度下至多 {most}",
    )


def compare_accuracies(task: Task) -> Words | None:
    """Both sides' accuracy, and what was lost; None without labels."""
    before, after, lost = task.figures.reference_accuracy, task.figures.device_accuracy, task.figures.lost
    if before is None or after is None:
        return None
    return Words(
        f"accuracy {bound(after)}, of the reference {bound(before)}, {lost} lost",
        f"准确率 {bound(after)}，参考为 {bound(before)}，丢失 {lost} 个",
    )


def doubts_of_task(task: Task, allowed: float) -> Iterator[Words]:
    """What keeps its gate from proving anything by this bound."""
    if not gated(task, allowed):
        return
    enough, right = is_supported(task, allowed)
    if not enough:
        few, fewest, limit = task.figures.images, fewest_images(allowed), bound(allowed)
        least = upwards(largest_rate(0, few))
        yield Words(
            f"{few} images are too few for a bound of {limit}: it takes {fewest}, or --max-accuracy-drop {least}",
            f"{few} 张图像不足以支持 {limit} 的上限：需要 {fewest} 张，或使用 --max-accuracy-drop {least}",
        )
    if not right:
        accuracy, least = bound(task.figures.reference_accuracy or 0.0), bound(least_accuracy(task, allowed))
        yield Words(
            f"the reference itself is right on {accuracy} of the images, no more than the {least} that prove nothing: "
            "are these labels what the encoder tells apart?",
            f"参考自身的准确率仅为 {accuracy}，未超过不具说服力的 {least}：这些标签是该编码器能区分的吗？",
        )


def upwards(share: float) -> str:
    """An upper bound in percent, rounded up to two digits: 0.00597 as 0.6%."""
    if not 0 < share <= 1:  # of a log that no run writes
        return percent(share)
    scale = 10.0 ** (1 - math.floor(math.log10(share * 100)))
    return f"{math.ceil(share * 100 * scale - 1e-9) / scale:g}%"
