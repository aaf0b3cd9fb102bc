"""Evidence: a verdict and its parts, and how a figure in a log is compared. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

from common.errors import EXIT_ERROR, EXIT_FAIL, EXIT_OK
from common.log import schema
from common.log.conclusions import Words
from common.log.events import ACCURACY, EAGER, PERF, Case, Env, Model, Perf, Speedup
from common.log.reader import Run, UnjudgeableError

# Which kind of evidence a script's log is.
KIND = {ACCURACY: "accuracy", PERF: "perf"}
# Of a verdict on one kind of evidence: what it does not say.
ONLY = {
    "accuracy": Words("only accuracy is judged: nothing is said about performance.", "仅判定精度：不涉及性能。"),
    "perf": Words("only performance is judged: nothing is said about accuracy.", "仅判定性能：不涉及精度。"),
}
RELATIVE_TOLERANCE = 1e-9  # of figures that are computed again from the same float64 numbers
ABSOLUTE_TOLERANCE = 1e-12  # likewise, where they cancel


class Verdict(IntEnum):
    """In rising order of how bad it is: the worst counts. The value is the exit code."""

    PASS = EXIT_OK
    FAIL = EXIT_FAIL
    CANNOT_JUDGE = EXIT_ERROR

    def __str__(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Check:
    """One row of the table; `metric` is the key of the accuracy metric that it holds to its bound, and `share` what
    part of the bound that is. `about` is what it checks: accuracy, task, perf, or evidence.
    """

    name: str
    value: str
    bound: str
    verdict: Verdict
    metric: str | None = None
    share: float | None = None
    about: str = "evidence"


@dataclass(frozen=True)
class Bounds:
    """The bounds that the command line sets; fractions, images a second, ms."""

    threshold: float
    require_device: str | None
    allow_random_weights: bool
    min_throughput: float | None
    max_latency_ms: float | None
    max_regression: float
    min_ratio: float | None = None
    min_samples: int = 1
    max_accuracy_drop: float = 0.01


@dataclass(frozen=True)
class Difference:
    """A fact, by its key in the log, that is another one in two runs."""

    key: str
    ours: Any
    theirs: Any


@dataclass(frozen=True)
class Pace:
    """A batch size and mode in two runs, ours first: the average latency in ms, the throughput in images a second."""

    case: Case
    latency_ms: tuple[float, float]
    throughput_ips: tuple[float, float]

    @property
    def latency_ratio(self) -> float:
        """Ours in times of theirs: below 1 is faster."""
        return self.latency_ms[0] / self.latency_ms[1]

    @property
    def throughput_ratio(self) -> float:
        """Ours in times of theirs: above 1 is faster."""
        return self.throughput_ips[0] / self.throughput_ips[1]


@dataclass(frozen=True)
class ErrorBeside:
    """The worst of one metric of one output in two runs, ours first; None where it is not finite."""

    output: str
    metric: str
    values: tuple[float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """A group beside another of the same weights, whose title, runs and own verdict these are."""

    title: str
    runs: Sequence[Run]
    verdict: Verdict
    differences: Sequence[Difference]
    paces: Sequence[Pace]
    errors: Sequence[ErrorBeside]

    @property
    def logs(self) -> list[str]:
        """The names of the other's logs."""
        return list(dict.fromkeys(run.log for run in self.runs))


@dataclass(frozen=True)
class Group:
    """The runs of one identity (weights, model, dtype, numerics, device), what was checked of them, and what must be
    said beside the verdict. `title` names all but the weights. A group that was not judged has no checks.
    """

    title: str
    runs: Sequence[Run]
    checks: Sequence[Check] = ()
    remarks: Sequence[Words] = ()
    comparisons: Sequence[Comparison] = ()

    @property
    def verdict(self) -> Verdict:
        return worst_verdict(self.checks)

    def of(self, kind: str) -> list[Run]:
        """The accuracy or the perf runs."""
        return [run for run in self.runs if KIND[run.script] == kind]

    @cached_property
    def _timed(self) -> list[Perf]:
        rows = [row for run in self.of("perf")[-1:] for row in run.all(Perf)]
        return [row for row in rows if row.timed and row.status == "ok"]

    @property
    def alone(self) -> Perf | None:
        """The last perf run's batch size 1, eager."""
        return next((row for row in self._timed if row.case == Case(EAGER, 1)), None)

    @property
    def best(self) -> Perf | None:
        """The last perf run's batch size and mode with the largest throughput."""
        return max(self._timed, key=lambda row: row.timed.figures.throughput_ips if row.timed else 0, default=None)

    @property
    def speedup(self) -> Speedup | None:
        return next((each for run in self.of("perf")[-1:] for each in run.all(Speedup)), None)


@dataclass(frozen=True)
class Judgement:
    """All checks of all runs that were read. `groups` are the whole runs that could be told apart, by identity;
    `error` says why a log could not be read at all; `faulty_logs` are those that were not, or hold a run that is not
    whole; `only` says which kind of evidence was judged, where one alone was; `argv` is the checker's command line;
    `several` says that the logs are of several folders or encoders: then one with a fault leaves the others judged.
    """

    checks: Sequence[Check]
    groups: Sequence[Group] = ()
    runs: Sequence[Run] = field(default=(), repr=False)
    error: str | None = None
    argv: Sequence[str] = ()
    only: str | None = None
    faulty_logs: Sequence[str] = ()
    several: bool = False

    @property
    def verdict(self) -> Verdict:
        return worst_verdict(self.checks)

    @property
    def remarks(self) -> list[Words]:
        """What must be said right before the verdict, each remark once; of what was not judged, nothing."""
        found = [remark for group in self.groups if group.checks for remark in group.remarks]
        return list(dict.fromkeys([*found, *self.limits]))

    @property
    def limits(self) -> list[Words]:
        """What was not judged on request: right before the verdict, which does not say it."""
        return [ONLY[self.only]] if self.only else []


def worst_verdict(checks: Sequence[Check]) -> Verdict:
    """Nothing checked is nothing proved."""
    return max((check.verdict for check in checks), default=Verdict.CANNOT_JUDGE)


def about(kind: str, checks: Iterable[Check]) -> Iterator[Check]:
    """`checks`, as those of one kind of evidence."""
    return (replace(check, about=kind) for check in checks)


def passed(condition: bool) -> Verdict:
    return Verdict.PASS if condition else Verdict.FAIL


def judgeable(condition: bool) -> Verdict:
    return Verdict.PASS if condition else Verdict.CANNOT_JUDGE


def guarded(checks: Iterator[Check]) -> Iterator[Check]:
    """`checks`, ended by a CANNOT JUDGE where a run lacks what they need."""
    try:
        yield from checks
    except UnjudgeableError as error:
        yield Check("records", str(error), "whole records", Verdict.CANNOT_JUDGE)
    except ArithmeticError as error:  # figures so large or small that what follows from them is no number
        yield Check("records", f"figures out of range: {error}", "whole records", Verdict.CANNOT_JUDGE)


def equal(found: float | str | None, expected: float | str | None) -> bool:
    """Whether a figure or word in the log is the one computed again; None equals only None."""
    if found is None or expected is None or isinstance(found, str) or isinstance(expected, str):
        return found == expected
    return math.isclose(found, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def at_most(fraction: float) -> str:
    return f"<= {fraction * 100:g}%"


def facts_of(run: Run) -> dict[str, Any]:
    """What a run says of its code, its machine and its encoder, by the keys of the log."""
    return schema.encode(run.start) | schema.encode(run.one(Env)) | schema.encode(run.one(Model))


def differences_between(ours: Run, theirs: Run, keys: Iterable[str]) -> list[Difference]:
    """Those facts that differ; what a run does not say is None."""
    one, other = facts_of(ours), facts_of(theirs)
    found = (Difference(key, one.get(key), other.get(key)) for key in keys)
    return [each for each in found if each.ours != each.theirs]


def setting(run: Run) -> str:
    """The device and dtype that all outputs of the run must have."""
    return f"{run.one(Env).device} {run.one(Model).dtype}"
