"""Judge the logs of accuracy_run.py and accuracy_run_perf.py: PASS, FAIL or CANNOT JUDGE.

Only complete, consistent evidence can pass: whole logs, accuracy and performance of the same weights on the same
device with the same code, every figure finite and inside its bound, every summary computed again from its samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from common.cli import launch, options
from common.errors import UserError
from common.log.runlog import Run, UnreadableRecordError, lines_of, printable, read_runs
from common.verdict import files
from common.verdict.accuracy import check_references
from common.verdict.evidence import KIND, Bounds, Check, Group, Judgement, UnjudgeableError, Verdict, guarded, one, text
from common.verdict.performance import check_perf, check_regression, check_same_outputs
from common.verdict.remarks import remarks_on
from common.verdict.setting import check_common_facts, check_numerics, check_setting

SCRIPT = "check_accuracy_run_perf.py"
EXAMPLES = """examples:
  python check_accuracy_run_perf.py                          logs/accuracy.log, logs/benchmark.log
  python check_accuracy_run_perf.py log.txt --require-device npu
  cat accuracy_log.txt perf_log.txt | python check_accuracy_run_perf.py -
  python check_accuracy_run_perf.py --baseline logs/benchmark.prev.log --max-regression 5%
  python check_accuracy_run_perf.py --require-device npu --report report --json verdict.json

exit codes: 0 PASS, 1 FAIL, 2 CANNOT JUDGE
"""
DEFAULT_LOGS = ("logs/accuracy.log", "logs/benchmark.log")
WIDEST = 36  # columns that a cell may make its column wide; beyond it only its own row moves
INFERENCE_LOG = "inference.log"  # its outputs belong on the pages, and prove nothing

LONGEST_CELL = 400  # characters; a hostile log can hold texts of any length


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.Parser(SCRIPT, __doc__, EXAMPLES)
    parser.add_argument(
        "logs",
        nargs="*",
        default=DEFAULT_LOGS,
        metavar="LOG",
        help="logs, several runs in one file too; - is standard input (default: logs/accuracy.log logs/benchmark.log)",
    )
    parser.add_argument(
        "--require-device", choices=tuple(options.DEVICE_KINDS), help="FAIL evidence from any other kind of device"
    )
    parser.add_argument(
        "--threshold",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="the largest relative_error and relative_l2, whatever the log's own was (default: %(default)s)",
    )
    parser.add_argument(
        "--min-throughput",
        type=options.positive_float,
        metavar="IPS",
        help="images a second that the best batch size must reach",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=options.positive_float,
        metavar="MS",
        help="the largest average latency at batch size 1",
    )
    parser.add_argument(
        "--baseline", metavar="LOG", help="an earlier perf log: FAIL what became slower, batch size by batch size"
    )
    parser.add_argument(
        "--max-regression",
        type=options.percent,
        default="5%",
        metavar="PERCENT",
        help="how much slower than the baseline a median may be (default: 5%%)",
    )
    parser.add_argument(
        "--allow-random-weights", action="store_true", help="judge evidence that was made with --weights random"
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="write report.md, report.zh-CN.md and their plots (needs matplotlib); an inference.log beside a LOG adds "
        "its result",
    )
    files.add_argument("--json", metavar="FILE", type=Path, help="write the verdict, its checks and figures as JSON")
    files.add_argument("--junit", metavar="FILE", type=Path, help="write one test case a check, as JUnit XML")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    bounds = Bounds(**{field.name: getattr(args, field.name) for field in fields(Bounds)})
    judgement = judge_logs(args.logs, args.baseline, bounds)
    print_table(judgement.checks)
    for remark in judgement.remarks:
        print(shortened(remark.en))
    if args.report:
        write_report(args.report, judgement, args.logs)
    if args.json:
        files.write_json(args.json, judgement)
    if args.junit:
        files.write_junit(args.junit, judgement)
    print(f"OVERALL: {judgement.verdict}")
    return int(judgement.verdict)


def judge_logs(logs: Sequence[str], baseline: str | None, bounds: Bounds) -> Judgement:
    """Read the logs and judge them; one that can't be read is reported, and nothing can be judged."""
    try:
        runs = [run for log in logs for run in read_log(log)]
        earlier = read_log(baseline) if baseline else []
    except UserError as error:
        print(f"error: {shortened(str(error))}", file=sys.stderr)
        reason = str(error)
        for log in (*logs, *([baseline] if baseline else [])):
            reason = reason.replace(log, Path(log).name)  # where somebody's home is does not belong on a page
        return Judgement([Check("logs", "unreadable", "readable", Verdict.CANNOT_JUDGE)], error=reason)
    return judge(runs, bounds, earlier)


def write_report(folder: Path, judgement: Judgement, logs: Sequence[str]) -> None:
    """Write the pages; only they need matplotlib."""
    from common.report import pages

    inferences = [run for run in judgement.runs if run.start.get("script") == "inference.py"]
    pages.write(folder, judgement, inferences or read_beside(logs))


def read_beside(logs: Sequence[str]) -> list[Run]:
    """The runs of an inference.log in the folder of a log; none where there is no readable one."""
    beside = {Path(log).parent / INFERENCE_LOG: None for log in logs if log != "-"}
    found: list[Run] = []
    for path in beside:
        with suppress(UserError):
            found += read_log(str(path))
    return found


def read_log(name: str) -> list[Run]:
    """The runs in a log file, or in standard input for `-`. Raises UserError when there is nothing to judge."""
    try:
        if name == "-":
            runs = list(read_runs(lines_of(sys.stdin.buffer)))  # type: ignore[arg-type]
        else:
            with open(name, "rb") as file:
                runs = list(read_runs(lines_of(file)))
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror}") from error
    except UnreadableRecordError as error:
        raise UserError(f"{name}: {error}") from error
    if not runs:
        raise UserError(f"{name} holds no records")
    for run in runs:
        run.log = "standard input" if name == "-" else Path(name).name
    return runs


def shortened(text: str) -> str:
    """A text from a log, printable and of bounded length."""
    return printable(text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}...")[: 2 * LONGEST_CELL]


def print_table(checks: Sequence[Check]) -> None:
    """One line a check, in at most 100 columns unless a name, value or bound is unusually long."""
    rows = [(*map(shortened, (c.name, c.value, c.bound)), str(c.verdict)) for c in checks]
    rows.insert(0, ("check", "value", "bound", "verdict"))
    widths = [max(len(row[column]) for row in rows if len(row[column]) <= WIDEST) for column in range(3)]
    for name, value, bound, verdict in rows:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {bound:<{widths[2]}}  {verdict}".rstrip())


# ------------------------------------------------------------------------------------------------------- judging
def judge(runs: Sequence[Run], bounds: Bounds, earlier: Sequence[Run]) -> Judgement:
    """All checks of all runs; `earlier` are a baseline's."""
    checks = [check_integrity(run) for run in runs]
    groups, faults = group_runs([run for run in runs if not run.problems])
    checks += faults
    if not groups and not any(check.verdict for check in checks):
        checks.append(Check("evidence", "no accuracy, no perf run", "both", Verdict.CANNOT_JUDGE))
    if any(check.verdict for check in checks):
        return Judgement(checks, groups, runs)
    judged = []
    for group in groups:
        prefix = f"{group.title}: " if len(groups) > 1 else ""
        found = [*check_group(group, bounds), *check_baseline(group, bounds, earlier)]
        judged.append(replace(group, checks=[replace(check, name=prefix + check.name) for check in found]))
        checks += judged[-1].checks
    return Judgement(checks, judged, runs)


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[Check]]:
    """The accuracy and perf runs by their identity, and what keeps them from being judged."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    faults: list[Check] = []
    for run in runs:
        try:
            if text(run.start, "script") in KIND:
                groups.setdefault(identity(run), []).append(run)
        except UnjudgeableError as error:
            faults.append(Check("evidence", str(error), "whole records", Verdict.CANNOT_JUDGE))
    return [Group(" ".join(key[1:]), group, remarks=remarks_on(group)) for key, group in groups.items()], faults


def check_integrity(run: Run) -> Check:
    name = f"{run.start.get('script', 'run')} {run.records[0]['run'][:8]}"
    if run.problems:
        return Check(name, "; ".join(run.problems), "a whole run", Verdict.CANNOT_JUDGE)
    return Check(name, f"{len(run.records)} records", "a whole run", Verdict.PASS)


def identity(run: Run) -> tuple[str, ...]:
    """What a run is evidence of: runs of different identity are judged apart."""
    model, env = one(run, "model"), one(run, "env")
    asked = [text(model, key) for key in ("weights_sha256", "model", "dtype", "numerics")]
    return *asked, text(env, "device")


def check_group(group: Group, bounds: Bounds) -> Iterator[Check]:
    """The checks of all runs of one identity."""
    for kind in KIND.values():
        if not group.of(kind):
            yield Check(f"{kind} run", "none", "of the same weights, dtype, device", Verdict.CANNOT_JUDGE)
    yield check_common_facts(group.runs)
    for run in group.runs:
        yield from guarded(check_setting(run, bounds))
        yield from guarded(check_numerics(run))
    for run in group.of("accuracy"):
        yield from guarded(check_references(run, bounds.threshold))
    for run in group.of("perf"):
        yield from guarded(check_perf(run, bounds))
    for perf in group.of("perf"):
        for accuracy in group.of("accuracy"):
            yield from guarded(check_same_outputs(accuracy, perf))


def check_baseline(group: Group, bounds: Bounds, earlier: Sequence[Run]) -> Iterator[Check]:
    """Every performance run against the one that the baseline has of the same encoder; nothing without a baseline."""
    if not earlier:
        return
    faults = [check for check in map(check_integrity, earlier) if check.verdict]
    yield from (replace(check, name=f"baseline {check.name}") for check in faults)
    known = [run for run in earlier if KIND.get(str(run.start.get("script"))) == "perf"]
    if not faults and len(known) != 1:
        yield Check("baseline", f"{len(known)} perf runs", "1", Verdict.CANNOT_JUDGE)
    elif not faults:
        for run in group.of("perf"):
            yield from guarded(check_regression(run, known[0], bounds.max_regression))


if __name__ == "__main__":
    launch.run(main)
