"""The comparison: a device's outputs against a reference, sample by sample, judged, printed and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.accuracy import metrics
from common.accuracy.reference import Reference
from common.device import devices
from common.device.devices import Outputs
from common.log import formulas
from common.log.figures import format_metric, percent
from common.log.events import OUTPUTS
from common.log.runlog import RunLog
from common.session import Session


@dataclass(frozen=True)
class Comparison:
    """Whether all outputs pass their gates against every reference, and which image errs most against the first."""

    passed: bool
    worst_image: int


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
    running: Session,
    known: Reference,
    outputs: Sequence[Outputs],
    precisions: Sequence[str],
    threshold: float,
    classifier: bool,
) -> Comparison:
    """Compare the device's outputs of every image with the reference in each precision, and report them.

    Of a `classifier` the embedding is logits: it has to keep its first class.
    """
    log, dtype = running.log, devices.dtype_name(running.dtype)
    expected = known.expected_relative_l2.get(dtype, {})
    floors = report_noise_floor(log, known.outputs)
    passed = True
    samples: dict[str, list[dict[str, Any]]] = {}
    for precision in precisions:
        samples[precision] = record_samples(log, known, precision, outputs)
        for output in OUTPUTS:
            of_output = [sample for sample in samples[precision] if sample["output"] == output]
            gate = Gate(dtype, threshold, expected.get(output), classifier and output == "embedding")
            passed &= report_output(log, output, of_output, gate, precision)
            if (dtype, running.numerics.mode) == ("float32", "strict"):
                warn_of_noise(log, of_output, floors.get(output))
    errors = [sample["relative_l2"] for sample in samples[precisions[0]]]
    return Comparison(passed, find_worst(errors) // len(OUTPUTS))


def record_samples(log: RunLog, known: Reference, precision: str, outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """The `sample` records of both outputs of every image, one image after another, against one precision."""
    records = []
    for at, output in enumerate(outputs):
        about = {"image": known.images[at], "image_sha256": known.image_sha256[at], "reference": precision}
        embedding, hidden_state = known.outputs[precision]
        records += compare_sample(about, (embedding[at : at + 1], hidden_state[at : at + 1]), output)
    for record in records:
        log.record("sample", **record)
    return records


def compare_sample(about: Mapping[str, str], reference: Outputs, device: Outputs) -> list[dict[str, Any]]:
    """The metrics of both outputs of one image, [1, D] and [1, T, C] each; `about` says of which image."""
    records = []
    for output, r, y in zip(OUTPUTS, reference, device, strict=True):
        on_host = y.cpu()
        record: dict[str, Any] = {
            **about,
            "output": output,
            "device": str(y.device),
            "dtype": devices.dtype_name(y.dtype),
            "shape": list(y.shape),
            **metrics.compare(r, on_host),
        }
        if output == "embedding":
            record["fingerprint"] = metrics.fingerprint(on_host[0])
        else:
            record["worst_token"], record["worst_token_relative_l2"] = metrics.worst_token(r[0], on_host[0])
        records.append(record)
    return records


def report_output(log: RunLog, output: str, samples: Sequence[dict[str, Any]], gate: Gate, reference: str) -> bool:
    """Print and record the worst of all samples of one output; True where it passes the gate."""
    worst = formulas.worst_metrics(samples)
    nonfinite = sum(sample["nonfinite"] for sample in samples)
    passed = formulas.is_within(worst, nonfinite, gate.allowed, gate.classifier)
    log.line()
    log.line(f"{output} against {reference}, the worst of {len(samples)} samples")
    for metric in formulas.METRICS:
        log.line(f"{metric}: {format_metric(metric, worst[metric])}")
    if output == "hidden_state":
        errors = [sample["worst_token_relative_l2"] for sample in samples]
        at = find_worst(errors)
        log.line(f"worst token: {samples[at]['worst_token']} of {samples[at]['image']} ({percent(errors[at])})")
    if nonfinite:
        log.line(f"nonfinite: {nonfinite}")
    if gate.expected_relative_l2 is not None:
        log.line(f"expected_relative_l2: {percent(gate.expected_relative_l2)} (rounding to {gate.dtype}, emulated)")
    log.line(f"threshold: {round(gate.allowed * 100, 9)}%")
    result = "PASS" if passed else "FAIL"
    log.line(f"result: {result}")
    log.record(
        "accuracy",
        output=output,
        reference=reference,
        samples=len(samples),
        **worst,
        nonfinite=nonfinite,
        expected_relative_l2=gate.expected_relative_l2,
        threshold=gate.allowed,
        result=result,
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
        log.record("noise_floor", output=output, relative_l2=floors[output])
    return floors


def warn_of_noise(log: RunLog, samples: Sequence[dict[str, Any]], floor: float | None) -> None:
    """Say so where strict float32 errs by more than rounding can."""
    error = formulas.worst_metrics(samples)["relative_l2"]
    if formulas.is_far_above_noise(error, floor):
        log.line(f"warning: {percent(error)} is far above the noise of float32; --explain looks for the cause")
