"""What a comparison finds: the worst of all samples of each output, judged, printed and recorded as images come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.accuracy.parts import Compared
from common.accuracy.reference import Expected
from common.images.remarks import ImagesReport
from common.log import formulas
from common.log.events import OUTPUTS, Accuracy, Metrics, NoiseFloor, Repeat, Sample, Top5
from common.log.figures import format_figure, format_metric, percent
from common.log.samples import MOST_SINGLE, MOST_TOGETHER, together
from common.log.writer import RunLog


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


@dataclass
class Tally:
    """All samples of one output against one reference so far, and those that wait to share a record."""

    output: str
    reference: str
    count: int = 0
    nonfinite: int = 0
    first: Sample | None = None
    worst: Metrics | None = None
    worst_sample: Sample | None = None  # by relative_l2, the first of the largest
    worst_at: int = 0  # its place among all images, from 0
    worst_token: Sample | None = None
    waiting: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        metrics = sample.metrics
        self.first = self.first or sample
        self.worst = metrics if self.worst is None else formulas.worst_metrics([self.worst, metrics])
        self.nonfinite += sample.nonfinite
        if self.worst_sample is None or _error(sample) > _error(self.worst_sample):
            self.worst_sample, self.worst_at = sample, self.count
        if sample.worst and (self.worst_token is None or _token_error(sample) > _token_error(self.worst_token)):
            self.worst_token = sample
        self.count += 1


def _error(sample: Sample) -> float:
    return formulas.size_of(sample.metrics.relative_l2)


def _token_error(sample: Sample) -> float:
    return formulas.size_of(sample.worst.worst_token_relative_l2 if sample.worst else 0.0)


@dataclass(frozen=True)
class Embeddings:
    """Both sides' embeddings of the images that were compared, in order: [N, D] each, in float32.

    They may be mapped from files, and larger than memory: take them a slice at a time.
    """

    names: Sequence[str]
    sha256: Sequence[str]
    reference: np.ndarray
    candidate: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Whether all outputs pass their gates against every reference, and which image errs most against the first.

    `worst_relative_l2` is that image's error; None where it is not finite.
    """

    passed: bool
    worst_image: str
    worst_relative_l2: float | None

    def summary(self, repeatable: bool = True) -> str:
        """In a few words; `repeatable` is whether the device gives the same again."""
        result = "PASS" if self.passed and repeatable else "FAIL"
        words = f"{result}, worst relative_l2 {percent(self.worst_relative_l2)}"
        return words if repeatable else f"{words}, not repeatable"


class Findings:
    """Takes what was compared, part by part and in order, and reports it.

    The first images have a record each, the others share them, so that a log stays readable and can be judged.
    """

    def __init__(self, log: RunLog, precisions: Sequence[str], most: int = 0) -> None:
        """`most` is how many images there may be whose embeddings are to be kept."""
        self.log, self.precisions, self.most = log, precisions, most
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.floors: dict[str, float | None] = {}
        self.repeats: Sequence[Repeat] = ()
        self.expected: Expected = {}
        self.names: list[str] = []
        self.sha256: list[str] = []
        self._embeddings = np.empty((2, 0, 0), np.float32)
        self._images = ImagesReport(log)

    def add(self, part: Compared) -> None:
        self._images.add(part.remarks, part.skipped)
        for sample in part.samples:
            self._add_sample(sample)
        for output, error in part.floors.items():
            self.floors[output] = _larger(self.floors.get(output, 0.0), error)
        self.repeats, self.expected = self.repeats or part.repeats, self.expected or part.expected
        if part.names:
            self._keep(part)

    def _keep(self, part: Compared) -> None:
        """Both sides' embeddings, in memory that was set aside for all."""
        before = len(self.names)
        if before == 0:
            self._embeddings = np.empty((2, self.most, part.candidate.shape[1]), np.float32)
        self.names += part.names
        self.sha256 += part.sha256
        self._embeddings[0, before : len(self.names)] = part.reference
        self._embeddings[1, before : len(self.names)] = part.candidate

    def _add_sample(self, sample: Sample) -> None:
        key = (sample.reference, sample.output)
        tally = self.tallies.setdefault(key, Tally(sample.output, sample.reference))
        if tally.count < MOST_SINGLE:
            self.log.record(sample)
        else:
            tally.waiting.append(sample)
        tally.add(sample)
        if len(tally.waiting) == MOST_TOGETHER:
            self._record_waiting(tally)

    def _record_waiting(self, tally: Tally) -> None:
        if tally.waiting:
            self.log.record(together(tally.waiting, tally.count - len(tally.waiting)))
            tally.waiting = []

    @property
    def embeddings(self) -> Embeddings:
        reference, candidate = self._embeddings[:, : len(self.names)]
        return Embeddings(self.names, self.sha256, reference, candidate)

    def finish(self, dtype: str, numerics: str, threshold: float, classifier: bool) -> Comparison:
        """Judge, print and record the worst of every output. Of a `classifier` the embedding is logits."""
        for tally in self.tallies.values():
            self._record_waiting(tally)
        self._images.finish()
        self._report_noise_floor()
        expected, passed = self.expected.get(dtype, {}), True
        tallies = [
            self.tallies[precision, output]
            for precision in self.precisions
            for output in OUTPUTS
            if (precision, output) in self.tallies
        ]
        for tally in tallies:
            if tally.first and tally.first.top5:
                report_top5(self.log, tally.first, tally.first.top5)
            of_logits = classifier and tally.output == "embedding"
            gate = Gate(dtype, threshold, expected.get(tally.output), of_logits)
            passed &= report_output(self.log, tally, gate)
            if (dtype, numerics) == ("float32", "strict"):
                warn_of_noise(self.log, tally, self.floors.get(tally.output))
        first = [tally for tally in tallies if tally.reference == self.precisions[0]]
        worst = max(first, key=lambda tally: (_error(_sample(tally)), -tally.worst_at))
        return Comparison(passed, _sample(worst).image, _sample(worst).metrics.relative_l2)

    def _report_noise_floor(self) -> None:
        """How far the CPU's own float32 is from float64, by output; nothing where only one is known."""
        if self.floors:
            self.log.line()
        for output, floor in self.floors.items():
            self.log.line(f"noise floor of {output}: {percent(floor)} (the CPU's float32 against float64, relative_l2)")
            self.log.record(NoiseFloor(output=output, relative_l2=floor))


def _larger(one: float | None, other: float | None) -> float | None:
    return max((one, other), key=formulas.size_of)


def _sample(tally: Tally) -> Sample:
    """The worst of a tally, which has one."""
    assert tally.worst_sample is not None
    return tally.worst_sample


def report_top5(log: RunLog, sample: Sample, top5: Top5) -> None:
    """Print the largest elements of an image's embedding on both sides."""
    log.line()
    log.line(f"Top-5 outputs of {sample.image} (index, value): {sample.reference} | {sample.device}")
    sides = list(zip(top5.reference_top5, top5.device_top5, strict=True))
    for place, (r, y) in enumerate(sides, start=1):
        label = f", label={y.label}" if y.label else ""
        log.line(f"  {place}. index={r.index}, value={r.value:.6f} | index={y.index}, value={y.value:.6f}{label}")
    log.line(f"Top-1 match: {sides[0][0].index == sides[0][1].index}, Top-5 match: {sample.metrics.top5_match == 1}")


def report_output(log: RunLog, tally: Tally, gate: Gate) -> bool:
    """Print and record the worst of all samples of one output against one reference; True where it passes the gate."""
    output, worst = tally.output, tally.worst
    assert worst is not None
    passed = formulas.is_within(worst, tally.nonfinite, gate.allowed, gate.classifier)
    log.line()
    log.line(f"{output} against {tally.reference}, the worst of {tally.count} samples")
    for metric, value in formulas.values_of(worst).items():
        log.line(f"{output} {metric}: {format_metric(metric, value)}")
    if tally.count > 1:
        sample = _sample(tally)
        log.line(f"{output} worst image: {sample.image} ({percent(sample.metrics.relative_l2)})")
    if tally.worst_token and tally.worst_token.worst:
        token, image = tally.worst_token.worst, tally.worst_token.image
        log.line(f"{output} worst token: {token.worst_token} of {image} ({percent(token.worst_token_relative_l2)})")
    if tally.nonfinite:
        log.line(f"{output} nonfinite: {tally.nonfinite}")
    if gate.expected_relative_l2 is not None:
        expected = percent(gate.expected_relative_l2)
        log.line(f"{output} expected_relative_l2: {expected} (rounding to {gate.dtype}, emulated)")
    log.line(f"{output} threshold: {format_figure('threshold', gate.allowed)}")
    result = "PASS" if passed else "FAIL"
    log.line(f"{output} result: {result}")
    log.record(
        Accuracy(
            output=output,
            reference=tally.reference,
            samples=tally.count,
            worst=worst,
            nonfinite=tally.nonfinite,
            expected_relative_l2=gate.expected_relative_l2,
            threshold=gate.allowed,
            result=result,
        )
    )
    return passed


def warn_of_noise(log: RunLog, tally: Tally, floor: float | None) -> None:
    """Say so where strict float32 errs by more than rounding can."""
    error = tally.worst.relative_l2 if tally.worst else None
    if formulas.is_far_above_noise(error, floor):
        log.line(f"warning: {tally.output} errs by {percent(error)}, far above the noise of float32")
