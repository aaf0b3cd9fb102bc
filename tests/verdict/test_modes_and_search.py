"""What the checker says of several modes and of batch sizes that were searched for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.logs import Edit, Records, change, drop, edited, find, read_records

Check = Callable[..., tuple[int, str]]
INDUCTOR = "compile:inductor"


def with_inductor(records: Records) -> None:
    """A consistent log in which a compiled encoder took as long as the eager one."""
    records[0]["backends"] = []
    for record in [record for record in records if record["event"] in ("perf", "latencies")]:
        records.insert(-1, {**record, "mode": INDUCTOR})


def failed_backend(records: Records) -> None:
    with_inductor(records)
    for record in [record for record in records if record.get("mode") == INDUCTOR]:
        records.remove(record)
    for size in records[0]["batch_sizes"]:
        failed = {"event": "perf", "batch_size": size, "mode": INDUCTOR, "status": "error", "reason": "no g++"}
        records.insert(-1, {"run": records[0]["run"], "seq": 0, **failed})


def after(first: Edit, then: Edit) -> Edit:
    def edit(records: Records) -> None:
        first(records)
        then(records)

    return edit


@pytest.fixture
def judge(check: Check, evidence: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """The verdict on the evidence with an edited perf log."""

    def judged(edit: Edit, *arguments: object) -> tuple[int, str]:
        log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", edit)
        return check(evidence / "accuracy.log", log, *arguments)

    return judged


def test_every_mode_is_judged(judge: Check) -> None:
    code, output = judge(with_inductor)
    assert code == 0, output
    for name in ("status", "summary", "computed on", "output_relative_l2", "same embedding"):
        assert f"batch 1 {INDUCTOR} {name}" in output


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("output_relative_l2", 0.02, "output_relative_l2"),
        ("throughput_ips", 1e6, "summary"),
        ("device", "npu:0", "computed on"),
        ("fingerprint", lambda old: [-number for number in old], "same embedding"),
    ],
)
def test_a_mode_that_computes_something_else_fails(key: str, value: object, named: str, judge: Check) -> None:
    code, output = judge(after(with_inductor, change("perf", key, value, batch_size=1, mode=INDUCTOR)))
    assert code == 1, output
    failed = [row for row in output.splitlines() if row.endswith("FAIL")]
    assert any(f"batch 1 {INDUCTOR} {named}" in row for row in failed), output


@pytest.mark.parametrize(
    "edit",
    [
        after(with_inductor, drop("perf", batch_size=2, mode=INDUCTOR)),
        after(with_inductor, drop("latencies", mode=INDUCTOR)),
        after(with_inductor, change("run_start", "backends", ["cudagraphs"])),
        after(with_inductor, change("run_start", "backends", ["inductor", "cudagraphs"])),
        after(with_inductor, lambda records: records[0].pop("backends")),
        change("run_start", "backends", []),
        change("latencies", "mode", INDUCTOR, **{"batch_size": 1, "pass": "latency"}),
        change("perf", "mode", INDUCTOR, batch_size=1),
        change("perf", "mode", "", batch_size=1),
        change("perf", "mode", None, batch_size=1),
        change("latencies", "mode", "", **{"batch_size": 1, "pass": "latency"}),
        after(with_inductor, lambda records: [r.update(mode=INDUCTOR) for r in records if r["event"] == "perf"]),
    ],
)
def test_modes_that_were_not_planned_or_are_missing_cannot_be_judged(edit: Edit, judge: Check) -> None:
    code, output = judge(edit)
    assert code == 2, output


def test_a_backend_that_fails_leaves_the_others_standing(judge: Check) -> None:
    code, output = judge(failed_backend)
    assert code == 0, output
    assert "warning: compile:inductor was not measured at batch 1, 2: error (no g++)." in output


def test_an_eager_batch_that_fails_is_no_backends(judge: Check, evidence: Path) -> None:
    def eager_fails(records: Records) -> None:
        with_inductor(records)
        row = find(records, "perf", batch_size=2, mode="eager")
        for key in row.keys() - {"run", "seq", "event", "batch_size", "mode"}:
            del row[key]
        row.update(status="error", reason="no kernel")

    assert judge(eager_fails)[0] == 1


def test_the_best_mode_counts_for_the_bounds(judge: Check, evidence: Path) -> None:
    def twice_as_fast(records: Records) -> None:
        """Only what follows from halved samples is edited: figures that are means of them."""
        with_inductor(records)
        for record in records:
            if record.get("mode") != INDUCTOR:
                continue
            if record["event"] == "latencies":
                record["samples_ms"] = [sample / 2 for sample in record["samples_ms"]]
            for key in record:
                if key.endswith("latency_ms") and record[key] is not None:
                    record[key] /= 2
                if key in ("throughput_ips", "end_to_end_ips", "achieved_tflops", "percent_of_limit") and record[key]:
                    record[key] *= 2

    perf = read_records(evidence / "benchmark.log")
    best = max(record["throughput_ips"] for record in perf if record["event"] == "perf")
    latency = find(perf, "perf", batch_size=1)["avg_latency_ms"]
    _, output = judge(twice_as_fast, "--min-throughput", best * 1.9, "--max-latency-ms", latency * 0.6)
    gates = [row for row in output.splitlines() if "best throughput_ips" in row or "avg_latency_ms" in row]
    assert len(gates) == 2
    assert all(row.endswith("PASS") for row in gates), gates
    _, output = judge(twice_as_fast, "--min-throughput", best * 2.1, "--max-latency-ms", latency * 0.4)
    gates = [row for row in output.splitlines() if "best throughput_ips" in row or "avg_latency_ms" in row]
    assert all(row.endswith("FAIL") for row in gates), gates


# ------------------------------------------------------------------------------------------------------ the search
def step(size: int, ips: float | None) -> dict[str, object]:
    if ips is None:
        return {"batch_size": size, "status": "oom", "reason": "out of memory"}
    return {"batch_size": size, "status": "ok", "calls": 1, "samples_ms": [1000 * size / ips, 2000 * size / ips]}


def searched(*steps: dict[str, object]) -> Edit:
    """As if the evidence's two batch sizes had been searched for."""

    def edit(records: Records) -> None:
        records[0].update(batch_sizes=[1], auto=True)
        records.insert(3, {"run": records[0]["run"], "seq": 0, "event": "search", "steps": list(steps)})

    return edit


@pytest.mark.parametrize("last", [step(2, 104.0), step(2, 90.0)])
def test_a_search_that_ends_by_its_gain_passes(last: dict[str, object], judge: Check) -> None:
    code, output = judge(searched(step(1, 100.0), last))
    assert code == 0, output


def test_a_search_that_ends_by_memory_passes(judge: Check) -> None:
    code, output = judge(searched(step(1, 100.0), step(2, 190.0), step(4, None)))
    assert code == 0, output


@pytest.mark.parametrize(
    "edit",
    [
        searched(),
        searched(step(1, 100.0), step(2, 106.0)),  # it would have gone on
        searched(step(1, 100.0), step(2, 104.0), step(4, None)),  # it would have ended before
        searched(step(1, 100.0), step(2, 190.0), step(8, None)),  # not doubled
        searched(step(2, 100.0), step(4, None)),  # not from 1
        searched(step(1, 100.0), step(2, 190.0), step(4, 191.0)),  # 4 was found and not measured
        searched(step(1, 100.0), {**step(2, None), "status": "ok"}),
        searched(step(1, 100.0), {**step(2, 104.0), "status": "error"}),
        searched(step(1, 100.0), {**step(2, 104.0), "samples_ms": []}),
        after(searched(step(1, 100.0), step(2, 104.0)), lambda records: records[0].pop("auto")),
        after(searched(step(1, 100.0), step(2, 104.0)), drop("search")),
        change("run_start", "auto", True),
    ],
)
def test_a_search_that_no_run_makes_cannot_be_judged(edit: Edit, judge: Check) -> None:
    code, output = judge(edit)
    assert code == 2, output
