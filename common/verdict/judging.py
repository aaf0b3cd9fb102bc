"""Judging logs: reading them by name, telling apart what their runs are evidence of, and all checks of each."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.log.events import Env, Model
from common.log.lines import UnreadableRecordError, lines_of
from common.log.reader import Run, UnjudgeableError, read_runs
from common.verdict.accuracy import check_references, check_repeats
from common.verdict.comparison import check_comparison, compare
from common.verdict.evidence import KIND, Bounds, Check, Comparison, Group, Judgement, Verdict, about, guarded
from common.verdict.kinds import check_kinds
from common.verdict.machine import check_machine
from common.verdict.performance import check_perf, check_regression, check_same_outputs
from common.verdict.remarks import doubts_of_baseline, doubts_of_count, remarks_on
from common.verdict.setting import check_common_facts, check_numerics, check_setting
from common.verdict.task import check_task

LOGS = {"accuracy": "accuracy.log", "perf": "benchmark.log"}  # in a folder, by the kind of evidence
# What lines for people hold, and the log that has it as records.
RESULT_KEYS = {b"relative_error:": "logs/accuracy.log", b"throughput_ips:": "logs/benchmark.log"}


# ------------------------------------------------------------------------------------------------- reading
class UnreadableLogError(UserError):
    """A log with nothing to judge. `reason` names it by its last part: a home's folder does not belong on a page."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"{name}{fault}")
        self.log, self.fault = Path(name).name, fault

    @property
    def reason(self) -> str:
        return f"{self.log}{self.fault}"


@dataclass
class Read:
    """Logs that were read: their names, their runs, and the errors of those that could not be."""

    logs: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    errors: list[UnreadableLogError] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)


def read_each(names: Sequence[str], only: str | None = None) -> Read:
    """As `read_logs` and `logs_of`, but one log that can't be read does not keep the others from it.

    Where several folders hold logs of the same name, the folder's is before it.
    """
    found = Read()
    for name in names:
        if name != "-":
            found.folders.add(Path(name) if Path(name).is_dir() else Path(name).parent)
        try:
            logs = list(logs_of([name], only))
        except UnreadableLogError as error:
            found.errors.append(error)
            continue
        found.logs += logs
    last = Counter(Path(log).name for log in found.logs)
    for log in found.logs:
        path = Path(log)
        folder = f"{path.resolve().parent.name}/" if last[path.name] > 1 and log != "-" else ""
        try:
            runs = _read_log(log)
        except UnreadableLogError as error:
            error.log = folder + error.log
            found.errors.append(error)
            continue
        for run in runs:
            run.log = folder + run.log
        found.runs += runs
    return found


def logs_of(names: Iterable[str], only: str | None = None) -> Iterator[str]:
    """The log files that are named, in place of a folder those that it holds. Raises UnreadableLogError for none."""
    wanted = [log for kind, log in LOGS.items() if only in (None, kind)]
    for name in names:
        if name == "-" or not Path(name).is_dir():
            yield name
            continue
        found = [str(path) for log in wanted if (path := Path(name) / log).exists()]
        if not found:
            others = sorted(path.name for path in Path(name).glob("*.log"))
            listed = f", but {', '.join(others[:5])}: name the files" if others else ""
            raise UnreadableLogError(name, f" is a folder without {' or '.join(wanted)}{listed}")
        yield from found


def read_logs(names: Iterable[str]) -> list[Run]:
    """The runs in log files; `-` is standard input. Raises UnreadableLogError."""
    return [run for name in names for run in _read_log(name)]


def _read_log(name: str) -> list[Run]:
    results: set[str] = set()
    try:
        if name == "-":
            runs = list(read_runs(_noting(lines_of(sys.stdin.buffer), results)))  # type: ignore[arg-type]
        else:
            with open(name, "rb") as file:
                runs = list(read_runs(_noting(lines_of(file), results)))
    except OSError as error:
        raise UnreadableLogError(name, f" can't be read: {error.strerror}") from error
    except UnreadableRecordError as error:
        raise UnreadableLogError(name, f": {error}") from error
    if not runs and results:
        logs = " ".join(sorted(results))
        raise UnreadableLogError(
            name,
            f" holds results and no records: a terminal, docker -t too, shows none. Give what the run wrote: {logs}",
        )
    if not runs:
        raise UnreadableLogError(name, " holds no records")
    for run in runs:
        run.log = "standard input" if name == "-" else Path(name).name
    return runs


def _noting(lines: Iterable[bytes], results: set[str]) -> Iterator[bytes]:
    """The lines, and into `results` the logs that hold the records of what these lines tell people."""
    for line in lines:
        for key, log in RESULT_KEYS.items():
            if key in line:
                results.add(log)
        yield line


# ------------------------------------------------------------------------------------------------- judging
def judge(
    runs: Sequence[Run],
    earlier: Sequence[Run],
    bounds: Bounds,
    only: str | None = None,
    others: Sequence[Run] = (),
    errors: Sequence[UnreadableLogError] = (),
    several: bool = False,
) -> Judgement:
    """All checks of all runs, or of those of one kind; `earlier` are a baseline's, `others` those to compare with.

    `errors` are of logs that could not be read. A fault of one log leaves the others judged, where they are `several`,
    of different folders or encoders; the whole can't be judged then.
    """
    runs = of_kind(runs, only)
    kinds = [kind for kind in KIND.values() if only in (None, kind)]
    checks = [Check(f"log {error.log}", error.fault, "readable", Verdict.CANNOT_JUDGE) for error in errors]
    checks += [check_integrity(run) for run in runs]
    faulty = [*(error.log for error in errors), *(run.log for run in runs if run.problems)]
    groups, faults = group_runs([run for run in runs if not run.problems])
    checks += faults
    others_groups, faults = group_others(of_kind(others, only), groups, bounds) if groups else ([], [])
    if groups and others and not others_groups and not faults:
        faults.append(Check("compare", f"no {' or '.join(kinds)} run", "one", Verdict.CANNOT_JUDGE))
    checks += faults
    if not groups and not any(check.verdict for check in checks):
        missing = ", ".join(f"no {kind}" for kind in kinds)
        bound = "one" if only else "both"
        checks.append(Check("evidence", f"{missing} run", bound, Verdict.CANNOT_JUDGE))
    reason = errors[0].reason if errors else None
    several |= len(groups) > 1
    if errors and not (several and groups):
        return replace(unreadable(errors[0], only), faulty_logs=faulty, several=several)
    if any(check.verdict for check in checks) and not (several and groups):
        return Judgement(checks, groups, runs, error=reason, only=only, faulty_logs=faulty, several=several)
    judged = []
    for group in groups:
        prefix = f"{group.title}: " if len(groups) > 1 else ""
        found = [*check_group(group, bounds, kinds), *about("perf", check_baseline(group, earlier, bounds))]
        comparisons: list[Comparison] = []
        found += guarded(check_others(group, others_groups, bounds, comparisons))
        checked = [replace(check, name=prefix + check.name) for check in found]
        remarks = [*doubts_of_baseline(checked), *doubts_of_count(group.runs, bounds.min_samples), *group.remarks]
        judged.append(replace(group, checks=checked, remarks=remarks, comparisons=comparisons))
        checks += judged[-1].checks
    return Judgement(checks, judged, runs, error=reason, only=only, faulty_logs=faulty, several=several)


def of_kind(runs: Sequence[Run], only: str | None) -> Sequence[Run]:
    """The runs of one kind, and those of which it is not known; all of them for None."""
    return [run for run in runs if only is None or KIND.get(run.script, only) == only]


def unreadable(error: UnreadableLogError, only: str | None = None) -> Judgement:
    """Where one log can't be read, nothing can be judged."""
    return Judgement([Check("logs", "unreadable", "readable", Verdict.CANNOT_JUDGE)], error=error.reason, only=only)


def check_integrity(run: Run) -> Check:
    """The run is whole, and every record is one that its script writes."""
    value, verdict = "; ".join(run.problems), Verdict.CANNOT_JUDGE
    if run.end and not run.problems:
        value, verdict = f"{run.end.records} records", Verdict.PASS
    where = f"{run.log}: " if "/" in run.log else ""  # of several folders
    return Check(f"{where}{run.script} {run.id[:8]}", value, "a whole run", verdict)


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[Check]]:
    """The accuracy and perf runs by their identity, and what keeps them from being judged."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    faults: list[Check] = []
    for run in runs:
        try:
            if run.script in KIND:
                groups.setdefault(identity(run), []).append(run)
        except UnjudgeableError as error:
            faults.append(Check("evidence", str(error), "whole records", Verdict.CANNOT_JUDGE))
    return [Group(" ".join(key[1:]), group, remarks=remarks_on(group)) for key, group in groups.items()], faults


def identity(run: Run) -> tuple[str, ...]:
    """What a run is evidence of: runs of different identity are judged apart."""
    model, env = run.one(Model), run.one(Env)
    if model.weights_sha256 is None:
        raise UnjudgeableError("model record: weights_sha256 is None, not a text")
    return model.weights_sha256, model.model, model.dtype, model.numerics, env.device


def check_group(group: Group, bounds: Bounds, kinds: Sequence[str]) -> Iterator[Check]:
    """The checks of all runs of one identity, which must be of these kinds."""
    for kind in kinds:
        if not group.of(kind):
            found = Check(f"{kind} run", "none", "of the same weights, dtype, device", Verdict.CANNOT_JUDGE)
            yield replace(found, about=kind)
    yield check_common_facts(group.runs)
    for run in group.runs:
        yield from guarded(check_setting(run, bounds))
        yield from about(KIND[run.script], guarded(check_numerics(run)))
    for run in group.of("accuracy"):
        yield from about("accuracy", guarded(check_references(run, bounds.threshold)))
        yield from about("accuracy", guarded(check_repeats(run)))
        yield from about("task", guarded(check_task(run, bounds.max_accuracy_drop)))
    for run in group.of("perf"):
        yield from about("perf", check_machine(run))
        yield from about("perf", guarded(check_perf(run, bounds)))
        yield from about("perf", guarded(check_kinds(run)))
    for perf in group.of("perf"):
        for accuracy in group.of("accuracy"):
            yield from about("perf", guarded(check_same_outputs(accuracy, perf)))


def damages_of(runs: Iterable[Run], role: str) -> list[Check]:
    """What keeps runs that play a role beside those that are judged from being whole."""
    found = (check for check in map(check_integrity, runs) if check.verdict)
    return [replace(check, name=f"{role} {check.name}") for check in found]


def check_baseline(group: Group, earlier: Sequence[Run], bounds: Bounds) -> Iterator[Check]:
    """Every performance run against the one that the baseline has of the same encoder; nothing without a baseline."""
    if not earlier:
        return
    faults = damages_of(earlier, "baseline")
    yield from faults
    known = [run for run in earlier if KIND.get(run.script) == "perf"]
    if not faults and len(known) != 1:
        yield Check("baseline", f"{len(known)} perf runs", "1", Verdict.CANNOT_JUDGE)
    elif not faults:
        for run in group.of("perf"):
            yield from guarded(check_regression(run, known[0], bounds.max_regression))


def group_others(others: Sequence[Run], groups: Sequence[Group], bounds: Bounds) -> tuple[list[Group], list[Check]]:
    """The runs to compare with by their identity, each group with its own checks; and why they can't be compared."""
    faults = damages_of(others, "compare")
    found, more = group_runs([] if faults else others)
    faults += [replace(check, name="compare") for check in more]
    judged_ids = {run.id for group in groups for run in group.runs}
    known = {weights_of(group) for group in groups}
    for group in found:
        if weights_of(group) not in known:
            value = f"other weights: {group.title} has {weights_of(group)[:8]}"
            faults.append(Check("compare", value, ", ".join(each[:8] for each in sorted(known)), Verdict.CANNOT_JUDGE))
        elif any(run.id in judged_ids for run in group.runs):
            faults.append(Check("compare", "a run beside itself", "another run", Verdict.CANNOT_JUDGE))
    anywhere = replace(bounds, require_device=None, min_throughput=None, max_latency_ms=None)
    return [replace(each, checks=list(check_group(each, anywhere, ()))) for each in found], faults


def weights_of(group: Group) -> str:
    return str(group.runs[0].one(Model).weights_sha256)


def check_others(
    group: Group, others: Sequence[Group], bounds: Bounds, comparisons: list[Comparison]
) -> Iterator[Check]:
    """A group beside each other of the same weights, noted in `comparisons`; nothing without others."""
    same = [other for other in others if weights_of(other) == weights_of(group)]
    if others and not same:
        yield Check("compare", "none of its weights", "a log of them", Verdict.CANNOT_JUDGE)
    for found in (each for other in same for each in compare(group, other)):
        comparisons.append(found)
        which = "other" if len(comparisons) == 1 else f"other {len(comparisons)}"
        if not found.paces and not found.errors:
            yield Check("compare", f"no run of the same kind as {found.title}", "one", Verdict.CANNOT_JUDGE)
            continue
        yield from check_comparison(found, which, bounds)
