"""The verdict for machines: a JSON file of a documented format, and JUnit XML for CI. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common.log import schema
from common.log.events import Accuracy, Cause, Env, Event, Layer, Machine, Perf, Ranks, RunStart, Speedup, Task
from common.log.framing import printable
from common.log.reader import Run
from common.log.whole_files import write_one
from common.verdict import summary
from common.verdict.evidence import Check, Comparison, Group, Judgement, Verdict, facts_of
from common.verdict.summary import Row

FORMAT = 1  # of the JSON file; a reader of this format may meet more keys, and none that is gone or means another thing

ENVIRONMENT_KEYS = ("device", "device_name", "simulated", "cann", "torch", "torch_npu", "timm", "transformers")
MODEL_KEYS = ("model", "library", "architecture", "params", "weights_source", "weights_sha256", "dtype", "numerics")
FIGURES: tuple[type[Event], ...] = (Accuracy, Task, Cause, Layer, Perf, Ranks, Speedup, Machine)
LEFT_OUT = {"fingerprint", "shares", "alone", "baseline_samples_ms"}  # of the figures: what only a check reads
# How JUnit calls a check that did not pass: a failure of the thing tested, or an error of the test.
JUNIT = {Verdict.FAIL: "failure", Verdict.CANNOT_JUDGE: "error"}


def write_json(path: Path, judgement: Judgement, rows: Sequence[Row] | None = None) -> None:
    """Raises UserError when the file can't be written."""
    write_one(path, (json.dumps(as_json(judgement, rows), indent=1, allow_nan=False) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Raises UserError when the file can't be written."""
    write_one(path, summary.as_csv(rows).encode())


def as_json(judgement: Judgement, rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """The verdict with all that it rests on, and the rows of its table; figures are those of the records."""
    return {
        "format": FORMAT,
        "verdict": str(judgement.verdict),
        "exit_code": int(judgement.verdict),
        "error": judgement.error,
        "only": judgement.only,
        "checks": [_check(check) for check in judgement.checks],
        "remarks": [remark.en for remark in judgement.remarks],
        "summary": [_row(row) for row in (summary.rows_of(judgement) if rows is None else rows)],
        "runs": [_run(run) for run in judgement.runs],
        "groups": [_group(group) for group in judgement.groups],
    }


def _row(row: Row) -> dict[str, Any]:
    return {**{key: getattr(row, key) for key in summary.KEYS}, "verdict": str(row.verdict)}


def _check(check: Check) -> dict[str, str]:
    return {"name": check.name, "value": check.value, "bound": check.bound, "verdict": str(check.verdict)}


def _run(run: Run) -> dict[str, Any]:
    """What a log held: a run that is not whole has `problems`."""
    start, end = next(iter(run.all(RunStart)), None), run.end
    return {
        "run": run.id,
        "script": run.script,
        "utc": start and start.utc,
        "log": run.log,
        "records": end and end.records,
        "records_sha256": end and end.records_sha256,
        "problems": run.problems,
    }


def _group(group: Group) -> dict[str, Any]:
    facts = facts_of(group.runs[0])
    return {
        "title": group.title,
        "verdict": str(group.verdict),
        **{key: facts[key] for key in (*MODEL_KEYS, *ENVIRONMENT_KEYS)},
        "simulated": group.runs[0].one(Env).is_simulated,
        "runs": [run.id for run in group.runs],
        "compared": [_comparison(each) for each in group.comparisons],
        **{kind.event: [_figures(event) for run in group.runs for event in run.all(kind)] for kind in FIGURES},
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    """Pairs are ours and the other's; ratios ours in times of the other's."""
    return {
        "title": found.title,
        "logs": found.logs,
        "verdict": str(found.verdict),
        "differences": {each.key: [each.ours, each.theirs] for each in found.differences},
        "batches": [
            {
                "batch_size": pace.case.batch_size,
                "mode": pace.case.mode,
                "avg_latency_ms": list(pace.latency_ms),
                "latency_ratio": pace.latency_ratio,
                "throughput_ips": list(pace.throughput_ips),
                "throughput_ratio": pace.throughput_ratio,
            }
            for pace in found.paces
        ],
        "errors": [{"output": each.output, each.metric: list(each.values)} for each in found.errors],
    }


def _figures(event: Event) -> dict[str, Any]:
    return {key: value for key, value in schema.encode(event).items() if key not in LEFT_OUT}


def write_junit(path: Path, judgement: Judgement) -> None:
    """Raises UserError when the file can't be written."""
    write_one(path, ElementTree.tostring(as_junit(judgement), encoding="utf-8", xml_declaration=True))


def as_junit(judgement: Judgement) -> ElementTree.Element:
    """A suite for what was read and one for each group, a case for each check; texts hold no control characters."""
    groups = [(group.title, list(group.checks)) for group in judgement.groups if group.checks]
    before = len(judgement.checks) - sum(len(checks) for _, checks in groups)
    suites = [("evidence", list(judgement.checks[:before])), *groups]
    root = ElementTree.Element("testsuites", {"name": "check_accuracy_run_perf", **_counts(judgement.checks)})
    for title, checks in suites:
        suite = ElementTree.SubElement(root, "testsuite", {"name": printable(title), **_counts(checks)})
        for check in checks:
            _add_case(suite, title, check)
    if judgement.remarks:
        output = ElementTree.SubElement(suite, "system-out")
        output.text = "\n".join(printable(remark.en) for remark in judgement.remarks)
    ElementTree.indent(root)
    return root


def _counts(checks: Iterable[Check]) -> dict[str, str]:
    verdicts = [check.verdict for check in checks]
    return {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count(Verdict.FAIL)),
        "errors": str(verdicts.count(Verdict.CANNOT_JUDGE)),
    }


def _add_case(suite: ElementTree.Element, title: str, check: Check) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=printable(title), name=printable(check.name))
    if check.verdict in JUNIT:
        message = printable(f"{check.value}, wanted: {check.bound}")
        found = ElementTree.SubElement(case, JUNIT[check.verdict], message=message, type=str(check.verdict))
        found.text = message
