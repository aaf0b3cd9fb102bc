"""Evidence beside that of another device, dtype or mode: ratios by hand, what differs, and the only gate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from helpers.logs import (
    Edit,
    Records,
    change,
    drop,
    edited,
    even,
    find,
    read_records,
    sign,
    times_faster,
    write_records,
)

import check_accuracy_run_perf as checker

LOGS = ROOT / "tests" / "data" / "earlier_logs"
ACCURACY, PERF = LOGS / "pass.accuracy.log", LOGS / "pass.benchmark.log"

Compare = Callable[..., tuple[int, list[str]]]


def another(source: Path, target: Path, *edits: Edit) -> Path:
    """A whole log of another run."""

    def edit(records: Records) -> None:
        for each in edits:
            each(records)
        for record in records:
            record["run"] = "0" + record["run"][1:]

    return edited(source, target, edit)


def on_gpu(records: Records) -> None:
    gpu = {"device": "cuda:0", "parameters_device": "cuda:0", "device_name": "NVIDIA A100", "torch": "2.9.0"}
    find(records, "env").update(gpu)
    for record in records:
        if record["event"] in ("sample", "perf"):
            record["device"] = "cuda:0"


def errors_of(relative_l2: float) -> Edit:
    """Of each image's two outputs, and of the summaries; consistent in their formulas."""

    def edit(records: Records) -> None:
        values: dict[str, Any] = {"relative_l2": relative_l2, "nmse": relative_l2**2, "sqnr_db": 60.0}
        for record in records:
            if record["event"] in ("sample", "accuracy"):
                record.update(values)
            if record.get("output") == "hidden_state" and record["event"] == "sample":
                record["worst_token_relative_l2"] = relative_l2

    return edit


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Judge a CPU's logs, 100 ms a call at every batch size, beside others: exit code and printed lines."""
    ours = edited(PERF, tmp_path / "ours.log", even(100.0))

    def run(*arguments: object) -> tuple[int, list[str]]:
        code = checker.main([str(argument) for argument in (ACCURACY, ours, *arguments)])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def theirs(tmp_path: Path) -> list[Path]:
    """A GPU's logs of the same weights: 50 ms a call, an error of 0.1 %."""
    (tmp_path / "gpu").mkdir()
    return [
        another(ACCURACY, tmp_path / "gpu" / "accuracy.log", on_gpu, errors_of(0.001)),
        another(PERF, tmp_path / "gpu" / "benchmark.log", on_gpu, even(50.0)),
    ]


def rows(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines if " beside other" in line]


def test_ratios_and_errors_stand_side_by_side(compare: Compare, theirs: list[Path]) -> None:
    code, lines = compare("--compare", *theirs, "--verbose")
    assert code == 0
    found = rows(lines)
    assert found[:4] == [
        "batch 1 latency beside other 2.00x: 100.000 / 50.000 ms any PASS",
        "batch 1 throughput beside other 0.50x: 10.00 / 20.00 images/s any PASS",
        "batch 2 latency beside other 2.00x: 100.000 / 50.000 ms any PASS",
        "batch 2 throughput beside other 0.50x: 20.00 / 40.00 images/s any PASS",
    ]
    assert [row.split(" beside ")[0] for row in found[4:]] == [
        f"{output} {metric}" for output in ("embedding", "hidden_state") for metric in ("relative_error", "relative_l2")
    ]
    assert found[5].endswith("% / 0.1000% any PASS")
    (named,) = [line for line in lines if line.startswith("other ")]
    for difference in ("device cpu / cuda:0", "/ NVIDIA A100", "/ 2.9.0"):
        assert difference in named
    assert "dtype" not in named


def test_a_few_lines_tell_it(compare: Compare, theirs: list[Path]) -> None:
    code, lines = compare("--compare", theirs[0].parent)
    text = " ".join(" ".join(lines).split())
    assert code == 0
    assert "compared with demo float32 strict cuda:0 (accuracy.log, benchmark.log)" in text
    assert "throughput 0.50x 0.50x, latency 2.00x 2.00x of the other's, at batch 1 2" in text
    assert " / 0.1000%, hidden_state " in text
    assert "differs: device cpu / cuda:0, device_name" in text
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("page", ["verdict.md", "verdict.zh-CN.md"])
def test_the_page_shows_what_is_printed(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (
        [str(LOGS / f"{name}.{kind}.log") for kind in ("accuracy", "benchmark")] for name in ("strict", "fast")
    )
    assert checker.main([*ours, "--allow-random-weights", "--compare", *theirs]) == 0
    shown = re.search(r"```text\n(  compared .*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert shown
    assert shown[1] in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "expected"), [("0.1", 0), ("0.5", 0), ("0.51", 1), ("2", 1)])
def test_a_smallest_ratio_is_the_only_gate(ratio: str, expected: int, compare: Compare, tmp_path: Path) -> None:
    other = another(PERF, tmp_path / "other.log", on_gpu, even(50.0))
    code, lines = compare("--compare", other, "--min-ratio", ratio)
    assert code == expected
    failed = [line for line in lines if line.startswith("FAIL: ")]
    assert len(failed) == 2 * expected
    assert all(f"wanted: >= {ratio}x" in line for line in failed)


def test_each_batch_size_is_held_to_the_ratio(compare: Compare, tmp_path: Path) -> None:
    other = another(PERF, tmp_path / "other.log", on_gpu, even(100.0), fast_at_batch_2)
    code, lines = compare("--compare", other, "--min-ratio", "1")
    assert code == 1
    assert [line for line in lines if line.startswith("FAIL: ")] == [
        "FAIL: batch 2: throughput beside other is 0.50x: 20.00 / 40.00 images/s; wanted: >= 1x"
    ]


def fast_at_batch_2(records: Records) -> None:
    """50 ms a call in the throughput pass of batch size 2."""
    record = find(records, "latencies", **{"batch_size": 2, "pass": "throughput"})
    record["samples_ms"] = [50.0 * record["calls"]] * 9
    times_faster(1)(records)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (change("model", "weights_sha256", "1" * 64), "other weights: demo float32 strict cuda:0 has 11111111"),
        (change("model", "weights_sha256", None), "weights_sha256 is None"),
        (change("run_start", "script", "inference.py"), "compare inference.py"),
        (change("perf", "n", "many"), "compare accuracy_run_perf.py"),
        (drop("latencies", **{"batch_size": 2, "pass": "latency"}), "0 latencies records of batch 2, pass latency"),
    ],
)
def test_what_can_not_be_compared_can_not_be_judged(make: Edit, words: str, compare: Compare, tmp_path: Path) -> None:
    code, lines = compare("--compare", another(PERF, tmp_path / "other.log", on_gpu, even(50.0), make))
    assert code == 2
    assert words in " ".join(" ".join(lines).split())


def test_a_run_beside_itself_proves_nothing(compare: Compare, tmp_path: Path) -> None:
    code, lines = compare("--compare", PERF)
    assert code == 2
    assert "a run beside itself" in " ".join(lines)


def test_a_log_that_is_not_there_or_not_whole_can_not_be_judged(compare: Compare, tmp_path: Path) -> None:
    assert compare("--compare", tmp_path / "nosuch.log")[0] == 2
    cut = tmp_path / "cut.log"
    write_records(cut, read_records(PERF)[:-1])
    assert compare("--compare", cut)[0] == 2


def test_runs_of_different_kinds_have_nothing_in_common(
    compare: Compare, theirs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert checker.main([str(ACCURACY), "--only", "accuracy", "--compare", str(theirs[0])]) == 0
    assert "relative_l2, ours / the other's" in capsys.readouterr().out
    assert checker.main([str(ACCURACY), "--only", "accuracy", "--compare", str(theirs[1])]) == 2
    assert compare("--compare", theirs[0])[0] == 0, "the errors alone"
    code, lines = compare("--compare", theirs[0], "--min-ratio", "0.1")
    assert code == 2
    assert "other batch sizes: none in common" in " ".join(lines)


def test_a_ratio_counts_only_on_evidence_that_passes_by_itself(compare: Compare, tmp_path: Path) -> None:
    wrong = change("perf", "output_relative_l2", 0.5, batch_size=1)
    other = another(PERF, tmp_path / "other.log", on_gpu, even(50.0), wrong)
    code, lines = compare("--compare", other)
    assert code == 0
    assert "whose own verdict is FAIL" in " ".join(" ".join(lines).split())
    code, lines = compare("--compare", other, "--min-ratio", "0.1")
    assert code == 2
    assert "CANNOT JUDGE: the compared log is no measure: its own verdict is FAIL" in lines


def test_times_without_a_ratio_can_not_be_judged(compare: Compare, tmp_path: Path) -> None:
    no_time = change("latencies", "samples_ms", [5e-324] * 9, **{"batch_size": 1, "pass": "latency"})
    other = another(PERF, tmp_path / "other.log", on_gpu, even(50.0), no_time)
    assert compare("--compare", other, "--json", tmp_path / "verdict.json")[0] == 2


def test_every_group_needs_another_of_its_weights(compare: Compare, theirs: list[Path], tmp_path: Path) -> None:
    second = change("model", "weights_sha256", "2" * 64)
    logs = [edited(log, tmp_path / f"second.{log.name}", second) for log in (ACCURACY, PERF)]
    for log in logs:
        write_records(log, sign([{**record, "run": "2" + record["run"][1:]} for record in read_records(log)]))
    assert compare(*logs)[0] == 0
    code, lines = compare(*logs, "--compare", *theirs)
    assert code == 2
    assert sum("nothing to compare with" in line for line in lines) == 1


def test_the_json_has_the_numbers(compare: Compare, theirs: list[Path], tmp_path: Path) -> None:
    compare("--compare", *theirs, "--json", tmp_path / "verdict.json")
    ((found,),) = [group["compared"] for group in json.loads((tmp_path / "verdict.json").read_text())["groups"]]
    assert found["title"] == "demo float32 strict cuda:0"
    assert found["verdict"] == "PASS"
    assert found["differences"]["device"] == ["cpu", "cuda:0"]
    assert [
        (each["batch_size"], round(each["latency_ratio"], 9), round(each["throughput_ratio"], 9))
        for each in found["batches"]
    ] == [(1, 2.0, 0.5), (2, 2.0, 0.5)]
    assert found["errors"][1]["output"] == "embedding"
    assert found["errors"][1]["relative_l2"][1] == 0.001


def test_the_pages_have_it_in_both_languages(compare: Compare, theirs: list[Path], tmp_path: Path) -> None:
    compare("--compare", *theirs, "--report", tmp_path / "report")
    for name, heading, words in (
        ("report.md", "\n## Comparison\n", "its own verdict: PASS"),
        ("report.zh-CN.md", "\n## 对比\n", "其自身结论：PASS"),
    ):
        page = (tmp_path / "report" / name).read_text(encoding="utf-8")
        section = page.partition(heading)[2].partition("\n## ")[0]
        assert words in section
        assert "| 2 | 20.00 / 40.00 | 0.50x | 100.000 / 50.000 | 2.00x |" in section
        assert "| device | cpu | cuda:0 |" in section
        assert " | 0.1000% |" in section
        assert page.count("| benchmark.log | accuracy_run_perf.py |") == 1, "the other's logs are listed too"
    compare("--report", tmp_path / "alone")
    assert "## Comparison" not in (tmp_path / "alone" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min-ratio", "1"], "--min-ratio is of the throughput beside"),
        (["--only", "accuracy", "--compare", "x", "--min-ratio", "1"], "--min-ratio is a bound of performance"),
    ],
)
def test_a_ratio_of_nothing_is_a_usage_error(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        checker.main(flags)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
