"""The checks of an accuracy run: samples that agree with themselves and their summary, errors within bounds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from common.log import formulas
from common.log.events import (
    FEATURES,
    OUTPUTS,
    Accuracy,
    Computed,
    Env,
    Metrics,
    Model,
    ReferenceSource,
    Repeat,
    Sample,
    Samples,
    TopEntry,
)
from common.log.figures import percent
from common.log.reader import Run, UnjudgeableError
from common.log.samples import DIGITS, each_sample
from common.verdict.evidence import (
    ABSOLUTE_TOLERANCE,
    RELATIVE_TOLERANCE,
    Check,
    at_most,
    equal,
    guarded,
    passed,
    setting,
)

RANKS = {"embedding": 2, "hidden_state": 3}  # the number of an output's dimensions, the batch's among them
WAYS = ("alone", "batch")  # of a repeat
ROUNDING = 2**-50  # of a float64 near 1, twice


def check_references(run: Run, threshold: float) -> Iterator[Check]:
    """The outputs of one accuracy run against every reference that any of its records names."""
    found: list[Accuracy | Sample | Samples] = [*run.all(Accuracy), *run.all(Sample), *run.all(Samples)]
    references = sorted({each.reference for each in found})
    if not references:
        raise UnjudgeableError("no accuracy or sample records")
    declared = run.one(Model).references
    if references != declared:
        raise UnjudgeableError(f"compared with {', '.join(references)}, but the run set out for {declared}")
    if references != [FEATURES]:
        images = [[each.image_sha256 for each in each_sample(run, output)] for output in OUTPUTS]
        yield Check("images of the outputs", f"{len(images[0])}", "the same for both", passed(images[0] == images[1]))
    for reference in references:
        for output in OUTPUTS if reference != FEATURES else OUTPUTS[:1]:
            prefix = f"{reference} " if len(references) > 1 else ""
            checks = guarded(check_accuracy(run, output, reference, threshold))
            yield from (replace(check, name=prefix + check.name) for check in checks)


@dataclass
class Seen:
    """What all samples of one output against one reference are, one after another."""

    count: int = 0
    images: set[str] = field(default_factory=set)  # by the digits of their hashes that each record has
    places: set[str] = field(default_factory=set)
    shapes: dict[tuple[int, ...], None] = field(default_factory=dict)  # in order
    largest_nonfinite: int = 0
    all_finite: bool = True
    fault: str | None = None  # the first
    worst: Metrics | None = None
    tokens: bool = True  # whether the worst token of each is sound

    def add(self, sample: Sample) -> None:
        self.count += 1
        self.images.add(sample.image_sha256[:DIGITS])
        self.places.add(f"{sample.device} {sample.dtype}")
        self.shapes[tuple(sample.shape)] = None
        self.largest_nonfinite = max(self.largest_nonfinite, sample.nonfinite)
        self.all_finite &= sample.nonfinite == 0
        self.fault = self.fault or next(contradictions_in(sample.metrics), None)
        self.worst = formulas.worst_metrics([sample.metrics] if self.worst is None else [self.worst, sample.metrics])
        if sample.output == "hidden_state":
            self.tokens &= has_sound_token(sample)


def check_accuracy(run: Run, output: str, reference: str, threshold: float) -> Iterator[Check]:
    """One output against one reference: samples that agree with themselves and the summary, errors within bounds."""
    found = [event for event in run.all(Accuracy) if (event.output, event.reference) == (output, reference)]
    if len(found) != 1:
        raise UnjudgeableError(f"{len(found)} accuracy records of {output} against {reference}, not 1")
    summary, seen = found[0], Seen()
    for sample in each_sample(run, output, reference):
        seen.add(sample)
    different = len(seen.images)
    complete = passed(seen.count == summary.samples > 0)
    yield Check(f"{output} samples", f"{seen.count}, {different} different", f"{summary.samples}", complete)
    if seen.worst is None:
        return

    wanted = setting(run)
    yield Check(f"{output} computed on", ", ".join(sorted(seen.places)), wanted, passed(seen.places == {wanted}))
    yield check_reference(run, output, reference)
    yield check_shapes(seen.shapes, output)
    none = seen.all_finite and summary.nonfinite == 0
    yield Check(f"{output} NaN or infinite", f"{seen.largest_nonfinite}", "0", passed(none))

    singles = [each for each in run.all(Sample) if (each.output, each.reference) == (output, reference)]
    fault = seen.fault or next(contradictions_in_top5(singles, output), None)
    yield Check(f"{output} formulas", fault or "consistent", "consistent", passed(fault is None))
    values, stated = formulas.values_of(seen.worst), formulas.values_of(summary.worst)
    wrong = [metric for metric, value in values.items() if stated[metric] != value]
    value = f"{wrong[0]} contradicts" if wrong else "as computed again"
    yield Check(f"{output} worst of samples", value, "equal", passed(not wrong))
    if output == "hidden_state":
        yield Check(f"{output} worst token", "sound" if seen.tokens else "contradicts", "sound", passed(seen.tokens))

    model = run.one(Model)
    classifier = output == "embedding" and model.classifier
    allowed = formulas.allowed_error(model.dtype, threshold, summary.expected_relative_l2)
    for metric in formulas.gated_metrics(classifier):
        error = values[metric]
        verdict = passed(error is not None and 0 <= error <= allowed)
        share = error / allowed if error is not None and allowed > 0 else math.inf
        yield Check(f"{output} {metric}", percent(error), at_most(allowed), verdict, metric, share)
    within = formulas.is_within(seen.worst, 0 if none else 1, summary.threshold, classifier)
    result = "PASS" if within else "FAIL"
    yield Check(f"{output} result in the log", summary.result, result, passed(summary.result == result))


def check_reference(run: Run, output: str, reference: str) -> Check:
    """What the output was compared with is not the same computation."""
    if reference != FEATURES:
        known = ("float64",) if setting(run) == "cpu float32" else ("float32", "float64")
        return Check(f"{output} reference", reference, " or ".join(known), passed(reference in known))
    env, model, source = run.one(Env), run.one(Model), run.one(ReferenceSource)
    if source.computed is None or source.precisions != [FEATURES]:
        raise UnjudgeableError("reference_source record: it does not say what computed the features")
    own = Computed(
        device=env.device,
        device_name=env.device_name,
        simulated=env.is_simulated,
        dtype=model.dtype,
        numerics=model.numerics,
    )
    other = source.computed
    value = f"{other.device} {other.dtype} {other.numerics}"
    verdict = passed(not formulas.proves_nothing(other, own))
    return Check(f"{output} reference", value, "another device, dtype or numerics", verdict)


def check_repeats(run: Run) -> Iterator[Check]:
    """The first image's outputs again, within rounding of what they were; nothing of a log that has no such record."""
    repeats = run.all(Repeat)
    if not repeats:
        return
    wanted = [(way, output) for way in WAYS for output in OUTPUTS]
    if sorted((each.way, each.output) for each in repeats) != sorted(wanted):
        raise UnjudgeableError("repeat records: not one of each way and output")
    first, model = next(iter(run.all(Sample)), None), run.one(Model)
    if first is not None and {each.image_sha256 for each in repeats} != {first.image_sha256}:
        raise UnjudgeableError("repeat records: not of the first image")
    if any(each.batch_size != 1 if each.way == "alone" else each.batch_size < 2 for each in repeats) or any(
        not 0 <= each.place < each.batch_size or (each.way == "batch" and each.place == 0) for each in repeats
    ):
        raise UnjudgeableError("repeat records: a place that is not in its batch, or no other one")
    expected = {event.output: event.expected_relative_l2 for event in run.all(Accuracy)}
    for each in repeats:
        allowed = formulas.repeat_bound(model.dtype, model.numerics, expected.get(each.output))
        error = each.relative_l2
        sound = error is not None and 0 <= error <= allowed and not (each.equal and error > 0)
        value = f"{percent(error)}, bits {'equal' if each.equal else 'differ'}"
        yield Check(f"{each.output} repeat {each.way}", value, at_most(allowed), passed(sound))


def check_shapes(shapes: Collection[Sequence[int]], output: str) -> Check:
    """All samples of an output have one shape: [1, D] or [1, T, C]."""
    first = next(iter(shapes))
    right = len(shapes) == 1 and len(first) == RANKS[output] and first[0] == 1 <= min(first)
    bound = "[1, D], one for all" if output == "embedding" else "[1, T, C], one for all"
    return Check(f"{output} shape", " ".join(map(str, first)), bound, passed(right))


def has_sound_token(sample: Sample) -> bool:
    """Whether the worst token of a sample is one of its tokens, and errs by no less than all of them together."""
    if sample.worst is None:
        raise UnjudgeableError("sample record: a hidden_state without its worst token")
    error, of_all = sample.worst.worst_token_relative_l2, sample.metrics.relative_l2
    among = 0 <= sample.worst.worst_token < max(sample.shape[1:2], default=0)
    return among and error is not None and of_all is not None and error >= of_all * (1 - RELATIVE_TOLERANCE)


def contradictions_in(sample: Metrics) -> Iterator[str]:
    """Where the metrics of one sample are not finite, out of their range, or contradict each other's formulas."""
    value = {metric: number for metric, number in formulas.values_of(sample).items() if number is not None}
    missing = [metric for metric in formulas.METRICS if metric not in value and metric != "sqnr_db"]
    if missing:
        yield f"{missing[0]} is not finite"
        return
    nmse, cosine = value["nmse"], value["cosine_similarity"]
    if any(value[metric] < 0 for metric in formulas.ERROR_METRICS):
        yield "an error is negative"
    if not -1 <= cosine <= 1:
        yield "cosine_similarity is outside [-1, 1]"
    if not 0 <= value["top5_match"] <= 1:
        yield "top5_match is outside [0, 1]"
    if value["mean_abs_error"] > value["max_abs_error"]:
        yield "mean_abs_error is above max_abs_error"
    if not math.isclose(nmse, value["relative_l2"] * value["relative_l2"], rel_tol=RELATIVE_TOLERANCE):
        yield "nmse is not the square of relative_l2"
    if not equal(sample.sqnr_db, formulas.sqnr_db(nmse)):
        yield "sqnr_db does not follow from nmse"
    if not math.isclose(cosine, max(-1.0, 1 - value["one_minus_cosine"]), rel_tol=0, abs_tol=ROUNDING):
        yield "cosine_similarity does not follow from one_minus_cosine"
    if value["relative_l2"] < 1 and value["one_minus_cosine"] > largest_angle(value["relative_l2"]):
        yield "one_minus_cosine is more than relative_l2 allows"
    if len({value[name] == 0 for name, metric in formulas.METRICS.items() if metric.zero_together}) > 1:
        yield "some errors are zero and others are not"


def contradictions_in_top5(samples: Sequence[Sample], output: str) -> Iterator[str]:
    """Where the five largest elements of both sides contradict each other, the metrics, or those of another image."""
    found = [(sample, sample.top5) for sample in samples if sample.top5 is not None]
    finite = [sample for sample in samples if sample.metrics.top5_match is not None]
    if found and (output != "embedding" or len(found) != len(finite)):
        yield "the top-5 stand where no run writes them, or not for every image"
        return
    names: dict[int, str | None] = {}
    for sample, top5 in found:
        width, metrics = max(sample.shape[-1:], default=0), sample.metrics
        count = min(5, width)
        if not all(are_largest(each, count, width) for each in (top5.reference_top5, top5.device_top5)):
            yield "the top-5 are not the largest elements in their order"
            return
        r = {entry.index: entry.value or 0.0 for entry in top5.reference_top5}
        y = {entry.index: entry.value or 0.0 for entry in top5.device_top5}
        largest, same = next(iter(r.values())), r.keys() & y.keys()
        if not equal(metrics.top5_match, len(same) / count):
            yield "top5_match does not follow from the top-5"
        at = next(iter(y))
        if at in r and metrics.top1_gap is not None and (r[at] < largest) != (metrics.top1_gap > 0):
            yield "top1_gap does not follow from the top-5"
        error = (metrics.max_abs_error or 0.0) * (1 + RELATIVE_TOLERANCE)
        if any(abs(r[index] - y[index]) > error for index in same):
            yield "a top-5 value errs by more than max_abs_error"
        for entry in (*top5.reference_top5, *top5.device_top5):
            if names.setdefault(entry.index, entry.label) != entry.label:
                yield f"class {entry.index} has two names"


def are_largest(entries: Sequence[TopEntry], count: int, width: int) -> bool:
    """Whether so many different elements of an output of this width stand in falling order."""
    indices = {entry.index for entry in entries}
    values = [entry.value for entry in entries if entry.value is not None]
    places = len(indices) == len(values) == len(entries) == count and all(0 <= index < width for index in indices)
    return places and values == sorted(values, reverse=True)


def largest_angle(relative_l2: float) -> float:
    """The largest one_minus_cosine of a vector within `relative_l2` < 1 of the reference: a tangent to that sphere."""
    return 1 - math.sqrt(1 - relative_l2**2) + ABSOLUTE_TOLERANCE
