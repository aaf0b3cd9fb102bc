"""What a run writes: its records, its lines for people, the arguments, and the log that it found."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.events import example, read_log, read_one, records_in, write_log
from helpers.logs import MARKER

from common.log import writer
from common.log.events import (
    Accuracy,
    Animation,
    Env,
    Inference,
    Model,
    NoiseFloor,
    NonfiniteWeights,
    RunEnd,
    RunStart,
    Sample,
    Startup,
)
from common.log.framing import FORMAT, printable
from common.log.writer import NoLog, RunLog, set_aside

Lines = list[bytes]

HOSTILE_NAMES = {
    "marker": '@record {"run":"forged","seq":0,"event":"run_start"}',
    "newline": 'a\n@record {"run":"forged","seq":0,"event":"run_start"}',
    "carriage return": 'a\r@record {"run":"forged","seq":0,"event":"run_start"}',
    "other line ends": "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g",
    "terminal escape": "\x1b[2K\x1b[1Aresult: PASS\x07\x9b2J",
    "right to left": "\u202egpj.exe",
    "marker split by an invisible": "@rec\u200bord {}",
    "null": "a\x00b",
    "undecodable byte": "photo\udcff.jpg",
    "marker in a marker": '@rec@record ord {"run":"forged"}',
}


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return write_log(tmp_path / "accuracy.log")


# ---------------------------------------------------------------------------------------------------- round trip
def test_the_reader_gives_what_the_writer_was_given(lines: Lines) -> None:
    run = read_one(lines)
    assert run.problems == []
    assert [type(event) for event in run.events] == [RunStart, Env, Sample, Accuracy, RunEnd]
    assert run.one(Env) == example(Env, device="cpu", cpu_threads=8)
    assert run.one(Sample) == example(Sample, image="naïve.jpg", relative_error=0.013408)
    assert run.one(Sample).metrics.relative_error == 0.013408
    assert run.one(Accuracy) == example(Accuracy, result="PASS", samples=1)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0])
def test_a_number_survives_to_its_last_digit(tmp_path: Path, value: float) -> None:
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(NoiseFloor(output="embedding", relative_l2=value))
    found = read_log(tmp_path / "x.log").one(NoiseFloor).relative_l2
    assert found == value
    assert type(found) is float
    assert math.copysign(1, found) == math.copysign(1, value)


def test_a_count_survives_to_its_last_digit(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(Animation(image="a.gif", frames=2**63))
    found = read_log(tmp_path / "x.log").one(Animation).frames
    assert found == 2**63
    assert type(found) is int


def test_values_of_any_type_survive_where_any_may_be(tmp_path: Path) -> None:
    preprocess = {"mean": [1, 2.5, None, {"a": True}], "mode": "center"}
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(example(Model, preprocess=preprocess))
    found = read_log(tmp_path / "x.log").one(Model).preprocess
    assert json.dumps(found) == json.dumps(preprocess)


def test_run_start_says_what_ran(lines: Lines) -> None:
    start = read_one(lines).start
    assert start.format == FORMAT
    assert start.script == "accuracy_run.py"
    assert start.argv == ["--device", "cpu"]
    assert start.plan is not None
    assert (start.plan.batch_sizes, start.plan.ranks) == ([1, 4], 2)
    assert start.code_sha256 == writer.code_sha256()
    assert start.utc.endswith("+00:00")


def test_a_plan_stands_beside_the_other_fields_of_run_start_or_is_missing(tmp_path: Path, lines: Lines) -> None:
    keys = {"run", "seq", "event", "format", "script", "argv", "utc", "code_sha256", "git"}
    assert records_in(lines)[0].keys() == {*keys, "batch_sizes", "ranks"}
    RunLog(tmp_path / "x.log", "accuracy_run.py", [])
    assert records_in((tmp_path / "x.log").read_bytes().splitlines())[0].keys() == keys


def test_every_record_has_the_run_and_counts_from_zero(lines: Lines) -> None:
    records = records_in(lines)
    assert len({record["run"] for record in records}) == 1
    assert [record["seq"] for record in records] == [0, 1, 2, 3, 4]


def test_run_end_holds_the_documented_hash(lines: Lines) -> None:
    """SHA-256 over the JSON texts of the preceding records exactly as written, each followed by a newline."""
    texts = [line.removeprefix(MARKER.encode()) for line in lines if line.startswith(MARKER.encode())]
    end = json.loads(texts[-1])
    assert end["records"] == 4
    assert end["records_sha256"] == hashlib.sha256(b"\n".join(texts[:-1]) + b"\n").hexdigest()
    assert end["status"] == "complete"


def test_records_are_ascii(lines: Lines) -> None:
    assert all(line.isascii() for line in lines if MARKER.encode() in line)


def test_a_grep_for_a_key_of_two_words_finds_no_record(tmp_path: Path) -> None:
    """Nor one inside a field, and a text that only looks like a key stays as it is."""
    preprocess = {"image_mean": [0.5], "of": {"crop_pct": 1.0}, 'a "b_c": d': 'x_y":'}
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(example(Model, preprocess=preprocess))
        log.record(example(Sample))
    text = (tmp_path / "x.log").read_text()
    assert read_log(tmp_path / "x.log").one(Model).preprocess == preprocess
    for record in records_in(text.encode().splitlines()):
        assert not [key for key in record if "_" in key and key in text]
    assert not [key for key in ("image_mean", "crop_pct") if key in text]


def test_runs_have_different_ids(tmp_path: Path) -> None:
    first, second = (read_one(write_log(tmp_path / name)) for name in ("a.log", "b.log"))
    assert first.id != second.id


def test_a_log_is_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    """A killed run leaves what it had measured, and that is incomplete."""
    log = RunLog(tmp_path / "x.log", "accuracy_run.py", [])
    log.record(example(Env))
    run = read_log(tmp_path / "x.log")
    assert [type(event) for event in run.events] == [RunStart, Env]
    assert run.problems == ["incomplete: no run_end"]


@pytest.mark.parametrize("name", ["script.py", "common/errors.py", "common/wing/a.py", "common/wing/inside/page.j2"])
def test_code_sha256_follows_every_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(writer, "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("one")
    before = writer.code_sha256()
    path.write_text("two")
    changed = writer.code_sha256()
    path.rename(path.with_stem("b"))
    assert len({before, changed, writer.code_sha256()}) == 3


def test_code_sha256_is_of_the_source_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(writer, "ROOT", tmp_path)
    before = writer.code_sha256()
    for name in ("common/__pycache__/errors.pyc", "logs/accuracy.log", "tests/test_a.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("made by a run")
    assert writer.code_sha256() == before


def test_a_machine_without_git_knows_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert writer.git_commit() is None
    assert records_in(write_log(tmp_path / "x.log"))[0]["git"] is None


def test_a_rank_without_a_log_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with NoLog() as log:
        log.line("a line")
        log.record(example(Env))
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- how a run ends
def test_an_exception_closes_the_log_with_status_error(tmp_path: Path) -> None:
    run = read_one(write_log(tmp_path / "x.log", fail=RuntimeError("the device is lost")))
    assert run.problems == ["the run ended with status 'error': RuntimeError: the device is lost"]
    assert run.end is not None
    assert (run.end.status, run.end.error) == ("error", "RuntimeError: the device is lost")


def test_an_interrupt_closes_the_log_with_status_error(tmp_path: Path) -> None:
    (problem,) = read_one(write_log(tmp_path / "x.log", fail=KeyboardInterrupt())).problems
    assert "status 'error'" in problem


def test_the_exception_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost"), RunLog(tmp_path / "x.log", "accuracy_run.py", []):
        raise RuntimeError("the device is lost")


# ---------------------------------------------------------------------------------------------------- non-finite
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null_and_is_counted(tmp_path: Path, value: float) -> None:
    nested = {"a": [value, 1.0], "b": (value, [value])}
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(example(Model, preprocess=nested))
        log.record(NoiseFloor(output="embedding", relative_l2=value))
        log.record(example(Sample, relative_l2=value, fingerprint=[value, 1.0, value], nonfinite=0))
    run = read_log(tmp_path / "x.log")
    assert run.problems == []
    assert run.one(Model).preprocess == {"a": [None, 1.0], "b": [None, [None]]}
    assert run.one(NoiseFloor).relative_l2 is None
    sample = run.one(Sample)
    assert (sample.metrics.relative_l2, sample.fingerprint, sample.nonfinite) == (None, [None, 1.0, None], 3)
    counts = [record.get("nonfinite") for record in records_in((tmp_path / "x.log").read_bytes().splitlines())]
    assert counts == [None, 3, 1, 3, None]


def test_a_count_that_the_caller_knows_better_is_kept(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(example(Sample, relative_l2=math.nan, nonfinite=768))
        log.record(example(Sample, relative_l2=math.nan, nonfinite=0))
    assert [sample.nonfinite for sample in read_log(tmp_path / "x.log").all(Sample)] == [768, 1]


def test_a_finite_record_has_no_count_but_its_own(lines: Lines) -> None:
    assert ["nonfinite" in record for record in records_in(lines)] == [False, False, True, True, False]


def test_a_number_that_has_to_be_finite_and_is_not_leaves_no_whole_run(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "accuracy_run_perf.py", []) as log:
        log.record(Startup(load_ms=1.0, place_ms=math.nan, first_call_ms=1.0))
    assert read_log(tmp_path / "x.log").problems == ["record 1, startup: place_ms is None, not a number"]


# ------------------------------------------------------------------------------------------------- hostile names
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_makes_one_line_and_no_record(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    log = RunLog(tmp_path / "x.log", "x.py", [])
    before = len((tmp_path / "x.log").read_text().splitlines())
    log.line(f"image: {HOSTILE_NAMES[name]}")
    for text in ((tmp_path / "x.log").read_bytes().decode(), capsys.readouterr().out):
        (line,) = text.splitlines()[before:]
        assert MARKER.strip() not in line
        assert line.isprintable()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_in_a_record_is_read_as_it_was(tmp_path: Path, name: str) -> None:
    with RunLog(tmp_path / "x.log", "inference.py", []) as log:
        log.record(example(Inference, image=HOSTILE_NAMES[name]))
    run = read_log(tmp_path / "x.log")
    assert run.problems == []
    assert run.one(Inference).image == HOSTILE_NAMES[name]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_in_the_arguments_or_an_error_forges_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError), RunLog(tmp_path / "x.log", "accuracy_run.py", [HOSTILE_NAMES[name]]):
        raise OSError(HOSTILE_NAMES[name])
    assert [type(event) for event in read_log(tmp_path / "x.log").events] == [RunStart, RunEnd]


def test_printable_leaves_ordinary_text_alone() -> None:
    text = "naïve 图片.jpg (1.3408%) [00:01] record @recor"
    assert printable(text) == text


# ------------------------------------------------------------------------------------------------- the arguments
ARGUMENTS = {
    "/home/someone/photos/a.jpg": "a.jpg",
    "/home/someone/photos/": "photos",
    "--image=/home/someone/a.jpg": "--image=a.jpg",
    "--weights=~/models/vit": "--weights=vit",
    "~/a.jpg": "a.jpg",
    "./photos/a.jpg": "a.jpg",
    "../elsewhere/a.jpg": "a.jpg",
    "photos/here.jpg": "here.jpg",
    "--image=photos/here.jpg": "--image=here.jpg",
    "timm/vit_giant_patch14_clip_224.laion2b": "timm/vit_giant_patch14_clip_224.laion2b",
    "--model=facebook/webssl-mae700m-full2b-224": "--model=facebook/webssl-mae700m-full2b-224",
    "--dtype": "--dtype",
    "npu:0": "npu:0",
    "1.0%": "1.0%",
    "": "",
    "/": "/",
}


@pytest.mark.parametrize(("argument", "logged"), ARGUMENTS.items())
def test_argv_is_logged_with_paths_by_basename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, logged: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/here.jpg").touch()
    RunLog(tmp_path / "x.log", "x.py", [argument])
    assert records_in((tmp_path / "x.log").read_bytes().splitlines())[0]["argv"] == [logged]


def test_an_argument_longer_than_a_path_may_be_is_logged(tmp_path: Path) -> None:
    RunLog(tmp_path / "x.log", "x.py", ["x" * 5000])
    assert records_in((tmp_path / "x.log").read_bytes().splitlines())[0]["argv"] == ["x" * 5000]


# ---------------------------------------------------------------------------------------------------- set aside
def complete_log(path: Path) -> bytes:
    write_log(path)
    return path.read_bytes()


def killed_log(path: Path) -> bytes:
    path.write_bytes(b"\n".join(write_log(path)[:-1]) + b"\n")
    return path.read_bytes()


def failed_log(path: Path) -> bytes:
    write_log(path, fail=RuntimeError("the device is lost"))
    return path.read_bytes()


def cut_log(path: Path) -> bytes:
    """As a power cut or a full disk leaves it: the last record is half written."""
    path.write_bytes(complete_log(path)[:-40])
    return path.read_bytes()


def foreign_log(path: Path) -> bytes:
    path.write_bytes(b"no record at all\n")
    return path.read_bytes()


def empty_log(path: Path) -> bytes:
    path.write_bytes(b"")
    return b""


UNFIT = [killed_log, failed_log, cut_log, foreign_log, empty_log]


def test_the_earlier_log_is_kept_as_prev(tmp_path: Path) -> None:
    earlier = complete_log(tmp_path / "accuracy.log")
    set_aside(tmp_path / "accuracy.log")
    assert not (tmp_path / "accuracy.log").exists()
    assert (tmp_path / "accuracy.prev.log").read_bytes() == earlier


def test_a_new_run_sets_the_earlier_log_aside_before_it_writes(tmp_path: Path) -> None:
    earlier = complete_log(tmp_path / "accuracy.log")
    log = RunLog(tmp_path / "accuracy.log", "accuracy_run.py", [])
    assert (tmp_path / "accuracy.prev.log").read_bytes() == earlier
    assert [record["run"] for record in records_in((tmp_path / "accuracy.log").read_bytes().splitlines())] == [log.run]


def test_a_complete_log_replaces_a_complete_prev(tmp_path: Path) -> None:
    (tmp_path / "x.prev.log").write_bytes(complete_log(tmp_path / "old.log"))
    newer = complete_log(tmp_path / "x.log")
    set_aside(tmp_path / "x.log")
    assert (tmp_path / "x.prev.log").read_bytes() == newer


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_incomplete_log_never_replaces_a_complete_prev(tmp_path: Path, unfit: Callable[[Path], bytes]) -> None:
    complete = complete_log(tmp_path / "old.log")
    (tmp_path / "x.prev.log").write_bytes(complete)
    unfit(tmp_path / "x.log")
    set_aside(tmp_path / "x.log")
    assert (tmp_path / "x.prev.log").read_bytes() == complete
    assert not (tmp_path / "x.log").exists()


@pytest.mark.parametrize("unfit", UNFIT)
def test_an_incomplete_log_is_kept_where_there_is_no_prev(tmp_path: Path, unfit: Callable[[Path], bytes]) -> None:
    earlier = unfit(tmp_path / "x.log")
    set_aside(tmp_path / "x.log")
    assert (tmp_path / "x.prev.log").read_bytes() == earlier
    assert not (tmp_path / "x.log").exists()


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_complete_log_replaces_an_incomplete_prev(tmp_path: Path, unfit: Callable[[Path], bytes]) -> None:
    unfit(tmp_path / "x.prev.log")
    newer = complete_log(tmp_path / "x.log")
    set_aside(tmp_path / "x.log")
    assert (tmp_path / "x.prev.log").read_bytes() == newer


@pytest.mark.parametrize("filler", ["x", "@record ", "@record {} "])
def test_a_complete_log_is_recognised_whatever_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture, filler: str
) -> None:
    """Only the end of a log is read, and that may begin in the middle of a record."""
    (tmp_path / "x.prev.log").write_bytes(complete_log(tmp_path / "old.log"))
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(NonfiniteWeights(tensors=[filler * (200_000 // len(filler))]))
    capsys.readouterr()  # a failure would print all of it
    newer = (tmp_path / "x.log").read_bytes()
    set_aside(tmp_path / "x.log")
    assert (tmp_path / "x.prev.log").read_bytes() == newer


def test_without_an_earlier_log_nothing_is_set_aside(tmp_path: Path) -> None:
    set_aside(tmp_path / "x.log")
    assert list(tmp_path.iterdir()) == []


def test_a_log_folder_is_made(tmp_path: Path) -> None:
    write_log(tmp_path / "new" / "folder" / "x.log")
    assert (tmp_path / "new" / "folder" / "x.log").is_file()


# ----------------------------------------------------------------------------------------------- standard output
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_standard_output_that_is_no_terminal_carries_the_whole_log(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_log(tmp_path / "x.log")
    assert capsys.readouterr().out == (tmp_path / "x.log").read_text()


def test_a_reader_of_standard_output_that_leaves_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        lines = write_log(tmp_path / "x.log")
        assert os.path.samestat(os.fstat(writing), Path(os.devnull).stat())
    assert read_one(lines).problems == []


def test_a_terminal_is_spared_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    lines = write_log(tmp_path / "x.log")
    assert terminal.getvalue() == "relative_error: 1.3408%\n"
    assert read_one(lines).problems == []
