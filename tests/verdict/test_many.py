"""Many encoders: a table with a row each, in which one damaged log does not hide the others."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.logs import change, edited, find, read_records, sign, times_faster, write_records

import check_accuracy_run_perf as checker

LOGS = ROOT / "tests" / "data" / "earlier_logs"
Judge = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    """The checker's exit code, its lines and its errors, in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, list[str], str]:
        code = checker.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run


def folder_of(path: Path, model: str, accuracy: str = "pass.accuracy.log", perf: str = "pass.benchmark.log") -> Path:
    """The logs of another encoder, as the run scripts leave them."""
    path.mkdir(parents=True)
    for source, name in ((accuracy, "accuracy.log"), (perf, "benchmark.log")):
        digest = f"{sum(model.encode()):064d}"
        edited(LOGS / source, path / name, lambda records: find(records, "model").update(model=model))
        records = read_records(path / name)
        find(records, "model")["weights_sha256"] = digest
        run = f"{model:.<16}"[:16]
        write_records(path / name, sign([{**record, "run": run + name[:1]} for record in records]))
    return path


def table(lines: list[str]) -> list[list[str]]:
    """The cells of each row below the heads."""
    at = next(at for at, line in enumerate(lines) if line.startswith("verdict"))
    count = int(lines[at - 1].split()[0])
    return [line.split() for line in lines[at + 1 : at + 1 + count]]


def test_a_row_has_the_figures_of_the_records(judge: Judge, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "runs" / name, name) for name in ("vit_b", "vit_a")]
    code, lines, _ = judge(*folders, "--csv", "summary.csv", "--json", "verdict.json")
    assert code == 0, lines
    perf = find(read_records(LOGS / "pass.benchmark.log"), "perf", batch_size=1)
    rows = table(lines)
    assert [row[-1] for row in rows] == ["vit_a", "vit_b"]
    assert rows[0][:2] == ["PASS", "4.7M"]
    assert rows[0][3] == f"{perf['avg_latency_ms']:.3f}"
    assert lines[0] == "2 rows, float32 strict cpu"

    cells = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    summary = json.loads((tmp_path / "verdict.json").read_text())["summary"]
    accuracy = [r for r in read_records(LOGS / "pass.accuracy.log") if r["event"] == "accuracy"]
    for row, same in zip(cells, summary, strict=True):
        assert float(row["avg_latency_ms"]) == same["avg_latency_ms"] == perf["avg_latency_ms"]
        assert float(row["relative_l2"]) == max(record["relative_l2"] for record in accuracy)
        assert row["cause"] == "" and same["cause"] is None
        assert row["verdict"] == same["verdict"] == "PASS"


def test_one_encoder_has_no_table(judge: Judge, tmp_path: Path) -> None:
    _, lines, _ = judge(folder_of(tmp_path / "vit", "vit"))
    assert not any(line.startswith("verdict") for line in lines)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "benchmark.log").write_text("@record {of something else\n"),
        lambda folder: (folder / "benchmark.log").write_bytes((folder / "benchmark.log").read_bytes()[:-3000]),
        lambda folder: (folder / "benchmark.log").unlink(),
        lambda folder: (folder / "benchmark.log").write_text(""),
        shutil.rmtree,
        lambda folder: [path.unlink() for path in folder.iterdir()],
        lambda folder: [path.write_text("nothing\n") for path in folder.iterdir()],
    ],
)
def test_one_damaged_log_among_several_hides_no_other(
    damage: Callable[[Path], object], judge: Judge, tmp_path: Path
) -> None:
    """Its own row can't be judged, nor can the whole; the rows of the others say what they said before."""
    folders = [folder_of(tmp_path / "runs" / name, name) for name in ("vit_a", "vit_b", "vit_c")]
    damage(folders[1])
    code, lines, _ = judge(*folders)
    assert code == 2
    rows = {row[-1]: " ".join(row[:2]) for row in table(lines)}
    assert len(rows) == 3, lines
    assert rows.pop("vit_b") in ("CANNOT JUDGE", "CANNOT JUDGE 4.7M"), lines
    assert rows == {"vit_a": "PASS 4.7M", "vit_c": "PASS 4.7M"}
    assert any(line.startswith("CANNOT JUDGE: ") for line in lines)
    assert lines[-1] == "OVERALL: CANNOT JUDGE"


def test_a_run_that_ended_with_an_error_is_named_by_its_folder(judge: Judge, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "runs" / name, name) for name in ("vit_a", "vit_b")]
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    shutil.copy(LOGS / "error.accuracy.log", broken / "accuracy.log")
    code, lines, _ = judge(*folders, broken)
    assert code == 2
    assert [row[-1] for row in table(lines)] == ["broken", "vit_a", "vit_b"]
    assert any("broken/accuracy.log" in line for line in lines)


def test_a_failure_is_a_row_and_said_in_words(judge: Judge, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "runs" / name, name) for name in ("vit_a", "vit_b")]
    edited(folders[1] / "benchmark.log", folders[1] / "benchmark.log", change("perf", "throughput_ips", 1e6))
    code, lines, _ = judge(*folders, "--sort", "verdict")
    assert code == 1
    assert [row[0] for row in table(lines)] == ["FAIL", "PASS"]
    assert any(line.startswith("FAIL: vit_b float32 strict cpu: ") for line in lines)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", ["a", "b", "c"]),
        ("latency", ["c", "a", "b"]),
        ("throughput", ["c", "a", "b"]),
        ("params", ["b", "a", "c"]),
    ],
)
def test_the_order(key: str, names: list[str], judge: Judge, tmp_path: Path) -> None:
    """Figures that a run would give: the times of `a` halved and doubled."""
    for name, faster, params in (("a", 1.0, 2_000_000), ("b", 0.5, 3_000_000), ("c", 2.0, 1_000_000)):
        folder = folder_of(tmp_path / name, name)
        log = folder / "benchmark.log"
        edited(log, log, times_faster(faster, "latency", "throughput"))
        for path in folder.iterdir():
            edited(path, path, change("model", "params", params))
    _, lines, _ = judge("a", "b", "c", "--sort", key)
    assert [row[-1] for row in table(lines)] == names


def test_a_dtype_that_differs_is_named_in_its_row(judge: Judge, tmp_path: Path) -> None:
    shutil.copytree(LOGS, tmp_path / "logs")
    _, lines, _ = judge(*(f"logs/{kind}.{log}.log" for kind in ("pass", "fast") for log in ("accuracy", "benchmark")))
    heads = next(line for line in lines if line.startswith("verdict"))
    assert heads.endswith("encoder dtype numerics device")
    assert {" ".join(row[-4:]) for row in table(lines)} == {
        "demo float32 strict cpu",
        "timm/test_vit bfloat16 fast npu:0",
    }


def test_names_from_a_log_are_no_formulas_and_no_control_characters(judge: Judge, tmp_path: Path) -> None:
    hostile = "=cmd()\x1b[31m,\n\"'"
    folders = [tmp_path / "runs" / name for name in ("one", "two")]
    folder_of(folders[0], "one")
    folder_of(folders[1], hostile)
    _, lines, _ = judge(*folders, "--csv", "summary.csv")
    text = (tmp_path / "summary.csv").read_text()
    assert "\x1b" not in text + "\n".join(lines)
    assert [row["name"][:2] for row in csv.DictReader(io.StringIO(text))] == ["'=", "on"]


def test_fifty_encoders_are_a_table_and_no_more(judge: Judge, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "runs" / f"vit_{at:02}", f"vit_{at:02}") for at in range(50)]
    code, lines, _ = judge(*folders)
    assert code == 0
    assert len(table(lines)) == 50
    assert len(lines) < 60
    assert max(map(len, lines)) <= 100
