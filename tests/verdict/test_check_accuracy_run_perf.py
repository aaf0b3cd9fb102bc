"""The checker: a table of ways to be wrong, none of which passes, against one good pair of logs."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PERF_QUICK, ROOT, Finished, Runner
from helpers.logs import (
    Edit,
    Records,
    change,
    drop,
    edited,
    even,
    find,
    ranks_record,
    read_records,
    sign,
    text_of,
    times_faster,
    windows,
    write_records,
)

import check_accuracy_run_perf as checker
from common.log import formulas, schema
from common.log.events import OUTPUTS, Limit, MachineSettings

Check = Callable[..., tuple[int, str]]
MACHINE_SETTINGS = schema.keys(MachineSettings)


def failing(output: str) -> list[str]:
    """The table's rows that did not pass."""
    rows = output.splitlines()[1:-1]
    return [row for row in rows if row.endswith(("FAIL", "CANNOT JUDGE"))]


def test_good_evidence_passes(check: Check, evidence: Path) -> None:
    code, output = check(evidence / "accuracy.log", evidence / "benchmark.log")
    assert code == 0, output
    assert output.splitlines()[-1] == "OVERALL: PASS"
    assert "says nothing about an NPU" in output.splitlines()[-2]


def test_the_table_fits_a_terminal(check: Check, evidence: Path) -> None:
    _, output = check(evidence / "accuracy.log", evidence / "benchmark.log")
    assert max(map(len, output.splitlines())) <= 100


def against_float32(records: Records, name: str = "float32") -> None:
    """As if the CPU's float32 had been compared with itself."""
    find(records, "model")["references"] = [name]
    for record in records:
        if record["event"] in ("sample", "accuracy"):
            record["reference"] = name


# ------------------------------------------------------------------------------- edits that were signed again
def another_direction(records: Records) -> None:
    """An embedding at a right angle to the reference can't be near it."""
    find(records, "sample", output="embedding").update(one_minus_cosine=1.0, cosine_similarity=0.0)


def in_top5(edit: Callable[[Records, Records], object]) -> Edit:
    """An edit of the five largest elements of one image's embedding: the reference's and the device's."""

    def of_sample(records: Records) -> None:
        sample = find(records, "sample", output="embedding")
        edit(sample["reference_top5"], sample["device_top5"])

    return of_sample


def swapped(entries: Records, *keys: str) -> None:
    """The first two entries exchange these."""
    for key in keys:
        entries[0][key], entries[1][key] = entries[1][key], entries[0][key]


def without_top5(records: Records) -> None:
    """As logs were before they had it."""
    for record in records:
        record.pop("reference_top5", None)
        record.pop("device_top5", None)


def moved_to_tokens(records: Records) -> None:
    sample, tokens = (find(records, "sample", output=output) for output in ("embedding", "hidden_state"))
    tokens |= {key: sample[key] for key in ("reference_top5", "device_top5")}


TOP5_EDITS = {
    "a value": in_top5(lambda r, y: r[0].update(value=r[0]["value"] + 1.0)),
    "a value of the device": in_top5(lambda r, y: y[4].update(value=y[4]["value"] - 1e-3)),
    "no value": in_top5(lambda r, y: y[4].update(value=None)),
    "another element": in_top5(lambda r, y: y[4].update(index=next(at for at in range(10) if at not in index_of(y)))),
    "no element of it": in_top5(lambda r, y: y[4].update(index=10)),
    "one twice": in_top5(lambda r, y: y[4].update(index=y[3]["index"])),
    "the first two, out of order": in_top5(lambda r, y: swapped(y, "index", "value")),
    "the first two's places": in_top5(lambda r, y: swapped(y, "index")),
    "four of them": in_top5(lambda r, y: y.pop()),
    "a class of two names": in_top5(lambda r, y: y[0].update(label="another")),
    "not for every image": lambda records: without_top5([find(records, "sample", output="embedding")]),
    "of tokens": moved_to_tokens,
}


def index_of(entries: Records) -> list[int]:
    return [entry["index"] for entry in entries]


def faster(parts: Records) -> Records:
    """The parts of a kind, as if a window had held twice the calls."""
    return [{**part, "calls": 2 * part["calls"]} for part in parts]


METRIC_EDITS = [
    (change("accuracy", "relative_error", 1e-9, output="embedding"), "worst of samples"),
    (change("accuracy", "relative_error", None, output="embedding"), "worst of samples"),
    (change("accuracy", "cosine_similarity", 1.000058, output="embedding"), "worst of samples"),
    (change("accuracy", "result", "FAIL", output="hidden_state"), "result in the log"),
    (against_float32, "reference"),
    (change("accuracy", "samples", 3, output="embedding"), "samples"),
    (change("sample", "relative_l2", None, output="embedding"), "relative_l2"),
    (change("sample", "relative_l2", 0.5, output="embedding"), "formulas"),
    (change("sample", "nmse", -1e-12, output="embedding"), "formulas"),
    (change("sample", "cosine_similarity", 1.000058, output="embedding"), "formulas"),
    (change("sample", "cosine_similarity", 0.99, output="embedding"), "formulas"),
    (change("sample", "sqnr_db", 300.0, output="embedding"), "formulas"),
    (change("sample", "top5_match", 2, output="embedding"), "formulas"),
    (change("sample", "max_abs_error", 0.0, output="embedding"), "formulas"),
    (change("sample", "relative_error", 0.0, output="embedding"), "formulas"),
    (another_direction, "formulas"),
    (change("sample", "nonfinite", 1, output="hidden_state"), "NaN or infinite"),
    (change("accuracy", "nonfinite", 1, output="hidden_state"), "NaN or infinite"),
    (change("sample", "worst_token_relative_l2", None, output="hidden_state"), "worst token"),
    (change("sample", "image_sha256", "0" * 64, output="hidden_state"), "images of the outputs"),
    (change("sample", "device", "npu:0", output="hidden_state"), "computed on"),
    (change("sample", "dtype", "float16", output="hidden_state"), "computed on"),
    (drop("sample", output="embedding", image="grace_hopper.jpg crop 1"), "samples"),
    (change("accuracy", "nmse", 0.0, output="embedding"), "worst of samples"),
    (change("accuracy", "one_minus_cosine", 0.0, output="hidden_state"), "worst of samples"),
    (change("sample", "one_minus_cosine", 0.0, output="embedding"), "formulas"),
    (change("sample", "shape", [1, 9], output="embedding"), "shape"),
    (change("sample", "shape", [2, 101, 64], output="hidden_state"), "shape"),
    (change("sample", "shape", [], output="embedding"), "shape"),
    (change("sample", "relative_l2", 1e200, output="embedding"), "formulas"),  # whose square overflows
    (change("sample", "worst_token", 101, output="hidden_state"), "worst token"),
    (change("sample", "worst_token", -1, output="hidden_state"), "worst token"),
    (change("sample", "worst_token_relative_l2", 0.0, output="hidden_state"), "worst token"),
    (change("repeat", "relative_l2", 2e-5, way="batch", output="embedding"), "repeat batch"),
    (change("repeat", "relative_l2", -1e-9, way="alone", output="embedding"), "repeat alone"),
    (change("repeat", "relative_l2", None, way="alone", output="hidden_state"), "repeat alone"),
    (change("repeat", "relative_l2", 1e-7, way="alone", equal=True), "repeat alone"),
]
PERF_EDITS = [
    (change("perf", "avg_latency_ms", 0.001, batch_size=1), "summary"),
    (change("perf", "min_latency_ms", 0.001, batch_size=1), "summary"),
    (change("perf", "p50_latency_ms", None, batch_size=1), "summary"),
    (change("perf", "p95_latency_ms", 1.0, batch_size=1), "summary"),
    (change("perf", "throughput_ips", 1e6, batch_size=2), "summary"),
    (change("perf", "n", 1000, batch_size=2), "summary"),
    (change("perf", "status", "oom", batch_size=2), "status"),
    (change("perf", "status", "error", batch_size=1), "status"),
    (change("perf", "output_relative_l2", None, batch_size=2), "output_relative_l2"),
    (change("perf", "output_relative_l2", 0.02, batch_size=2), "output_relative_l2"),
    (change("perf", "output_relative_l2", -1, batch_size=2), "output_relative_l2"),
    (change("perf", "nonfinite", 5, batch_size=2), "output_relative_l2"),
    (change("perf", "device", "npu:0", batch_size=1), "computed on"),
    (change("perf", "fingerprint", [0.0] * 64, batch_size=1), "same embedding"),
    (change("perf", "dtype", "float16", batch_size=1), "computed on"),
    (change("perf", "fingerprint", lambda old: [value * 1.02 for value in old], batch_size=2), "same embedding"),
    (change("perf", "fingerprint", lambda old: old[:3], batch_size=2), "same embedding"),
    (change("latencies", "samples_ms", [0.001] * 5, **{"batch_size": 1, "pass": "latency"}), "summary"),
    (change("latencies", "calls", lambda old: old + 1, **{"batch_size": 1, "pass": "throughput"}), "summary"),
    (change("latencies", "samples_ms", [0.001] * 5, **{"batch_size": 1, "pass": "end_to_end"}), "summary"),
    (change("perf", "end_to_end_ips", 1e6, batch_size=2), "summary"),
    (change("perf", "iqr_latency_ms", 0.0, batch_size=2), "summary"),
    (change("perf", "achieved_tflops", 1e3, batch_size=2), "summary"),
    (change("perf", "limit_tflops", 1e3, batch_size=2), "summary"),
    (change("perf", "percent_of_limit", None, batch_size=2), "summary"),
    (change("limit", "gemm_tflops", 1e3), "limit"),
    (change("limit", "spread", 0.123), "limit"),
    (change("limit", "dtype", "float16"), "limit"),
    (change("model", "gflop_per_image", 1e-9), "limit"),
    (change("model", "gflop_by_operator", {"matmul": 1e-9}), "limit"),
    (change("model", "gflop_by_operator", lambda old: {**old, "matmul": -old["matmul"]}), "limit"),
    (change("kind", "ms", 0.001, name="mlp"), "ms of mlp contradicts"),
    (change("kind", "share", 0.9, name="norm"), "share of norm contradicts"),
    (change("kind", "count", 100, name="attention"), "count of attention contradicts"),
    (change("kind", "remainder", 0.0, name="forward"), "remainder of forward contradicts"),
    (change("kind", "remainder", 0.0, name="mlp"), "remainder of mlp contradicts"),
    (change("kind", "percent_of_limit", 0.999, name="mlp"), "percent_of_limit of mlp contradicts"),
    (change("kind", "percent_of_limit", 0.5, name="norm"), "percent_of_limit of norm contradicts"),
    (change("kind", "gflop", 1e-9, name="forward"), "batch 1 kinds"),
    (change("kind", "gflop", 1e3, name="mlp"), "batch 1 kinds"),
    (change("kind", "gflop", -1e-3, name="mlp"), "batch 1 kinds"),
    (change("kind", "parts", faster, name="forward"), "ms of forward contradicts"),
    (change("kind", "parts", faster, name="activation"), "remainder of forward contradicts"),
    (drop("kind", name="activation"), "remainder of forward contradicts"),
]  # fmt: skip


def insert(event: str, **fields: Any) -> Edit:
    """An edit that adds a record in the middle."""
    return lambda records: records.insert(3, {"run": records[0]["run"], "seq": 0, "event": event, **fields})


def without(event: str, *keys: str, **fields: Any) -> Edit:
    """An edit that takes fields away from one record."""

    def edit(records: Records) -> None:
        record = find(records, event, **fields)
        for key in keys:
            del record[key]

    return edit


def again(event: str, changes: dict[str, Any], **fields: Any) -> Edit:
    """An edit that adds a copy of one record, changed."""
    return lambda records: records.insert(-1, {**find(records, event, **fields), **changes})


def both(*edits: Edit) -> Edit:
    def edit_all(records: Records) -> None:
        for edit in edits:
            edit(records)

    return edit_all


def only_status(records: Records) -> None:
    row = find(records, "perf", batch_size=2)
    for key in row.keys() - {"run", "seq", "event", "batch_size", "status"}:
        del row[key]


def of_ranks(count: int, shares: object) -> Edit:
    """An edit that adds what ranks did, without what they reached together."""
    row = {"batch_size": 1, "status": "ok", "shares": shares}
    return both(change("run_start", "ranks", count), insert("ranks", **row))


def of_one_batch(key: str, value: Any) -> Edit:
    return change("latencies", key, value, **{"batch_size": 1, "pass": "latency"})


def drop_all(records: Records, name: str) -> None:
    records[:] = [record for record in records if record["event"] != "kind" or record["name"] != name]


def in_no_time(parts: Records) -> Records:
    return [{**part, "samples_ms": [0.0]} for part in parts]


def of_sample(key: str, value: Any) -> Edit:
    return change("sample", key, value, output="hidden_state")


# Signed again: what no run writes, or nothing follows from; with the field or the words that say so.
UNJUDGEABLE_EDITS = {
    "a second run_start": ("accuracy.log", insert("run_start", script="accuracy_run.py"), "run_start: format"),
    "a run_end in the middle": (
        "accuracy.log", lambda records: records.insert(3, dict(records[-1], status="error")), "in the middle of it"),
    "a format that is true": ("accuracy.log", change("run_start", "format", True), "format True"),
    "samples in a perf run": ("benchmark.log", insert("sample", output="embedding"), "writes no 'sample' record"),
    "latencies in an accuracy run": ("accuracy.log", insert("latencies", batch_size=1), "writes no 'latencies' record"),
    "accuracy in an inference run": (
        "accuracy.log", change("run_start", "script", "inference.py"), "inference.py writes no 'sample' record"),
    "an event that nobody knows": ("accuracy.log", insert("bogus"), "writes no 'bogus' record"),
    "a field that nobody knows": ("accuracy.log", change("env", "temperature_c", 40), "'temperature_c'"),
    "references that are not named": ("accuracy.log", change("model", "references", None), "None"),
    "references that are not known": ("accuracy.log", lambda records: against_float32(records, "int8"), "reference is"),
    "keys left out by one run alone": ("accuracy.log", change("model", "left_out_keys", 5), "left_out_keys differs"),
    "an environment without a key": (
        "accuracy.log", lambda records: find(records, "env").pop("task_queue_enable"), "task_queue_enable is missing"),
    "0 for false": ("accuracy.log", change("env", "simulated", 0), "simulated is 0"),
    "null for false": ("accuracy.log", change("env", "simulated", None), "simulated is None"),
    "null for a number of bits": (
        "accuracy.log", change("numerics", "attention_mantissa_bits", None), "attention_mantissa_bits is None"),
    "null for a stability": ("benchmark.log", change("perf", "stable", None, batch_size=2), "stable is None"),
    "a GELU of any length": ("accuracy.log", change("numerics", "gelu", "x" * 100_000), "gelu is 'xxx"),
    "half a size": ("accuracy.log", change("sample", "shape", [1.5, 10], output="embedding"), "shape is 1.5"),
    "a size that is no whole number": (
        "accuracy.log", change("sample", "shape", [1, 10.0], output="embedding"), "shape is 10.0"),
    "half a token": ("accuracy.log", of_sample("worst_token", 1.5), "worst_token is 1.5"),
    "a token that is no whole number": ("accuracy.log", of_sample("worst_token", 5.0), "worst_token is 5.0"),
    "a token of minus nothing": ("accuracy.log", of_sample("worst_token", -0.0), "worst_token is -0.0"),
    "a worst token without its error": (
        "accuracy.log", lambda records: find(records, "sample", output="hidden_state").pop("worst_token_relative_l2"),
        "worst_token_relative_l2 is missing"),
    "no worst token": ("accuracy.log", without("sample", "worst_token", "worst_token_relative_l2",
                                               output="hidden_state"), "without its worst token"),
    "no fingerprint": ("accuracy.log", without("sample", "fingerprint", output="embedding"), "without a fingerprint"),
    "fingerprints of two lengths": (
        "accuracy.log", lambda records: find(records, "sample")["fingerprint"].pop(), "different lengths"),
    "two fingerprints of one image": ("accuracy.log", again("sample", {"fingerprint": [1.0]}, output="embedding"),
        "two fingerprints"),
    "a way of repeating left out": (
        "accuracy.log", drop("repeat", way="batch", output="embedding"), "not one of each way and output"),
    "a repeat twice": ("accuracy.log", again("repeat", {}, way="alone"), "not one of each way and output"),
    "a repeat of another image": (
        "accuracy.log", change("repeat", "image_sha256", "0" * 64, way="alone"), "not of the first image"),
    "a batch of one": ("accuracy.log", change("repeat", "batch_size", 1, way="batch"), "not in its batch"),
    "several images alone": ("accuracy.log", change("repeat", "batch_size", 2, way="alone"), "not in its batch"),
    "the same place": ("accuracy.log", change("repeat", "place", 0, way="batch"), "not in its batch"),
    "a place outside of the batch": ("accuracy.log", change("repeat", "place", 2, way="batch"), "not in its batch"),
    "a batch size that is true": ("benchmark.log", of_one_batch("batch_size", True), "batch_size is True"),
    "a batch size that nobody asked for": ("benchmark.log", of_one_batch("batch_size", 7), "batch sizes"),
    "a batch size twice": (
        "benchmark.log", both(change("run_start", "batch_sizes", [1, 2, 2]), again("perf", {}, batch_size=2)),
        "batch sizes"),
    "a pass that nobody knows": ("benchmark.log", of_one_batch("pass", "warmup"), "pass is 'warmup'"),
    "a batch size that is no whole number": (
        "benchmark.log", change("run_start", "batch_sizes", [1.0, 2]), "batch_sizes is 1.0"),
    "half a batch": ("benchmark.log", change("run_start", "batch_sizes", [1.5, 2]), "batch_sizes is 1.5"),
    "less than a batch": (
        "benchmark.log", both(change("run_start", "batch_sizes", [-1, 1, 2]),
                              again("perf", {"batch_size": -1}, batch_size=1)), "batch sizes"),
    "no batch sizes at all": ("benchmark.log", without("run_start", "batch_sizes", "ranks"), "no batch_sizes"),
    "a batch size without its figures": ("benchmark.log", only_status, "ok, without figures"),
    "more calls than can be counted": ("benchmark.log", of_one_batch("calls", 1e300), "calls is 1e+300"),
    "no calls": ("benchmark.log", of_one_batch("calls", 0), "calls below 1"),
    "times whose sum overflows": ("benchmark.log", of_one_batch("samples_ms", [1e308] * 5), "figures out of range"),
    "an operator that is not counted": (
        "benchmark.log", change("model", "gflop_by_operator", {"magic": 1.0}), "an operator that is not counted"),
    "no operators": ("benchmark.log", change("model", "gflop_by_operator", {}), "no gflop_per_image"),
    "a kind twice": ("benchmark.log", again("kind", {}, name="mlp"), "one twice, or no whole forward"),
    "kinds without the whole": (
        "benchmark.log", lambda records: drop_all(records, "forward"), "one twice, or no whole forward"),
    "a kind that nobody knows": ("benchmark.log", change("kind", "name", "magic", name="mlp"), "'magic' is no kind"),
    "a kind of a batch size that nobody timed": (
        "benchmark.log", again("kind", {"batch_size": 7}, name="mlp"), "a batch size that was not timed"),
    "a kind without parts": ("benchmark.log", change("kind", "parts", [], name="mlp"), "no parts"),
    "a whole of several parts": (
        "benchmark.log", change("kind", "parts", lambda old: old * 2, name="forward"), "is not one part"),
    "a kind that took no time": (
        "benchmark.log", change("kind", "parts", in_no_time, name="mlp"), "kind record: no samples_ms, or some not"),
    "shares that are no list": ("benchmark.log", of_ranks(2, 3), "shares is 3"),
    "ranks without a total": ("benchmark.log", of_ranks(0, []), "ok, without a total"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "edit", "named"), UNJUDGEABLE_EDITS.values(), ids=UNJUDGEABLE_EDITS)
def test_a_signed_edit_that_no_run_writes_cannot_be_judged(
    name: str, edit: Edit, named: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    logs = {log: evidence / log for log in ("accuracy.log", "benchmark.log")}
    records = read_records(logs[name])
    edit(records)
    write_records(tmp_path / name, signed_around(records))
    code, output = check(*{**logs, name: tmp_path / name}.values())
    assert code == 2, output
    assert any(named in row for row in failing(output)), output
    assert max(map(len, output.splitlines())) < 500


def signed_around(records: Records) -> Records:
    """As `sign`, but a run_end in the middle stays."""
    body = [dict(record, seq=seq) for seq, record in enumerate(records[:-1])]
    digest = hashlib.sha256("".join(f"{text_of(record)}\n" for record in body).encode()).hexdigest()
    return [*body, {**records[-1], "seq": len(body), "records": len(body), "records_sha256": digest}]


def test_an_infinite_embedding_is_none(check: Check, evidence: Path, tmp_path: Path) -> None:
    """Infinity is not beyond a share of infinity."""
    edit = change("sample", "fingerprint", lambda old: [1e308] * len(old), output="embedding")
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", edit)
    assert check(log, evidence / "benchmark.log")[0] == 1


def test_a_run_end_that_holds_more_cannot_be_judged(check: Check, evidence: Path, tmp_path: Path) -> None:
    """No hash covers it."""
    edit = change("run_end", "status", "complete")
    records = read_records(edited(evidence / "accuracy.log", tmp_path / "accuracy.log", edit))
    records[-1]["relative_l2"] = 0.0
    write_records(tmp_path / "accuracy.log", records)
    assert check(tmp_path / "accuracy.log", evidence / "benchmark.log")[0] == 2


def test_a_text_of_any_length_is_one_short_line(check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", change("sample", "device", "x" * 100_000))
    code, output = check(log, evidence / "benchmark.log")
    assert code == 1
    assert max(map(len, output.splitlines())) < 1000


@pytest.mark.parametrize(("edit", "named"), METRIC_EDITS)
def test_a_signed_edit_of_the_accuracy_log_fails(
    edit: Edit, named: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", edit)
    code, output = check(log, evidence / "benchmark.log")
    assert code == 1, output
    assert any(named in row for row in failing(output)), output


@pytest.mark.parametrize("name", TOP5_EDITS)
def test_the_largest_outputs_are_held_to_the_metrics(name: str, check: Check, evidence: Path, tmp_path: Path) -> None:
    edited(evidence / "accuracy.log", tmp_path / "a.log", TOP5_EDITS[name])
    code, output = check(tmp_path / "a.log", evidence / "benchmark.log")
    assert code == 1
    assert "formulas" in " ".join(failing(output))


def test_a_log_without_the_largest_outputs_stays_judgeable(check: Check, evidence: Path, tmp_path: Path) -> None:
    edited(evidence / "accuracy.log", tmp_path / "a.log", without_top5)
    assert check(tmp_path / "a.log", evidence / "benchmark.log")[0] == 0


@pytest.mark.parametrize(("edit", "named"), PERF_EDITS)
def test_a_signed_edit_of_the_perf_log_fails(
    edit: Edit, named: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    """Beside a steady limit: beyond another one it can't judge, which is no PASS either."""
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", both(steady, edit))
    code, output = check(evidence / "accuracy.log", log)
    assert code == 1, output
    assert any(named in row for row in failing(output)), output


def over_the_threshold(records: Records) -> None:
    """A consistent log of an honest failure: every figure follows from an error of 2 %."""
    error = 0.02
    fields = {
        "relative_error": error,
        "relative_l2": error,
        "nmse": error**2,
        "sqnr_db": -10 * math.log10(error**2),
        "one_minus_cosine": error**2 / 2,
        "cosine_similarity": 1 - error**2 / 2,
    }
    for record in records:
        if record["event"] in ("sample", "accuracy") and record["output"] == "embedding":
            record.update(fields)
    find(records, "accuracy", output="embedding")["result"] = "FAIL"


def test_an_error_over_the_threshold_fails_and_another_threshold_passes_it(
    check: Check, evidence: Path, tmp_path: Path
) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", over_the_threshold)
    code, output = check(log, evidence / "benchmark.log")
    assert code == 1
    assert [row.split()[:2] for row in failing(output)] == [
        ["embedding", "relative_error"],
        ["embedding", "relative_l2"],
    ]
    assert check(log, evidence / "benchmark.log", "--threshold", "3")[0] == 0


@pytest.mark.parametrize(("classifier", "code"), [(True, 1), (False, 0)])
def test_a_first_class_that_changed_fails_a_classifier(
    classifier: bool, code: int, check: Check, evidence: Path, tmp_path: Path
) -> None:
    def another_class(records: Records) -> None:
        find(records, "model")["classifier"] = classifier
        without_top5(records)
        for record in records:
            if record["event"] in ("sample", "accuracy") and record["output"] == "embedding":
                record["top1_gap"] = 0.3
            if record["event"] == "accuracy" and record["output"] == "embedding" and classifier:
                record["result"] = "FAIL"

    logs = [edited(evidence / name, tmp_path / name, another_class) for name in ("accuracy.log",)]
    same = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", change("model", "classifier", classifier))
    result, output = check(*logs, same)
    assert result == code, output
    assert any("top1_gap" in row for row in failing(output)) == (code == 1)


@pytest.mark.parametrize(("expected", "code"), [(0.015, 0), (0.005, 1), (None, 1), (9.0, 0)])
def test_bfloat16_is_held_to_twice_its_expected_error(
    expected: float | None, code: int, check: Check, evidence: Path, tmp_path: Path
) -> None:
    def bfloat16(records: Records) -> None:
        find(records, "model")["dtype"] = "bfloat16"
        find(records, "numerics").update(conv_mantissa_bits=7, matmul_mantissa_bits=7, attention_mantissa_bits=7)
        for record in records:
            if record["event"] in ("sample", "perf", "limit"):
                record["dtype"] = "bfloat16"

    def off_by_two_percent(records: Records) -> None:
        bfloat16(records)
        over_the_threshold(records)
        for record in records:
            if record["event"] == "accuracy":
                record.update(expected_relative_l2=expected, threshold=0.1, result="PASS")

    accuracy = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", off_by_two_percent)
    perf = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", bfloat16)
    result, output = check(accuracy, perf)
    assert result == code, output


def test_the_checkers_threshold_counts_and_not_the_logs(check: Check, evidence: Path, tmp_path: Path) -> None:
    def lenient(records: Records) -> None:
        over_the_threshold(records)
        find(records, "accuracy", output="embedding").update(threshold=0.5, result="PASS")

    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", lenient)
    assert check(log, evidence / "benchmark.log")[0] == 1


# ------------------------------------------------------------------------------------------------------- numerics
PROBE_EDITS = [
    (change("numerics", "conv_mantissa_bits", 11), "conv_mantissa_bits is 11"),
    (change("numerics", "matmul_mantissa_bits", 10), "matmul_mantissa_bits is 10"),
    (change("numerics", "attention_mantissa_bits", 0), "attention_mantissa_bits is 0"),
    (change("numerics", "gelu", "tanh"), "gelu is tanh"),
    (change("numerics", "reference", lambda old: {**old, "matmul_mantissa_bits": 7}), "probe of the CPU"),
]


@pytest.mark.parametrize(("edit", "named"), PROBE_EDITS)
@pytest.mark.parametrize("name", ["accuracy.log", "benchmark.log"])
def test_strict_evidence_shows_a_probe_that_agrees(
    edit: Edit, named: str, name: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    logs = {log: evidence / log for log in ("accuracy.log", "benchmark.log")}
    logs[name] = edited(evidence / name, tmp_path / name, edit)
    code, output = check(*logs.values())
    assert code == 1, output
    assert any(named in row for row in failing(output)), output


def test_a_probe_counts_only_over_operators_of_the_model(check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", change("numerics", "gelu_tanh", "other"))
    assert check(log, evidence / "benchmark.log")[0] == 0


def test_fast_evidence_passes_with_a_word(check: Check, evidence: Path, tmp_path: Path) -> None:
    def fast(records: Records) -> None:
        find(records, "model")["numerics"] = "fast"
        find(records, "numerics").update(conv_mantissa_bits=11, gelu="tanh")

    logs = [edited(evidence / name, tmp_path / name, fast) for name in ("accuracy.log", "benchmark.log")]
    code, output = check(*logs)
    assert code == 0, output
    assert "fast numerics: the device's defaults" in output
    assert check(evidence / "accuracy.log", logs[1])[0] == 2


def test_a_fallback_is_a_warning_in_the_verdict(check: Check, evidence: Path, tmp_path: Path) -> None:
    def fall_back(records: Records) -> None:
        records.insert(-1, {"run": records[0]["run"], "seq": 0, "event": "fallback", "operators": ["aten::foo"]})

    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", fall_back)
    code, output = check(log, evidence / "benchmark.log")
    assert code == 0
    assert "warning: operators ran on the CPU: ['aten::foo']" in output


def without_machine(records: Records) -> None:
    records[:] = [record for record in records if record["event"] != "machine"]


def calm(records: Records) -> None:
    """Nothing else on the machine, which the tests' own may not be."""
    for record in records:
        if record["event"] == "machine":
            record.update(load_average=1.0, own_load=1.0)


@pytest.mark.parametrize(
    ("edit", "warning"),
    [
        (change("machine", "load_average", 1e6, phase="end"), "load 1000000.0 on"),
        (change("machine", "load_average", 1e6, phase="start"), "at the run's start"),
        (
            change("machine", "foreign_memory_mb", 4096.5, phase="start"),
            "4096 MiB of the device's memory held no tensors of this run at its start",
        ),
        (change("machine", "governor", "powersave"), "the CPU's governor is powersave"),
        (lambda records: None, None),
        (without_machine, None),
    ],
)
def test_a_machine_that_spoils_figures_is_a_warning_in_the_verdict(
    edit: Edit, warning: str | None, check: Check, evidence: Path, tmp_path: Path
) -> None:
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", both(calm, edit))
    code, output = check(evidence / "accuracy.log", log)
    assert code == 0, output
    words = ("other processes", "device's memory", "governor")
    said = [line for line in output.splitlines() if line.startswith("warning: ") and any(w in line for w in words)]
    assert len(said) == (warning is not None)
    assert warning is None or warning in said[0]


@pytest.mark.parametrize(
    "edit",
    [
        drop("machine", phase="start"),
        drop("machine", phase="end"),
        change("machine", "phase", "end", phase="start"),
        again("machine", {}, phase="end"),
        lambda records: [find(records, "machine", phase="start").pop(key) for key in MACHINE_SETTINGS] and None,
        change("machine", "load_average", -0.1, phase="end"),
        change("machine", "foreign_memory_mb", -1, phase="start"),
    ],
)
def test_a_machine_that_is_recorded_as_no_run_does_cannot_be_judged(
    edit: Edit, check: Check, evidence: Path, tmp_path: Path
) -> None:
    code, output = check(
        evidence / "accuracy.log", edited(evidence / "benchmark.log", tmp_path / "benchmark.log", edit)
    )
    assert code == 2
    assert [row.split()[0] for row in failing(output)] == ["machine"]


# ------------------------------------------------------------------- evidence that is incomplete or of two things
OTHER_THINGS = [
    change("model", "weights_sha256", "0" * 64),
    change("model", "weights_sha256", None),
    change("model", "dtype", "float16"),
    change("model", "dtype", "int8"),
    change("model", "preprocess", {"source": "other"}),
    change("model", "missing_keys", "none"),
    change("model", "weights_source", "random"),
    change("model", "numerics", "fast"),
    change("model", "numerics", None),
    change("model", "operators", None),
    change("model", "operators", ["teleport"]),
    change("model", "operators", []),
    change("run_start", "script", ["x"]),
    change("perf", "n", 10**30, batch_size=1),
    *(change("env", key, "other") for key in ("npu_driver", "cpu_model", "visible_devices", "task_queue_enable")),
    change("numerics", "reference", None),
    drop("numerics"),
    change("env", "device_name", "another machine"),
    change("env", "torch", "1.0"),
    change("env", "timm", None),
    change("env", "device", "npu:0"),
    change("run_start", "code_sha256", "0" * 64),
    change("run_start", "format", 99),
    change("run_start", "script", "other.py"),
    drop("env"),
    drop("model"),
]
PERF_GAPS = [
    drop("perf", batch_size=2),
    drop("perf", batch_size=1),
    drop("latencies", batch_size=2),
    change("run_start", "batch_sizes", [1, 2, 16]),
    change("run_start", "batch_sizes", [2]),
    change("run_start", "batch_sizes", []),
    change("perf", "batch_size", 4, batch_size=2),
    change("perf", "avg_latency_ms", "fast", batch_size=1),
    change("perf", "avg_latency_ms", True, batch_size=1),
    change("perf", "image_sha256", "0" * 64, batch_size=1),
    change("latencies", "samples_ms", [], **{"batch_size": 1, "pass": "latency"}),
    change("latencies", "samples_ms", [-1.0] * 5, **{"batch_size": 1, "pass": "latency"}),
    change("latencies", "samples_ms", None, **{"batch_size": 1, "pass": "latency"}),
]


@pytest.mark.parametrize("edit", [*OTHER_THINGS, *PERF_GAPS])
def test_evidence_with_a_gap_or_of_another_thing_cannot_be_judged(
    edit: Edit, check: Check, evidence: Path, tmp_path: Path
) -> None:
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", edit)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 2, output
    assert output.splitlines()[-1] == "OVERALL: CANNOT JUDGE"


def test_weights_on_another_device_than_the_outputs_fail(check: Check, evidence: Path, tmp_path: Path) -> None:
    edit = change("env", "parameters_device", "npu:0")
    logs = [edited(evidence / name, tmp_path / name, edit) for name in ("accuracy.log", "benchmark.log")]
    assert check(*logs)[0] == 1


def test_missing_weights_fail(check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", change("model", "missing_keys", 2))
    assert check(log, evidence / "benchmark.log")[0] == 1


def test_another_models_perf_log_cannot_be_judged(check: Check, evidence: Path, tmp_path: Path, tiny_vit: Path) -> None:
    import accuracy_run_perf

    other = ["--model", str(tiny_vit), "--device", "cpu", "--log-dir", str(tmp_path)]
    assert accuracy_run_perf.main([*other, *PERF_QUICK]) == 0
    code, output = check(evidence / "accuracy.log", tmp_path / "benchmark.log")
    assert code == 2
    assert any("perf run" in row for row in failing(output))


# ------------------------------------------------------------------------------------- edits that were not signed
@pytest.mark.parametrize(
    "edit",
    [
        change("sample", "relative_error", lambda old: old * 1.0001),
        drop("sample"),
        drop("run_end"),
        drop("run_start"),
        lambda records: records.reverse(),
        lambda records: records.insert(3, dict(records[3])),
        change("run_end", "status", "error"),
        change("run_end", "records", 5),
        change("run_end", "records_sha256", "0" * 64),
    ],
)
def test_an_edit_is_noticed(edit: Edit, check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", edit, signed=False)
    code, output = check(log, evidence / "benchmark.log")
    assert code == 2, output


def test_one_changed_digit_in_the_text_is_noticed(check: Check, evidence: Path, tmp_path: Path) -> None:
    text = (evidence / "benchmark.log").read_text()
    start = re.search(r'"avg.{6}latency.{6}ms":', text).end()
    digit = "1" if text[start] != "1" else "2"
    (tmp_path / "benchmark.log").write_text(text[:start] + digit + text[start + 1 :])
    assert check(evidence / "accuracy.log", tmp_path / "benchmark.log")[0] == 2


def test_every_truncation_of_a_log_cannot_be_judged(check: Check, evidence: Path, tmp_path: Path) -> None:
    content = (evidence / "accuracy.log").read_bytes()
    for end in range(0, len(content) - 1, len(content) // 40):
        (tmp_path / "accuracy.log").write_bytes(content[:end])
        assert check(tmp_path / "accuracy.log", evidence / "benchmark.log")[0] == 2, end


# ----------------------------------------------------------------------------------------- the same meaning otherwise
def rewritten(name: str, text: str) -> bytes:
    lines = text.splitlines()
    return {
        "crlf": "\r\n".join(lines).encode(),
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "utf-16": text.encode("utf-16"),
        "progress bar": "\n".join(f"100%|####| 8/8 [00:01<00:00]\r{line}" for line in lines).encode(),
        "noise": b"\xff\x80noise\n".join(line.encode() + b"\n" for line in lines),
        "progress bar behind": "\n".join(f"{line}\r100%|####| 8/8 [00:01<00:00]" for line in lines).encode(),
        "gzip": gzip.compress(text.encode()),
        "no last newline": text.rstrip().encode(),
    }[name]


@pytest.mark.parametrize(
    "name", ["crlf", "bom", "utf-16", "progress bar", "progress bar behind", "noise", "no last newline", "gzip"]
)
def test_the_same_records_in_another_dress_pass(name: str, check: Check, evidence: Path, tmp_path: Path) -> None:
    logs = []
    for log in ("accuracy.log", "benchmark.log"):
        (tmp_path / log).write_bytes(rewritten(name, (evidence / log).read_text()))
        logs.append(tmp_path / log)
    code, output = check(*logs)
    assert code == 0, output


def test_runs_in_one_file_are_judged_together_and_the_worst_counts(
    check: Check, evidence: Path, tmp_path: Path
) -> None:
    good = [read_records(evidence / name) for name in ("accuracy.log", "benchmark.log")]
    log = tmp_path / "log.txt"
    write_records(log, [record for run in good for record in run])
    assert check(log)[0] == 0

    edited(evidence / "accuracy.log", tmp_path / "bad.log", over_the_threshold)
    bad = [{**record, "run": "0" * 16} for record in read_records(tmp_path / "bad.log")]
    for order in ([good[0], sign(bad), good[1]], [sign(bad), *good]):
        write_records(log, [record for run in order for record in run])
        assert check(log)[0] == 1


def test_two_groups_are_told_apart(check: Check, evidence: Path, tmp_path: Path) -> None:
    """Evidence of a second model passes beside the first only when it is complete too."""
    logs = [evidence / "accuracy.log", evidence / "benchmark.log"]
    other = []
    for log in logs:
        records = read_records(log)
        find(records, "model")["weights_sha256"] = "1" * 64
        write_records(tmp_path / log.name, sign([{**record, "run": f"x{record['run'][1:]}"} for record in records]))
        other.append(tmp_path / log.name)
    assert check(*logs, *other)[0] == 0
    assert check(*logs, other[0])[0] == 2


# ------------------------------------------------------------------------------------------------ gates and devices
def as_device(source: Path, target: Path, **env: object) -> Path:
    """The log as if it had been made on another device."""

    def edit(records: Records) -> None:
        record = find(records, "env")
        record.update(env, parameters_device=env["device"])
        for other in records:
            if other["event"] in ("sample", "perf"):
                other["device"] = env["device"]

    return edited(source, target, edit)


NPU = {
    "device": "npu:0",
    "device_name": "Ascend910B2",
    "simulated": False,
    "torch_npu": "2.9.0",
    "cann": "8.5.1",
}


def on_npu(evidence: Path, folder: Path, **changes: object) -> list[Path]:
    folder.mkdir(exist_ok=True)
    names = ("accuracy.log", "benchmark.log")
    return [as_device(evidence / name, folder / name, **{**NPU, **changes}) for name in names]


def test_npu_evidence_passes_where_an_npu_is_required(check: Check, evidence: Path, tmp_path: Path) -> None:
    code, output = check(*on_npu(evidence, tmp_path), "--require-device", "npu")
    assert code == 0, output
    assert "nothing about" not in output


def against_both(evidence: Path, folder: Path, edit: Edit) -> list[Path]:
    """NPU evidence against float32 and float64, edited: float64's records twice, once under the other name."""

    def double(records: Records) -> None:
        of_one = [record for record in records if record["event"] in ("sample", "accuracy")]
        at = records.index(of_one[0])
        records[at:at] = [{**record, "reference": "float32"} for record in of_one]
        find(records, "model")["references"] = ["float32", "float64"]
        edit(records)

    accuracy, perf = on_npu(evidence, folder)
    return [edited(accuracy, folder / "both.log", double), perf]


def test_every_reference_is_judged(check: Check, evidence: Path, tmp_path: Path) -> None:
    code, output = check(*against_both(evidence, tmp_path, lambda records: None))
    assert code == 0, output
    for output_name in OUTPUTS:
        for reference in ("float32", "float64"):
            assert f"{reference} {output_name} relative_l2" in output
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize("reference", ["float32", "float64"])
@pytest.mark.parametrize("output_name", OUTPUTS)
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda of: drop("accuracy", **of), 2),
        (lambda of: drop("sample", **of), 1),
        (lambda of: change("accuracy", "relative_l2", 1e-9, **of), 1),
        (lambda of: change("accuracy", "result", "FAIL", **of), 1),
        (lambda of: change("sample", "relative_l2", 0.5, **of), 1),
        (lambda of: change("sample", "nonfinite", 1, **of), 1),
        (lambda of: change("accuracy", "reference", "float16", **of), 2),
        (lambda of: change("sample", "reference", None, **of), 2),
        (lambda of: lambda records: records.insert(5, dict(find(records, "accuracy", **of))), 2),
    ],
)
def test_no_reference_hides_behind_the_other(
    make: Callable[[dict[str, str]], Edit],
    code: int,
    reference: str,
    output_name: str,
    check: Check,
    evidence: Path,
    tmp_path: Path,
) -> None:
    edit = make({"output": output_name, "reference": reference})
    found, output = check(*against_both(evidence, tmp_path, edit))
    assert found == code, output


def without_one_output(records: Records) -> None:
    """The whole comparison of one output with one reference is gone, samples and summary."""
    of = {"output": "hidden_state", "reference": "float32"}
    records[:] = [record for record in records if not of.items() <= record.items()]


def without_accuracy(records: Records) -> None:
    records[:] = [record for record in records if record["event"] not in ("sample", "accuracy")]


def without_one_reference(records: Records) -> None:
    """What a run that was cut leaves, signed by somebody: the first of two references, whole."""
    records[:] = [record for record in records if record.get("reference") != "float64"]


@pytest.mark.parametrize("edit", [without_one_output, without_one_reference, without_accuracy])
def test_both_outputs_are_held_to_every_reference(edit: Edit, check: Check, evidence: Path, tmp_path: Path) -> None:
    found, output = check(*against_both(evidence, tmp_path, edit))
    assert found == 2, output


def test_a_summary_of_no_samples_fails(check: Check, evidence: Path, tmp_path: Path) -> None:
    def without_samples(records: Records) -> None:
        records[:] = [record for record in records if record["event"] != "sample"]
        for record in records:
            if record["event"] == "accuracy":
                record["samples"] = 0

    log = edited(evidence / "accuracy.log", tmp_path / "accuracy.log", without_samples)
    _, output = check(log, evidence / "benchmark.log")
    rows = [row for row in failing(output) if "same embedding" not in row]
    assert [row.split()[:5] for row in rows] == [[output, "samples", "0,", "0", "different"] for output in OUTPUTS]


def test_cpu_evidence_fails_where_an_npu_is_required(check: Check, evidence: Path) -> None:
    code, output = check(evidence / "accuracy.log", evidence / "benchmark.log", "--require-device", "npu")
    assert code == 1
    assert any("device" in row for row in failing(output))


@pytest.mark.parametrize("changes", [{"cann": None}, {"torch_npu": None}, {"device_name": None}])
def test_npu_evidence_names_its_software(
    changes: dict[str, object], check: Check, evidence: Path, tmp_path: Path
) -> None:
    assert check(*on_npu(evidence, tmp_path, **changes))[0] == 2


@pytest.mark.parametrize("key", ["cann", "torch_npu", "device_name"])
def test_npu_evidence_of_two_installations_cannot_be_judged(
    key: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    accuracy, _ = on_npu(evidence, tmp_path / "one")
    _, perf = on_npu(evidence, tmp_path / "two", **{key: "other"})
    assert check(accuracy, perf)[0] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"simulated": True},
        {"device_name": "Ascend910B-SIM"},
        {"torch_npu": "0.0.0+simulated"},
    ],
)
def test_a_simulated_npu_is_named_right_before_the_verdict(
    changes: dict[str, object], check: Check, evidence: Path, tmp_path: Path
) -> None:
    code, output = check(*on_npu(evidence, tmp_path, **changes))
    assert code == 0
    assert "simulated" in output.splitlines()[-2]


def test_random_weights_are_judged_only_on_request(check: Check, evidence: Path, tmp_path: Path) -> None:
    edit = change("model", "weights_source", "random")
    logs = [edited(evidence / name, tmp_path / name, edit) for name in ("accuracy.log", "benchmark.log")]
    code, output = check(*logs)
    assert code == 2
    assert "random weights" in output
    assert check(*logs, "--allow-random-weights")[0] == 0


def test_throughput_and_latency_gates(check: Check, evidence: Path) -> None:
    logs = (evidence / "accuracy.log", evidence / "benchmark.log")
    perf = read_records(logs[1])
    best = max(record["throughput_ips"] for record in perf if record["event"] == "perf")
    latency = find(perf, "perf", batch_size=1)["avg_latency_ms"]
    assert check(*logs, "--min-throughput", best * 0.99, "--max-latency-ms", latency * 1.01)[0] == 0
    assert check(*logs, "--min-throughput", best * 1.01)[0] == 1
    assert check(*logs, "--max-latency-ms", latency * 0.99)[0] == 1


# ------------------------------------------------------------------------------------------------------ the limit
def steady(records: Records) -> None:
    """A consistent log in which every window of a product took as long as its best."""
    with_rounds(records, [1.0] * 5)


def with_rounds(records: Records, times: list[float]) -> None:
    """A consistent log with a window of each product a round, so many times as long as its best."""
    limit = find(records, "limit")
    for shape in limit["shapes"]:
        best = min(shape["samples_ms"])
        shape.update(samples_ms=[best * factor for factor in times], windows_a_round=[1] * len(times))
    found = schema.decode(Limit, {key: limit[key] for key in limit if key not in ("run", "seq", "event")})
    limit.update(gemm_tflops=formulas.gemm_tflops(found.shapes), spread=formulas.spread_of([found]))
    times_faster(1, "latency")(records)


def before_and_after(slower: float) -> Edit:
    """A consistent log as earlier versions wrote it: the limit before the sweep so many times slower than after it."""

    def edit(records: Records) -> None:
        steady(records)
        place = records.index(find(records, "limit"))
        for shape in records[place]["shapes"]:
            del shape["windows_a_round"]
        del records[place]["spread"]
        after = {**records[place], "phase": "after"}
        shapes = [{**s, "samples_ms": [sample * slower for sample in s["samples_ms"]]} for s in after["shapes"]]
        before = {**after, "phase": "before", "shapes": shapes, "gemm_tflops": after["gemm_tflops"] / slower}
        records[place : place + 1] = [before, after]
        times_faster(1, "latency")(records)

    return edit


@pytest.mark.parametrize("name", ["latency", "throughput", "end_to_end"])
@pytest.mark.parametrize("limit", [steady, before_and_after(1.2)], ids=["during", "before and after"])
def test_a_pass_that_is_faster_than_the_device_fails(
    limit: Edit, name: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", both(limit, times_faster(1e6, name)))
    code, output = check(evidence / "accuracy.log", log)
    assert code == 1
    assert len(failing(output)) == 2  # batch sizes
    assert all("fastest_of_limit" in row and "not synchronised" in row for row in failing(output)), output
    honest = edited(evidence / "benchmark.log", tmp_path / "same.log", limit)
    code, output = check(evidence / "accuracy.log", honest)
    assert code == 0
    assert "the limit is unsteady" not in output


def unsteady(records: Records) -> None:
    with_rounds(records, [6.5, 6.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("limit", [unsteady, before_and_after(6.5)], ids=["during", "before and after"])
def test_beyond_an_unsteady_limit_nothing_is_judged(limit: Edit, check: Check, evidence: Path, tmp_path: Path) -> None:
    """The machine may have been busy while the limit was measured; within such a limit all is well."""
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", both(limit, times_faster(1e6, "latency")))
    code, output = check(evidence / "accuracy.log", log)
    assert code == 2
    assert len(failing(output)) == 2
    assert all("limit unsteady" in row and "a quiet machine, more --max-seconds" in row for row in failing(output))
    log = edited(evidence / "benchmark.log", tmp_path / "within.log", limit)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 0, output
    assert ("warning: the limit is unsteady: its rounds lie 84.6% apart." in output) == (limit is unsteady)


@pytest.mark.parametrize(("timed", "code"), [(4, 2), (5, 0)])
def test_a_batch_size_that_was_timed_too_few_times_cannot_be_judged(
    timed: int, code: int, check: Check, evidence: Path, tmp_path: Path
) -> None:
    def few(records: Records) -> None:
        latency = find(records, "latencies", **{"batch_size": 2, "pass": "latency"})
        latency["samples_ms"] = latency["samples_ms"][:timed]
        times_faster(1, "latency")(records)

    found, output = check(evidence / "accuracy.log", edited(evidence / "benchmark.log", tmp_path / "few.log", few))
    assert found == code
    assert [row.split()[:5] for row in failing(output)] == ([["batch", "2", "timed", "calls", "4"]] if code else [])


def test_convolutions_may_beat_the_count_with_a_warning(check: Check, evidence: Path, tmp_path: Path) -> None:
    def convolutional(records: Records) -> None:
        model = find(records, "model")
        model["gflop_by_operator"] = {"conv": model["gflop_per_image"]}
        times_faster(1e6, "throughput")(records)

    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", convolutional)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 0, output
    assert re.search(r"batch 1 percent_of_limit [0-9.]+%: more than counted operations allow", output)


def test_operations_that_cannot_be_counted_are_named(check: Check, evidence: Path, tmp_path: Path) -> None:
    def uncounted(records: Records) -> None:
        records[:] = [record for record in records if record["event"] != "limit"]
        without("model", "gflop_per_image", "gflop_by_operator")(records)
        for row in (record for record in records if record["event"] == "perf"):
            row |= dict.fromkeys(("achieved_tflops", "limit_tflops", "percent_of_limit"))

    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", uncounted)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 2
    assert any("no gflop_per_image" in row for row in failing(output)), output
    assert "warning: no limit beside the figures" in output


def of_shapes(edited: Callable[[dict[str, Any]], dict[str, Any]]) -> Edit:
    return change("limit", "shapes", lambda old: [edited(shape) for shape in old])


@pytest.mark.parametrize(
    "edit",
    [
        drop("limit"),
        again("limit", {}),
        change("limit", "phase", "before"),
        both(before_and_after(1.0), drop("limit", phase="after")),
        both(before_and_after(1.0), change("limit", "phase", "before", phase="after")),
        both(before_and_after(1.0), change("limit", "spread", 0.0, phase="after")),
        without("limit", "spread"),
        of_shapes(lambda old: {key: old[key] for key in old if key != "windows_a_round"}),
        of_shapes(lambda old: {**old, "windows_a_round": []}),
        of_shapes(lambda old: {**old, "windows_a_round": [1, 1]}),
        of_shapes(lambda old: {**old, "windows_a_round": [-1, len(old["samples_ms"]) + 1]}),
        change("limit", "shapes", lambda old: [{**old[0], "windows_a_round": [len(old[0]["samples_ms"])]}, *old[1:]]),
        change("limit", "shapes", []),
        change("limit", "shapes", [3]),
        change("limit", "shapes", lambda old: [{**old[0], "calls": 0}]),
        change("limit", "shapes", lambda old: [{**old[0], "samples_ms": [0]}]),
        change("limit", "shapes", lambda old: [{**old[0], "shape": [1, 2]}]),
        change("limit", "shapes", lambda old: [{**old[0], "gflop": -1}]),
        change("model", "gflop_by_operator", None),
        change("latencies", "calls", 2, **{"batch_size": 1, "pass": "end_to_end"}),
        drop("latencies", **{"batch_size": 2, "pass": "end_to_end"}),
    ],
)
def test_a_limit_without_its_samples_cannot_be_judged(edit: Edit, check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", edit)
    assert check(evidence / "accuracy.log", log)[0] == 2


def test_more_operations_in_the_shapes_than_in_the_encoder_fail(check: Check, evidence: Path, tmp_path: Path) -> None:
    def ten_times(records: Records) -> None:
        for record in records:
            for shape in record.get("shapes", ()):
                shape["gflop"] *= 10

    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", ten_times)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 1
    assert any("more operations than the encoder" in row for row in failing(output)), output


# ------------------------------------------------------------------------------------------------- several ranks
def on_two_ranks(records: Records) -> None:
    """A consistent log of two ranks, each as fast as the first alone, on a device of its own where it is no CPU."""
    records[0]["ranks"] = 2
    kind, _, index = find(records, "env")["device"].partition(":")
    for batch_size in records[0]["batch_sizes"]:
        timed = find(records, "latencies", **{"batch_size": batch_size, "pass": "throughput"})
        devices = [f"{kind}:{rank}" if index else kind for rank in range(2)]
        records.insert(-1, {"run": records[0]["run"], "seq": 0, **ranks_record(batch_size, windows(timed), devices)})


def second_rank(**fields: object) -> Edit:
    """An edit of what the second rank says of batch size 2."""

    def edit(records: Records) -> None:
        find(records, "ranks", batch_size=2)["shares"][1].update(fields)

    return edit


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (second_rank(device="npu:0"), "one device for several ranks"),
        (second_rank(device="cuda:1"), "a rank on another kind of device"),
        (second_rank(status="oom"), "a rank that failed"),
        (second_rank(output_relative_l2=0.02), "an output that is not the encoder's"),
        (second_rank(output_relative_l2=None), "an output that is not the encoder's"),
        (second_rank(nonfinite=1), "an output that is not the encoder's"),
        (change("ranks", "total_throughput_ips", 1e6, batch_size=2), "total_throughput_ips"),
        (change("ranks", "scaling_efficiency", 1.5, batch_size=2), "scaling_efficiency"),
        (change("ranks", "alone_throughput_ips", 1e6, batch_size=2), "alone_throughput_ips"),
        (change("ranks", "throughput_ips", lambda old: old[:1], batch_size=2), "throughput_ips"),
        (change("ranks", "shares", lambda old: old[:1], batch_size=2), "1, ok"),
        (change("ranks", "status", "error", batch_size=2), "2, error"),
    ],
)
def test_a_rank_that_gives_no_evidence_fails(
    edit: Edit, named: str, check: Check, evidence: Path, tmp_path: Path
) -> None:
    def on_ranks(records: Records) -> None:
        on_two_ranks(records)
        edit(records)

    accuracy, perf = on_npu(evidence, tmp_path)
    code, output = check(accuracy, edited(perf, tmp_path / "ranks.log", on_ranks))
    assert code == 1, output
    (row,) = failing(output)
    assert row.startswith("batch 2 ranks")
    assert named in row


@pytest.mark.parametrize(
    "edit",
    [
        drop("ranks", batch_size=2),
        change("ranks", "alone", None, batch_size=2),
        second_rank(samples_ms=[]),
        second_rank(node="first"),
        second_rank(device=None),
    ],
)
def test_ranks_without_their_samples_cannot_be_judged(edit: Edit, check: Check, evidence: Path, tmp_path: Path) -> None:
    def on_ranks(records: Records) -> None:
        on_two_ranks(records)
        edit(records)

    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", on_ranks)
    assert check(evidence / "accuracy.log", log)[0] == 2


def test_a_run_on_one_rank_has_none_beside_it(check: Check, evidence: Path, tmp_path: Path) -> None:
    edit = both(on_two_ranks, change("run_start", "ranks", 1))
    code, output = check(evidence / "accuracy.log", edited(evidence / "benchmark.log", tmp_path / "one.log", edit))
    assert code == 1
    assert [row.split()[2:7] for row in failing(output)] == [["ranks", "2,", "ok", "1,", "ok"]] * 2
    log = edited(tmp_path / "one.log", tmp_path / "half.log", drop("ranks", batch_size=2))
    assert check(evidence / "accuracy.log", log)[0] == 2
    log = edited(log, tmp_path / "other.log", change("ranks", "batch_size", 7))
    assert check(evidence / "accuracy.log", log)[0] == 2


def test_ranks_share_one_cpu_but_no_npu(check: Check, evidence: Path, tmp_path: Path) -> None:
    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", on_two_ranks)
    code, output = check(evidence / "accuracy.log", log)
    assert code == 0, output
    accuracy, perf = on_npu(evidence, tmp_path)
    code, output = check(accuracy, edited(perf, tmp_path / "ranks.log", on_two_ranks))
    assert code == 0, output
    assert output.count(" images/s, 100.0%") == 2


# --------------------------------------------------------------------------------------------------- a baseline
@pytest.mark.parametrize(
    ("baseline_ms", "word", "code"), [(100.0, "SAME", 0), (103.0, "SAME", 0), (120.0, "FASTER", 0), (80.0, "SLOWER", 1)]
)
def test_a_slower_run_fails(
    baseline_ms: float, word: str, code: int, check: Check, evidence: Path, tmp_path: Path
) -> None:
    now = edited(evidence / "benchmark.log", tmp_path / "now.log", even(100.0))
    earlier = edited(evidence / "benchmark.log", tmp_path / "earlier.log", even(baseline_ms))
    found, output = check(evidence / "accuracy.log", now, "--baseline", earlier)
    rows = [row for row in output.splitlines() if "against baseline" in row]
    assert [row.split()[:3] for row in rows] == [
        ["batch", size, name] for size in ("1", "2") for name in ("latency", "throughput")
    ]
    assert all(f" {word}: " in row for row in rows)
    assert found == code
    assert check(evidence / "accuracy.log", now, "--baseline", earlier, "--max-regression", "30%")[0] == 0


def test_overlapping_intervals_are_ambiguous_and_warn(check: Check, evidence: Path, tmp_path: Path) -> None:
    def scattered(records: Records) -> None:
        even(100.0)(records)
        for record in records:
            if record["event"] == "latencies":
                record["samples_ms"] = [value * record["calls"] for value in (60.0, 65.0, 70.0, 72.0, 110.0)]
        times_faster(1, "latency")(records)

    now = edited(evidence / "benchmark.log", tmp_path / "now.log", even(100.0))
    earlier = edited(evidence / "benchmark.log", tmp_path / "earlier.log", scattered)
    code, output = check(evidence / "accuracy.log", now, "--baseline", earlier)
    assert code == 0, output
    assert output.count("AMBIGUOUS: ") == 4
    names = "batch 1 latency, batch 1 throughput, batch 2 latency, batch 2 throughput"
    assert f"warning: AMBIGUOUS against the baseline: {names}. A quiet machine or more --iterations decides." in output
    assert "AMBIGUOUS" not in check(evidence / "accuracy.log", now, "--baseline", now)[1]


@pytest.mark.parametrize(
    "edit",
    [
        change("env", "device_name", "another CPU"),
        change("env", "cpu_threads", 64),
        change("model", "weights_sha256", "0" * 64),
        change("model", "dtype", "float16"),
        change("run_start", "script", "accuracy_run.py"),
        change("perf", "batch_size", 32, batch_size=2),
        drop("latencies", **{"batch_size": 2, "pass": "throughput"}),
    ],
)
def test_a_baseline_of_something_else_cannot_be_judged(
    edit: Edit, check: Check, evidence: Path, tmp_path: Path
) -> None:
    earlier = edited(evidence / "benchmark.log", tmp_path / "earlier.log", edit)
    assert check(evidence / "accuracy.log", evidence / "benchmark.log", "--baseline", earlier)[0] == 2


def test_a_batch_size_that_the_baseline_could_not_measure_is_not_compared(
    check: Check, evidence: Path, tmp_path: Path
) -> None:
    edit = change("perf", "status", "oom", batch_size=2)
    earlier = edited(evidence / "benchmark.log", tmp_path / "earlier.log", edit)
    code, output = check(evidence / "accuracy.log", evidence / "benchmark.log", "--baseline", earlier)
    assert code == 0, output
    rows = [row for row in output.splitlines() if "against baseline" in row]
    assert [row.split()[:3] for row in rows] == [["batch", "1", "latency"], ["batch", "1", "throughput"]]


def test_a_baseline_must_be_whole(check: Check, evidence: Path, tmp_path: Path) -> None:
    cut = edited(evidence / "benchmark.log", tmp_path / "cut.log", drop("latencies"), signed=False)
    logs = (evidence / "accuracy.log", evidence / "benchmark.log")
    assert check(*logs, "--baseline", cut)[0] == 2
    assert check(*logs, "--baseline", tmp_path / "nosuch.log")[0] == 2
    assert check(*logs, "--baseline", evidence / "accuracy.log")[0] == 2


@pytest.mark.parametrize(
    ("speedup", "code"),
    [
        ({}, 0),
        ({"speedup": 457.44}, 1),
        ({"baseline_latency_ms": 1.0}, 1),
        ({"baseline_threads": 0}, 1),
        ({"baseline_samples_ms": []}, 2),
        ({"baseline_threads": None}, 2),
    ],
)
def test_a_speedup_follows_from_its_baseline(
    speedup: dict[str, object], code: int, check: Check, evidence: Path, tmp_path: Path
) -> None:
    def add(records: Records) -> None:
        latency = find(records, "perf", batch_size=1)["avg_latency_ms"]
        right = {
            "speedup": 20.0 / latency,
            "baseline_latency_ms": 20.0,
            "baseline_threads": 2,
            "baseline_samples_ms": [20.0],
        }
        records.insert(-1, {"run": records[0]["run"], "seq": 0, "event": "speedup", **right, **speedup})

    log = edited(evidence / "benchmark.log", tmp_path / "benchmark.log", add)
    assert check(evidence / "accuracy.log", log)[0] == code


# --------------------------------------------------------------------------------------------- what can't be read
@pytest.mark.parametrize("content", [None, b"", b"no records here\n", b"@record {broken\n", bytes(range(256)) * 50])
def test_logs_that_hold_nothing_cannot_be_judged(
    content: bytes | None, check: Check, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "accuracy.log"
    if content is not None:
        log.write_bytes(content)
    assert checker.main([str(log), str(evidence / "benchmark.log")]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "OVERALL: CANNOT JUDGE"
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_what_a_terminal_showed_is_no_log_and_names_the_logs(
    check: Check, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is coloured, and where PowerShell or docker wrote it."""
    for names in (["accuracy.log"], ["benchmark.log"], ["accuracy.log", "benchmark.log"]):
        shown = [line for name in names for line in (evidence / name).read_text().splitlines() if "@record" not in line]
        for content in ("\r\n".join(shown).encode(), "\n".join(f"\x1b[1m{x}\x1b[0m" for x in shown).encode("utf-16")):
            (tmp_path / "shown.txt").write_bytes(content)
            assert checker.main([str(tmp_path / "shown.txt")]) == 2
            error = capsys.readouterr().err
            assert "results and no records: a terminal, docker -t too" in error
            assert error.endswith(" ".join(f"logs/{name}" for name in names) + "\n")


def test_a_killed_run_in_another_encoding_hides_behind_no_whole_one(
    check: Check, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b"".join((evidence / name).read_bytes() for name in ("accuracy.log", "benchmark.log"))
    (tmp_path / "log.txt").write_bytes(good + "a later run\n@record {".encode("utf-16-le"))
    assert checker.main([str(tmp_path / "log.txt")]) == 2
    assert "NUL bytes" in capsys.readouterr().err


def test_a_run_of_another_script_is_no_evidence(check: Check) -> None:
    code, output = check(ROOT / "tests" / "data" / "earlier_logs" / "pass.inference.log")
    assert code == 2
    (row,) = failing(output)
    assert "no accuracy, no perf run" in row


def test_a_folder_is_no_log(check: Check, tmp_path: Path) -> None:
    assert check(tmp_path)[0] == 2


def test_standard_input_and_default_logs(evidence: Path, tmp_path: Path, run_script: Runner) -> None:
    content = b"".join((evidence / name).read_bytes() for name in ("accuracy.log", "benchmark.log"))
    command = [sys.executable, ROOT / "check_accuracy_run_perf.py"]
    piped = subprocess.run([*command, "-"], input=content, capture_output=True, check=False)
    assert piped.returncode == 0, piped.stdout
    assert run_script("check_accuracy_run_perf.py").code == 2
    shutil.copytree(evidence, tmp_path / "logs")
    assert run_script("check_accuracy_run_perf.py").code == 0


def test_runs_without_torch_and_numpy(evidence: Path, tmp_path: Path, run_script: Runner) -> None:
    for package in ("torch", "numpy"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not in this environment')")
    arguments = (evidence / "accuracy.log", evidence / "benchmark.log")
    finished: Finished = run_script("check_accuracy_run_perf.py", *arguments, env={"PYTHONPATH": str(tmp_path)})
    assert finished.code == 0, finished.stderr
    assert finished.verdict == "OVERALL: PASS"


def test_records_are_one_json_object_a_line(evidence: Path) -> None:
    for record in read_records(evidence / "accuracy.log") + read_records(evidence / "benchmark.log"):
        assert json.loads(json.dumps(record, allow_nan=False)) == record
