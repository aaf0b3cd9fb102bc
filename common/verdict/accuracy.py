"""The checks of an accuracy run: samples that agree with themselves and their summary, errors within bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from common.log import formulas
from common.log.events import OUTPUTS
from common.log.figures import percent
from common.log.runlog import Record, Run
from common.verdict.evidence import (
    ABSOLUTE_TOLERANCE,
    RELATIVE_TOLERANCE,
    Check,
    UnjudgeableError,
    at_most,
    equal,
    guarded,
    is_whole,
    number,
    number_or_none,
    numbers,
    one,
    passed,
    setting,
    text,
)

RANKS = {"embedding": 2, "hidden_state": 3}  # the number of an output's dimensions, the batch's among them
ROUNDING = 2**-50  # of a float64 near 1, twice


def check_references(run: Run, threshold: float) -> Iterator[Check]:
    """Both outputs of one accuracy run against every reference that any of its records names."""
    records = [*run.events("accuracy"), *run.events("sample")]
    references = sorted({text(record, "reference") for record in records})
    if not references:
        raise UnjudgeableError("no accuracy or sample records")
    declared = one(run, "model").get("references")
    if references != declared:
        raise UnjudgeableError(f"compared with {', '.join(references)}, but the run set out for {declared}")
    if any(record.get("output") not in OUTPUTS for record in records):
        raise UnjudgeableError("an accuracy or sample record of another output")
    images = [[r.get("image_sha256") for r in run.events("sample") if r.get("output") == output] for output in OUTPUTS]
    yield Check("images of the outputs", f"{len(images[0])}", "the same for both", passed(images[0] == images[1]))
    for reference in references:
        for output in OUTPUTS:
            prefix = f"{reference} " if len(references) > 1 else ""
            checks = guarded(check_accuracy(run, output, reference, threshold))
            yield from (replace(check, name=prefix + check.name) for check in checks)


def check_accuracy(run: Run, output: str, reference: str, threshold: float) -> Iterator[Check]:
    """One output against one reference: samples that agree with themselves and the summary, errors within bounds."""
    of_both = {"output": output, "reference": reference}.items()
    accuracies = [record for record in run.events("accuracy") if of_both <= record.items()]
    if len(accuracies) != 1:
        raise UnjudgeableError(f"{len(accuracies)} accuracy records of {output} against {reference}, not 1")
    accuracy = accuracies[0]
    samples = [record for record in run.events("sample") if of_both <= record.items()]
    expected = number(accuracy, "samples")
    different = len({text(sample, "image_sha256") for sample in samples})
    complete = different == len(samples) == expected > 0
    yield Check(f"{output} samples", f"{len(samples)}, {different} different", f"{expected:g}", passed(complete))
    if not samples:
        return

    model = one(run, "model")
    places = {f"{text(sample, 'device')} {text(sample, 'dtype')}" for sample in samples}
    wanted = setting(run)
    yield Check(f"{output} computed on", ", ".join(sorted(places)), wanted, passed(places == {wanted}))

    references = ("float64",) if wanted == "cpu float32" else ("float32", "float64")
    yield Check(f"{output} reference", reference, " or ".join(references), passed(reference in references))

    yield check_shapes(samples, output)
    counts = [number(sample, "nonfinite") for sample in samples]
    none = counts == [0] * len(counts) and number(accuracy, "nonfinite") == 0
    yield Check(f"{output} NaN or infinite", f"{max(counts):g}", "0", passed(none))
    metrics = [{metric: number_or_none(sample, metric) for metric in formulas.METRICS} for sample in samples]
    contradictions = [fault for sample in metrics for fault in contradictions_in(sample)]
    yield Check(
        f"{output} formulas", contradictions[0] if contradictions else "consistent", "consistent",
        passed(not contradictions),
    )  # fmt: skip

    worst = formulas.worst_metrics(metrics)
    wrong = [metric for metric in formulas.METRICS if number_or_none(accuracy, metric) != worst[metric]]
    yield Check(
        f"{output} worst of samples", f"{wrong[0]} contradicts" if wrong else "as computed again", "equal",
        passed(not wrong),
    )  # fmt: skip
    if output == "hidden_state":
        yield check_worst_tokens(samples)
    classifier = output == "embedding" and model.get("classifier") is not False
    allowed = formulas.allowed_error(text(model, "dtype"), threshold, number_or_none(accuracy, "expected_relative_l2"))
    for metric in formulas.gated_metrics(classifier):
        value = worst[metric]
        verdict = passed(value is not None and 0 <= value <= allowed)
        yield Check(f"{output} {metric}", percent(value), at_most(allowed), verdict, metric)

    stated = text(accuracy, "result")
    within = formulas.is_within(worst, 0 if none else 1, number(accuracy, "threshold"), classifier)
    result = "PASS" if within else "FAIL"
    yield Check(f"{output} result in the log", stated, result, passed(stated == result))


def check_shapes(samples: Sequence[Record], output: str) -> Check:
    """All samples of an output have one shape: [1, D] or [1, T, C]."""
    shapes = [numbers(sample, "shape") for sample in samples]
    whole = all(is_whole(size) and size >= 1 for shape in shapes for size in shape)
    right = whole and len(shapes[0]) == RANKS[output] and shapes[0][0] == 1 and shapes.count(shapes[0]) == len(shapes)
    bound = "[1, D], one for all" if output == "embedding" else "[1, T, C], one for all"
    return Check(f"{output} shape", " ".join(f"{size:g}" for size in shapes[0]), bound, passed(right))


def check_worst_tokens(samples: Sequence[Record]) -> Check:
    """The worst token of each sample is one of its tokens, and errs by no less than all of them together."""
    sound = True
    for sample in samples:
        token, error = number(sample, "worst_token"), number_or_none(sample, "worst_token_relative_l2")
        of_all = number_or_none(sample, "relative_l2")
        sound &= is_whole(token) and 0 <= token < numbers(sample, "shape")[1]
        sound &= error is not None and of_all is not None and error >= of_all * (1 - RELATIVE_TOLERANCE)
    return Check("hidden_state worst token", "sound" if sound else "contradicts", "sound", passed(sound))


def contradictions_in(sample: Mapping[str, float | None]) -> Iterator[str]:
    """Where the metrics of one sample are not finite, out of their range, or contradict each other's formulas."""
    missing = [metric for metric, value in sample.items() if value is None and metric != "sqnr_db"]
    if missing:
        yield f"{missing[0]} is not finite"
        return
    value = {metric: number for metric, number in sample.items() if number is not None}
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
    if not equal(sample["sqnr_db"], -10 * math.log10(nmse) if nmse > 0 else None):
        yield "sqnr_db does not follow from nmse"
    if not math.isclose(cosine, max(-1.0, 1 - value["one_minus_cosine"]), rel_tol=0, abs_tol=ROUNDING):
        yield "cosine_similarity does not follow from one_minus_cosine"
    if value["relative_l2"] < 1 and value["one_minus_cosine"] > largest_angle(value["relative_l2"]):
        yield "one_minus_cosine is more than relative_l2 allows"
    if len({value[name] == 0 for name, metric in formulas.METRICS.items() if metric.zero_together}) > 1:
        yield "some errors are zero and others are not"


def largest_angle(relative_l2: float) -> float:
    """The largest one_minus_cosine of a vector within `relative_l2` < 1 of the reference: a tangent to that sphere."""
    return 1 - math.sqrt(1 - relative_l2**2) + ABSOLUTE_TOLERANCE
