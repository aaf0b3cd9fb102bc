"""The comparison: a device's outputs against a reference, sample by sample, judged, printed and recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from common.accuracy import metrics
from common.accuracy.reference import Reference
from common.device import devices
from common.device.devices import Outputs
from common.encoder.base import Encoder
from common.log import formulas
from common.log.events import OUTPUTS, Accuracy, NoiseFloor, Sample, Top5, TopEntry, WorstToken
from common.log.figures import format_figure, format_metric, percent
from common.log.writer import RunLog
from common.session import Session

ClassName = Callable[[int], str | None] | None


@dataclass(frozen=True)
class Comparison:
    """Whether all outputs pass their gates against every reference, and which image errs most against the first.

    `worst_relative_l2` is that image's error; None where it is not finite.
    """

    passed: bool
    worst_image: int
    worst_relative_l2: float | None

    @property
    def summary(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}, worst relative_l2 {percent(self.worst_relative_l2)}"


@dataclass(frozen=True)
class Gate:
    """What decides of an output: the threshold, for bfloat16 the error to expect, and whether it is logits."""

    dtype: str
    threshold: float
    expected_relative_l2: float | None
    classifier: bool

    @property
    def allowed(self) -> float:
        return formulas.allowed_error(self.dtype, self.threshold, self.expected_relative_l2)


def compare(
    running: Session, known: Reference, outputs: Sequence[Outputs], threshold: float, encoder: Encoder
) -> Comparison:
    """Compare the device's outputs of every image with the reference in each of its precisions, and report them.

    Of a classifier the embedding is logits: it has to keep its first class.
    """
    log, dtype = running.log, devices.dtype_name(running.dtype)
    expected = known.expected_relative_l2.get(dtype, {})
    floors = report_noise_floor(log, known.outputs)
    passed = True
    samples: list[Sample] = []
    for precision in known.outputs:
        samples += record_samples(log, known, precision, outputs, encoder.class_name)
        report_top5(log, samples[-len(OUTPUTS) * len(outputs)])
        for output in OUTPUTS:
            of_output = [each for each in samples if (each.output, each.reference) == (output, precision)]
            classifier = encoder.label is not None and output == "embedding"
            gate = Gate(dtype, threshold, expected.get(output), classifier)
            passed &= report_output(log, of_output, gate)
            if (dtype, running.numerics.mode) == ("float32", "strict"):
                warn_of_noise(log, of_output, floors.get(output))
    errors = [sample.metrics.relative_l2 for sample in samples[: len(OUTPUTS) * len(outputs)]]
    worst = find_worst(errors)
    return Comparison(passed, worst // len(OUTPUTS), errors[worst])


def record_samples(
    log: RunLog, known: Reference, precision: str, outputs: Sequence[Outputs], class_name: ClassName
) -> list[Sample]:
    """The samples of both outputs of every image, one image after another, against one precision."""
    samples = [
        compare_sample(known, at, precision, name, reference[at : at + 1], device, class_name)
        for at, of_image in enumerate(outputs)
        for name, reference, device in zip(OUTPUTS, known.outputs[precision], of_image, strict=True)
    ]
    for sample in samples:
        log.record(sample)
    return samples


def compare_sample(
    known: Reference, at: int, precision: str, output: str, r: Tensor, y: Tensor, class_name: ClassName
) -> Sample:
    """One output of the image at this place: y on the device against r, [1, D] or [1, T, C] each."""
    on_host = y.cpu()
    found = metrics.compare(r, on_host)
    fingerprint = worst = top5 = None
    if output == "embedding":
        fingerprint = metrics.fingerprint(on_host[0])
        if found.top5_match is not None:
            top5 = Top5(reference_top5=entries(r[0], class_name), device_top5=entries(on_host[0], class_name))
    else:
        token, error = metrics.worst_token(r[0], on_host[0])
        worst = WorstToken(worst_token=token, worst_token_relative_l2=error)
    return Sample(
        image=known.images[at],
        image_sha256=known.image_sha256[at],
        reference=precision,
        output=output,
        device=str(y.device),
        dtype=devices.dtype_name(y.dtype),
        shape=list(y.shape),
        metrics=found,
        nonfinite=metrics.count_nonfinite(r, on_host),
        fingerprint=fingerprint,
        worst=worst,
        top5=top5,
    )


def entries(embedding: Tensor, class_name: ClassName) -> list[TopEntry]:
    """The five largest elements of [D], with their classes where these have names."""
    return [
        TopEntry(index=index, value=value, label=class_name(index) if class_name else None)
        for index, value in metrics.top5(embedding.double()).items()
    ]


def report_top5(log: RunLog, sample: Sample) -> None:
    """Print the largest elements of an image's embedding on both sides; nothing of one that is not finite."""
    if sample.top5 is None:
        return
    log.line()
    log.line(f"Top-5 outputs of {sample.image} (index, value): {sample.reference} on the CPU | {sample.device}")
    sides = list(zip(sample.top5.reference_top5, sample.top5.device_top5, strict=True))
    for place, (r, y) in enumerate(sides, start=1):
        label = f", label={y.label}" if y.label else ""
        log.line(f"  {place}. index={r.index}, value={r.value:.6f} | index={y.index}, value={y.value:.6f}{label}")
    log.line(f"Top-1 match: {sides[0][0].index == sides[0][1].index}, Top-5 match: {sample.metrics.top5_match == 1}")


def report_output(log: RunLog, samples: Sequence[Sample], gate: Gate) -> bool:
    """Print and record the worst of all samples of one output against one reference; True where it passes the gate."""
    output, reference = samples[0].output, samples[0].reference
    worst = formulas.worst_metrics([sample.metrics for sample in samples])
    nonfinite = sum(sample.nonfinite for sample in samples)
    passed = formulas.is_within(worst, nonfinite, gate.allowed, gate.classifier)
    log.line()
    log.line(f"{output} against {reference}, the worst of {len(samples)} samples")
    for metric, value in formulas.values_of(worst).items():
        log.line(f"{output} {metric}: {format_metric(metric, value)}")
    if output == "hidden_state":
        tokens = [(sample.image, sample.worst) for sample in samples if sample.worst]
        image, token = tokens[find_worst([token.worst_token_relative_l2 for _, token in tokens])]
        log.line(f"{output} worst token: {token.worst_token} of {image} ({percent(token.worst_token_relative_l2)})")
    if nonfinite:
        log.line(f"{output} nonfinite: {nonfinite}")
    if gate.expected_relative_l2 is not None:
        expected = percent(gate.expected_relative_l2)
        log.line(f"{output} expected_relative_l2: {expected} (rounding to {gate.dtype}, emulated)")
    log.line(f"{output} threshold: {format_figure('threshold', gate.allowed)}")
    result = "PASS" if passed else "FAIL"
    log.line(f"{output} result: {result}")
    log.record(
        Accuracy(
            output=output,
            reference=reference,
            samples=len(samples),
            worst=worst,
            nonfinite=nonfinite,
            expected_relative_l2=gate.expected_relative_l2,
            threshold=gate.allowed,
            result=result,
        )
    )
    return passed


def find_worst(errors: Sequence[float | None]) -> int:
    """Where the largest error is; one that is not finite is the largest."""
    sizes = list(map(formulas.size_of, errors))
    return sizes.index(max(sizes))


def report_noise_floor(log: RunLog, outputs: Mapping[str, Outputs]) -> dict[str, float | None]:
    """Print and record how far the CPU's own float32 is from float64, by output; nothing where only one is known."""
    if not {"float32", "float64"} <= set(outputs):
        return {}
    log.line()
    floors = {}
    for output, golden, float32 in zip(OUTPUTS, outputs["float64"], outputs["float32"], strict=True):
        floors[output] = metrics.worst_relative_l2(golden, float32)
        log.line(f"noise floor of {output}: {percent(floors[output])} (the CPU's float32 against float64, relative_l2)")
        log.record(NoiseFloor(output=output, relative_l2=floors[output]))
    return floors


def warn_of_noise(log: RunLog, samples: Sequence[Sample], floor: float | None) -> None:
    """Say so where strict float32 errs by more than rounding can."""
    error = formulas.worst_metrics([sample.metrics for sample in samples]).relative_l2
    if formulas.is_far_above_noise(error, floor):
        log.line(f"warning: {samples[0].output} errs by {percent(error)}, far above the noise of float32")
