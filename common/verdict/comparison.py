"""Evidence beside that of another device, dtype, numerics or mode of the same weights: ratios, errors, what differs.

Nothing is gated but, where a smallest ratio is asked for, the throughput. Every figure is computed again from samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from common.log import formulas
from common.log.events import OUTPUTS, PACKAGES, Accuracy, Case
from common.log.figures import format_pair, percent
from common.log.reader import Run, UnjudgeableError
from common.log.samples import each_sample
from common.verdict.evidence import (
    Bounds,
    Check,
    Comparison,
    ErrorBeside,
    Group,
    Pace,
    Verdict,
    about,
    differences_between,
    judgeable,
    passed,
)
from common.verdict.performance import measured_cases, windows_of

FACTS = (
    *("device", "device_name", "simulated", "dtype", "numerics", "compiled", "ranks", "input_size", "embedding_is"),
    *("cpu_threads", "cann", "npu_driver", "python", *PACKAGES, "code_sha256"),
)
SHOWN = 24  # characters of a fact


def compare(group: Group, other: Group) -> Iterator[Comparison]:
    """Each performance run of a group beside each of the other's, with the errors of both groups' last accuracy runs.

    Raises UnjudgeableError where a batch size was measured and its samples are missing or have no ratio.
    """
    errors = list(_errors(group.of("accuracy")[-1:], other.of("accuracy")[-1:]))
    pairs = list(product(group.of("perf"), other.of("perf")))
    for ours, theirs in pairs or [(group.runs[-1], other.runs[-1])]:
        yield Comparison(
            title=other.title,
            runs=other.runs,
            verdict=other.verdict,
            differences=differences_between(ours, theirs, FACTS),
            paces=[pace_of(ours, theirs, case) for case in measured_cases(ours) if case in measured_cases(theirs)],
            errors=errors,
        )


def pace_of(ours: Run, theirs: Run, case: Case) -> Pace:
    """One batch size and mode in two runs. Raises UnjudgeableError where its samples are missing or have no ratio."""
    runs = (ours, theirs)
    latency, throughput = ([windows_of(run, case, name) for run in runs] for name in ("latency", "throughput"))
    first, second = (formulas.summarize_latency(each.samples_ms).avg_latency_ms for each in latency)
    fast, beside = (formulas.throughput_of(each, case.batch_size) for each in throughput)
    found = Pace(case, (first, second), (fast, beside))
    if not (math.isfinite(found.latency_ratio) and math.isfinite(found.throughput_ratio)):
        raise UnjudgeableError(f"{case}: times that have no ratio")
    return found


def _errors(ours: Sequence[Run], theirs: Sequence[Run]) -> Iterator[ErrorBeside]:
    """Of both accuracy runs, where there are both, the worst gated errors of each output."""
    for (one, other), output in product(zip(ours, theirs, strict=False), OUTPUTS):
        if not all(any(event.output == output for event in run.all(Accuracy)) for run in (one, other)):
            continue  # feature files have no hidden state
        for metric in formulas.GATED_METRICS:
            yield ErrorBeside(output, metric, (_worst(one, output, metric), _worst(other, output, metric)))


def _worst(run: Run, output: str, metric: str) -> float | None:
    """The largest of all samples and references; None where one is not finite, or there is none."""
    found = formulas.worst_metrics(sample.metrics for sample in each_sample(run, output))
    return formulas.values_of(found)[metric]


# ------------------------------------------------------------------------------------------------------- as checks
def check_comparison(found: Comparison, which: str, bounds: Bounds) -> Iterator[Check]:
    """A comparison as rows, which pass but for a throughput below the smallest ratio; `which` names the other."""
    ratio = bounds.min_ratio
    yield Check(which, f"{found.title}; differs: {differences_in_words(found)}", "any", Verdict.PASS)
    if ratio is not None:
        sound = judgeable(found.verdict is Verdict.PASS)
        yield Check(f"{which} itself", str(found.verdict), "PASS: --min-ratio counts on it", sound)
        if not found.paces:
            yield from about("perf", [Check(f"{which} batch sizes", "none in common", "one", Verdict.CANNOT_JUDGE)])
    for pace in found.paces:
        name = str(pace.case)
        value = f"{pace.latency_ratio:.2f}x: {format_pair(pace.latency_ms, 'avg_latency_ms')} ms"
        yield Check(f"{name} latency beside {which}", value, "any", Verdict.PASS, about="perf")
        value = f"{pace.throughput_ratio:.2f}x: {format_pair(pace.throughput_ips, 'throughput_ips')} images/s"
        bound = "any" if ratio is None else f">= {ratio:g}x"
        verdict = passed(ratio is None or pace.throughput_ratio >= ratio)
        yield Check(f"{name} throughput beside {which}", value, bound, verdict, about="perf")
    for each in found.errors:
        value = " / ".join(map(percent, each.values))
        name = f"{each.output} {each.metric} beside {which}"
        yield Check(name, value, "any", Verdict.PASS, about="accuracy")


def differences_in_words(found: Comparison) -> str:
    """What differs, each fact as the first run's / the second's."""
    named = [f"{each.key} {str(each.ours)[:SHOWN]} / {str(each.theirs)[:SHOWN]}" for each in found.differences]
    return ", ".join(named) or "nothing"
