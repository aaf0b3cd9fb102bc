"""The verdict at a glance: a few lines that fit a terminal, every failure in words, and what was not judged."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

import check_accuracy_run_perf as checker
from common.verdict import glance, performance
from common.verdict.evidence import Check, Judgement, Verdict

LOGS = ROOT / "tests" / "data" / "earlier_logs"
VERDICTS = json.loads((LOGS / "verdicts.json").read_text(encoding="utf-8"))

Judge = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Judge:
    """The checker's exit code and the lines that it printed, in the folder of the earlier logs."""
    monkeypatch.chdir(LOGS)

    def run(*arguments: object) -> tuple[int, list[str]]:
        code = checker.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the run scripts leave it."""
    shutil.copy(LOGS / "pass.accuracy.log", tmp_path / "accuracy.log")
    shutil.copy(LOGS / "pass.benchmark.log", tmp_path / "benchmark.log")
    for name in ("env_check.log", "accuracy.prev.log", "inference.log"):
        (tmp_path / name).write_text("@record {of something else\n")
    return tmp_path


# ------------------------------------------------------------------------------------------------------ a few lines
def test_an_encoder_is_told_in_six_lines(judge: Judge) -> None:
    code, lines = judge("pass.accuracy.log", "pass.benchmark.log")
    assert code == 0
    assert [line[:13].strip() for line in lines[:6]] == [
        "demo float32", "evidence", "accuracy", "performance", "device", "not proved",
    ]  # fmt: skip
    assert lines[1].split() == ["evidence", "PASS", "2", "whole", "runs,", "2", "images:", "pass.accuracy.log,",
                                "pass.benchmark.log"]  # fmt: skip
    assert lines[-1] == "OVERALL: PASS"


def test_the_figures_are_those_of_the_records(judge: Judge) -> None:
    """The worst of all errors that a bound holds, the first latency, and the batch size of the best throughput."""
    _, lines = judge("pass.accuracy.log", "pass.benchmark.log")
    _, rows = judge("pass.accuracy.log", "pass.benchmark.log", "--verbose")
    errors = {}
    for row in rows:
        if found := re.match(r"(\w+ (?:relative_error|relative_l2|top1_gap)) +([\d.e-]+)% +<= 1%", row):
            errors[found[1]] = float(found[2])
    worst = max(errors, key=lambda name: errors[name])
    assert f"worst: {worst} {errors[worst]:g}%, bound 1%, against float64" in lines[2]
    records = [
        json.loads(line.partition("@record ")[2])
        for line in (LOGS / "pass.benchmark.log").read_text().splitlines()
        if '"event":"perf"' in line
    ]
    best = max(records, key=lambda record: record["throughput_ips"])
    assert f"{records[0]['avg_latency_ms']:.3f} ms at batch 1" in lines[3]
    assert f"best {best['throughput_ips']:.2f} images/s at batch {best['batch_size']}" in lines[3]
    assert f"{best['percent_of_limit']:.1%} of the limit" in lines[3]


@pytest.mark.parametrize("earlier", VERDICTS, ids=lambda earlier: " ".join(earlier["arguments"]))
def test_every_failure_and_no_other_row_is_told_in_words(earlier: dict[str, list[str]], judge: Judge) -> None:
    code, lines = judge(*earlier["arguments"])
    assert code == earlier["exit_code"]
    assert lines[-1] == earlier["stdout"][-1]
    assert max(map(len, lines)) <= 100
    for verdict in ("FAIL", "CANNOT JUDGE"):
        rows = [row for row in earlier["stdout"][:-1] if row.endswith(f" {verdict}")]
        assert len([line for line in lines if line.startswith(f"{verdict}: ")]) == len(rows)
    assert "FAIL FAIL" not in "\n".join(lines)


def test_a_failure_that_the_log_admits_is_said_so(judge: Judge) -> None:
    _, lines = judge("fail.accuracy.log", "fail.benchmark.log", "--allow-random-weights")
    text = " ".join(line.strip() for line in lines)
    assert "accuracy     FAIL  worst: hidden_state relative_l2" in text
    assert "the log says FAIL and so do its samples" in text
    assert lines[-1] == "OVERALL: FAIL"


def test_every_sentence_is_of_a_check_that_there_is() -> None:
    """By the words that make the checks' names in the code, so that no pattern outlives its check."""
    code = "".join(path.read_text() for path in (ROOT / "common" / "verdict").glob("*.py") if path.name != "glance.py")
    for pattern in glance.SENTENCES:
        words = pattern.rpartition(")")[2].strip()
        assert not words or f'{words}"' in code, pattern


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (("embedding relative_error", "2.0000%", "<= 1%"), "embedding relative_error is 2.0000%; the bound is 1%"),
        (("hidden_state result in the log", "PASS", "FAIL"),
         "hidden_state: the log says PASS, and its own figures say FAIL"),
        (("a float32: embedding shape", "1 9", "[1, D]"), "a float32: embedding has the shape 1 9, not [1, D]"),
        (("accuracy_run.py 1a2b", "incomplete: no run_end", "a whole run"),
         "run 1a2b of accuracy_run.py is not whole: incomplete: no run_end"),
        (("perf run", "none", "of the same weights"),
         "no perf run of the same weights, dtype and device; --only accuracy judges without it"),
        (("batch 4 status", "oom", "ok"), "batch 4 was not measured: oom"),
        (("what nobody foresaw", "{x}", "{y}"), "what nobody foresaw: {x}, wanted: {y}"),
    ],
)  # fmt: skip
def test_a_check_in_words(check: tuple[str, str, str], words: str) -> None:
    assert glance.sentence(Check(*check, Verdict.FAIL)) == words


def test_a_text_of_any_kind_and_length_is_a_few_printable_lines() -> None:
    check = Check("x" * 10_000, "\x1b[31m\n\u202e", "y", Verdict.FAIL)
    lines = list(glance.lines_of(Judgement([check])))
    assert all(line.isprintable() for line in lines)
    assert sum(map(len, lines)) < 1000


# ------------------------------------------------------------------------------------------------ one kind, a folder
@pytest.mark.parametrize(("only", "other"), [("accuracy", "performance"), ("perf", "accuracy")])
def test_one_kind_is_judged_alone_and_that_is_said(only: str, other: str, judge: Judge, folder: Path) -> None:
    kept, left = ("accuracy.log", "benchmark.log") if only == "accuracy" else ("benchmark.log", "accuracy.log")
    (folder / left).unlink()
    assert judge(folder)[0] == 2
    for flags in ([], ["--verbose"]):
        code, lines = judge(folder, "--only", only, "--json", folder / "v.json", *flags)
        assert code == 0
        assert lines[-1] == "OVERALL: PASS"
        assert lines[-2].startswith("only ")
        assert lines[-2].endswith(f"is judged: nothing is said about {other}.")
    assert not any(line.startswith(f"  {other}") for line in lines)
    found = json.loads((folder / "v.json").read_text())
    assert (found["only"], found["remarks"][-1]) == (only, lines[-2])
    assert judge(folder / kept, "--only", "perf" if only == "accuracy" else "accuracy")[0] == 2


def test_runs_of_the_other_kind_are_left_out_even_damaged_ones(judge: Judge, folder: Path) -> None:
    killed = (LOGS / "pass.benchmark.log").read_text().rpartition("@record")[0]
    both = folder / "log.txt"
    both.write_text((folder / "accuracy.log").read_text() + killed)
    assert judge(both)[0] == 2
    assert judge(both, "--only", "accuracy")[0] == 0
    assert judge(both, "--only", "perf")[0] == 2


def test_a_run_that_nobody_knows_is_left_out_of_nothing(judge: Judge, folder: Path) -> None:
    """Its run_start is missing: it may be of either kind."""
    text = (folder / "accuracy.log").read_text()
    headless = "".join(
        line for line in (LOGS / "fail.accuracy.log").read_text().splitlines(True) if "run_start" not in line
    )
    (folder / "accuracy.log").write_text(text + headless)
    assert judge(folder, "--only", "accuracy")[0] == 2
    assert judge(folder / "accuracy.log", folder / "benchmark.log", "--only", "perf")[0] == 2


def test_an_accuracy_that_fails_is_seen_before_there_is_a_perf_log(judge: Judge) -> None:
    code, lines = judge("fail.accuracy.log", "--only", "accuracy", "--allow-random-weights")
    assert (code, lines[-1]) == (1, "OVERALL: FAIL")


@pytest.mark.parametrize("flag", [["--min-throughput", "1"], ["--max-latency-ms", "1"], ["--baseline", "x.log"]])
def test_a_bound_of_performance_is_refused_where_only_accuracy_is_judged(
    flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        checker.main(["--only", "accuracy", *flag])
    assert ended.value.code == 2
    assert f"{flag[0]} is a bound of performance" in capsys.readouterr().err


def test_a_baseline_and_bounds_work_with_performance_alone(judge: Judge, folder: Path) -> None:
    assert judge("pass.benchmark.log", "--only", "perf", "--baseline", "pass.benchmark.log")[0] == 0
    assert judge("pass.benchmark.log", "--only", "perf", "--baseline", folder)[0] == 0
    assert judge("pass.benchmark.log", "--only", "perf", "--min-throughput", "1e9")[0] == 1


def test_the_default_logs_are_those_of_the_kind(judge: Judge, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, folder / "logs")
    monkeypatch.chdir(folder)
    (folder / "logs" / "benchmark.log").unlink()
    assert judge()[0] == 2
    assert judge("--only", "accuracy")[0] == 0


def test_a_folder_stands_for_its_logs(judge: Judge, folder: Path) -> None:
    """Not for earlier ones, nor for those of no verdict."""
    assert judge(folder) == judge(folder / "accuracy.log", folder / "benchmark.log")
    assert judge(folder)[0] == 0


def test_a_folder_without_logs_names_what_it_holds(
    tmp_path: Path, judge: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "npu.log").write_text("")
    assert checker.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is a folder without accuracy.log or benchmark.log, but npu.log: name the files" in error


@pytest.mark.parametrize(
    ("difference", "size", "said"),
    [
        (0.02, 1.0, "2.0000% apart"),
        (math.inf, 1.0, "of another length"),
        (0.5, 0.0, "zero or infinite embedding"),
        (math.inf, math.inf, "zero or infinite embedding"),
    ],
)
def test_two_embeddings_that_differ_are_said_to_be_apart(difference: float, size: float, said: str) -> None:
    assert performance.apart(difference, size) == said
    check = Check("batch 1 same embedding", said, "<= 1%", Verdict.FAIL)
    wanted = f"batch 1: the timed embedding and the compared one: {said}, wanted: <= 1%"
    assert glance.sentence(check) == wanted
