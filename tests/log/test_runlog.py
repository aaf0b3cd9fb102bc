"""The log format: what the writer writes, the reader reads, and every way in which a log is not whole is found."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from common.log import runlog
from common.log.runlog import MARKER, RunLog, UnreadableRecordError, printable, read_runs, set_aside

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


def write_log(path: Path, fail: BaseException | None = None) -> Lines:
    """Write a whole run of five records, or one that `fail` ended, and give its lines without their ends."""
    expected = () if fail is None else (type(fail),)
    with suppress(*expected), RunLog(path, "accuracy_run.py", ["--device", "cpu"], batch_sizes=[1, 4]) as log:
        log.line("relative_error: 1.3408%")
        log.record("env", device="cpu", threads=8)
        log.record("sample", image="naïve.jpg", relative_error=0.013408)
        log.record("accuracy", result="PASS", samples=[1, 2.5, None, {"a": True}])
        if fail:
            raise fail
    return path.read_bytes().splitlines()


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return write_log(tmp_path / "accuracy.log")


def records_in(lines: Lines) -> list[dict[str, Any]]:
    return [json.loads(line.partition(MARKER.encode())[2]) for line in lines if MARKER.encode() in line]


def signed(records: list[dict[str, Any]]) -> Lines:
    """The lines of `records` with the count and the hash of the last made right: only other faults remain."""
    texts = [json.dumps(record).encode() for record in records[:-1]]
    digest = hashlib.sha256(b"".join(text + b"\n" for text in texts)).hexdigest()
    end = {**records[-1], "records": len(texts), "records_sha256": digest}
    return [MARKER.encode() + text for text in [*texts, json.dumps(end).encode()]]


def problems_of(lines: Lines) -> list[str]:
    (run,) = read_runs(lines)
    return run.problems


# ----------------------------------------------------------------------------------------------------- round trip
def test_the_reader_gives_what_the_writer_was_given(lines: Lines) -> None:
    (run,) = read_runs(lines)
    assert run.problems == []
    assert [record["event"] for record in run.records] == ["run_start", "env", "sample", "accuracy", "run_end"]
    assert run.events("sample")[0]["image"] == "naïve.jpg"
    assert run.events("sample")[0]["relative_error"] == 0.013408
    assert run.events("accuracy")[0]["samples"] == [1, 2.5, None, {"a": True}]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**63])
def test_a_number_survives_to_its_last_digit(tmp_path: Path, value: float) -> None:
    with RunLog(tmp_path / "x.log", "x.py", []) as log:
        log.record("sample", value=value)
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert run.records[1]["value"] == value
    assert type(run.records[1]["value"]) is type(value)


def test_run_start_says_what_ran(lines: Lines) -> None:
    start = next(read_runs(lines)).start
    assert start["format"] == runlog.FORMAT
    assert start["script"] == "accuracy_run.py"
    assert start["argv"] == ["--device", "cpu"]
    assert start["batch_sizes"] == [1, 4]
    assert start["code_sha256"] == runlog.code_sha256()
    assert start["utc"].endswith("+00:00")


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


def test_runs_have_different_ids(tmp_path: Path) -> None:
    (first,) = read_runs(write_log(tmp_path / "a.log"))
    (second,) = read_runs(write_log(tmp_path / "b.log"))
    assert first.start["run"] != second.start["run"]


def test_a_log_is_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    """A killed run leaves what it had measured, and that is incomplete."""
    log = RunLog(tmp_path / "x.log", "x.py", [])
    log.record("env", device="cpu")
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert [record["event"] for record in run.records] == ["run_start", "env"]
    assert run.problems == ["incomplete: no run_end"]


def test_text_without_records_holds_no_run() -> None:
    assert list(read_runs([b"relative_error: 1.3408%", b"", b"@recordings", b"record {}"])) == []


@pytest.mark.parametrize("name", ["script.py", "common/errors.py", "common/wing/a.py", "common/wing/inside/page.j2"])
def test_code_sha256_follows_every_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runlog, "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("one")
    before = runlog.code_sha256()
    path.write_text("two")
    changed = runlog.code_sha256()
    path.rename(path.with_stem("b"))
    assert len({before, changed, runlog.code_sha256()}) == 3


def test_code_sha256_is_of_the_source_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runlog, "ROOT", tmp_path)
    before = runlog.code_sha256()
    for name in ("common/__pycache__/errors.pyc", "logs/accuracy.log", "tests/test_a.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("made by a run")
    assert runlog.code_sha256() == before


# ---------------------------------------------------------------------------------------------- integrity faults
def drop(index: int) -> Callable[[Lines], Lines]:
    return lambda lines: lines[:index] + lines[index + 1 :]


def double(index: int) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[: index + 1], *lines[index:]]


def swap(lines: Lines) -> Lines:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def replace(old: bytes, new: bytes) -> Callable[[Lines], Lines]:
    def edited(lines: Lines) -> Lines:
        assert any(old in line for line in lines)
        return [line.replace(old, new) for line in lines]

    return edited


FAULTS = {
    "a record dropped": (drop(2), "missing, doubled or out of order"),
    "a record doubled": (double(2), "missing, doubled or out of order"),
    "records swapped": (swap, "missing, doubled or out of order"),
    "a digit edited": (replace(b"0.013408", b"0.003408"), "records_sha256"),
    "a digit of a reference edited": (replace(b'"threads":8', b'"threads":9'), "records_sha256"),
    "white space added": (replace(b'"device":"cpu"', b'"device": "cpu"'), "records_sha256"),
    "run_end dropped": (drop(4), "no run_end"),
    "the second half cut": (lambda lines: lines[:2], "no run_end"),
    "run_start dropped": (drop(0), "run_start is missing"),
    "only run_end left": (lambda lines: lines[-1:], "run_start is missing"),
    "run_end doubled": (lambda lines: [*lines, lines[-1]], "missing, doubled or out of order"),
    "a record after run_end": (lambda lines: [*lines, lines[1]], "no run_end"),
    "run_end first": (lambda lines: [lines[-1], *lines[:-1]], "run_start is missing"),
    "a count too high": (replace(b'"records":4', b'"records":5'), "run_end counts 5 records before it, found 4"),
    "a count that is no number": (replace(b'"records":4', b'"records":null'), "run_end counts None"),
    "a hash missing": (replace(b"records_sha256", b"records_sha"), "records_sha256"),
    "another format": (replace(b'"format":1', b'"format":2'), "format 2 is not the format 1"),
    "no format": (replace(b'"format":1', b'"form":1'), "format None is not the format 1"),
    "another status": (replace(b'"complete"', b'"fine"'), "status 'fine'"),
    "no status": (replace(b'"status"', b'"state"'), "status None"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_that_is_not_whole_is_found(lines: Lines, fault: str) -> None:
    change, problem = FAULTS[fault]
    records = [line for line in lines if line.startswith(MARKER.encode())]
    assert problems_of(records) == []
    assert any(problem in found for found in problems_of(change(records)))


RESIGNED_FAULTS = {
    "a record dropped": (drop(2), "missing, doubled or out of order"),
    "a record doubled": (double(2), "missing, doubled or out of order"),
    "records swapped": (swap, "missing, doubled or out of order"),
    "run_start dropped": (drop(0), "run_start is missing"),
}


@pytest.mark.parametrize("fault", RESIGNED_FAULTS)
def test_a_fault_is_found_by_itself_where_the_hash_was_made_right(lines: Lines, fault: str) -> None:
    change, problem = RESIGNED_FAULTS[fault]
    records = records_in(lines)
    assert problems_of(signed(records)) == []
    assert any(problem in found for found in problems_of(signed(change(records))))  # type: ignore[arg-type]


def test_an_exception_closes_the_log_with_status_error(tmp_path: Path) -> None:
    (problem,) = problems_of(write_log(tmp_path / "x.log", fail=RuntimeError("the device is lost")))
    assert problem == "the run ended with status 'error': RuntimeError: the device is lost"


def test_an_interrupt_closes_the_log_with_status_error(tmp_path: Path) -> None:
    (problem,) = problems_of(write_log(tmp_path / "x.log", fail=KeyboardInterrupt()))
    assert "status 'error'" in problem


def test_the_exception_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lost"), RunLog(tmp_path / "x.log", "x.py", []):
        raise RuntimeError("the device is lost")


# ---------------------------------------------------------------------------------- what may stand around records
def test_a_record_may_follow_a_progress_bar_on_its_line(lines: Lines) -> None:
    bar = "\r 50%|█████     | 4/8 [00:01<00:01]\r".encode()
    assert problems_of([bar + line for line in lines]) == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \t\r\n"])
def test_line_ends_do_not_matter(lines: Lines, end: bytes) -> None:
    assert problems_of([line + end for line in lines]) == []


def test_other_lines_between_records_do_not_matter(lines: Lines) -> None:
    noise = [b"", b"\xff\xfe not UTF-8", b"warning: something", b'{"run":"x","seq":0,"event":"run_start"}']
    assert problems_of([line for record in lines for line in (*noise, record)]) == []


def test_interleaved_runs_are_told_apart_in_order_of_appearance(tmp_path: Path) -> None:
    logs = [write_log(tmp_path / f"{name}.log") for name in "abc"]
    runs = list(read_runs([line for turn in zip(*logs, strict=True) for line in turn]))
    assert [run.problems for run in runs] == [[], [], []]
    assert [run.start["run"] for run in runs] == [records_in(log)[0]["run"] for log in logs]


def test_a_fault_of_one_run_is_not_the_others(tmp_path: Path) -> None:
    whole, cut = write_log(tmp_path / "a.log"), write_log(tmp_path / "b.log")[:-1]
    assert [bool(run.problems) for run in read_runs([*cut, *whole])] == [True, False]


def test_a_machine_without_git_knows_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runlog.git_commit() is None
    assert records_in(write_log(tmp_path / "x.log"))[0]["git"] is None


# ----------------------------------------------------------------------------------------------- damaged records
DAMAGED = {
    "NaN": b'{"run":"a","seq":0,"event":"x","v":NaN}',
    "Infinity": b'{"run":"a","seq":0,"event":"x","v":Infinity}',
    "-Infinity": b'{"run":"a","seq":0,"event":"x","v":[-Infinity]}',
    "beyond a float": b'{"run":"a","seq":0,"event":"x","v":1e999}',
    "beyond a float, negative": b'{"run":"a","seq":0,"event":"x","v":{"w":-1e999}}',
    "an integer beyond 64 bits": b'{"run":"a","seq":0,"event":"x","v":' + b"9" * 20 + b"}",
    "an endless integer": b'{"run":"a","seq":0,"event":"x","v":' + b"9" * 5000 + b"}",
    "a duplicate key": b'{"run":"a","seq":0,"event":"x","v":1,"v":2}',
    "a duplicate key inside": b'{"run":"a","seq":0,"event":"x","v":{"w":1,"w":2}}',
    "a duplicate key by escape": b'{"run":"a","seq":0,"event":"x","v":1,"\\u0076":2}',
    "no JSON": b"relative_error: 1.3408%",
    "nothing": b"",
    "cut": b'{"run":"a","seq":0,"event":"x","v":0.01',
    "text behind it": b'{"run":"a","seq":0,"event":"x"} 50%|#####',
    "a second record": b'{"run":"a","seq":0,"event":"x"} @record {"run":"a","seq":1,"event":"x"}',
    "an array": b'["run","seq","event"]',
    "a string": b'"run"',
    "deep nesting": b'{"run":"a","seq":0,"event":"x","v":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "UTF-8": '{"run":"a","seq":0,"event":"x","image":"naïve.jpg"}'.encode(),
    "not even UTF-8": b'{"run":"a","seq":0,"event":"x","image":"\xff"}',
    "a control character": b'{"run":"a","seq":0,"event":"x","image":"\x1b[2K"}',
    "single quotes": b"{'run':'a','seq':0,'event':'x'}",
    "no run": b'{"seq":0,"event":"x"}',
    "a run that is a number": b'{"run":1,"seq":0,"event":"x"}',
    "no event": b'{"run":"a","seq":0}',
    "an event that is null": b'{"run":"a","seq":0,"event":null}',
    "no seq": b'{"run":"a","event":"x"}',
    "a seq that is a float": b'{"run":"a","seq":0.0,"event":"x"}',
    "a seq that is true": b'{"run":"a","seq":true,"event":"x"}',
    "a seq that is a string": b'{"run":"a","seq":"0","event":"x"}',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_refused_with_its_line(lines: Lines, damage: str) -> None:
    damaged = [*lines[:2], MARKER.encode() + DAMAGED[damage], *lines[2:]]
    with pytest.raises(UnreadableRecordError, match=r"^line 3 holds a damaged record: "):
        list(read_runs(damaged))


def test_a_record_that_takes_too_much_memory_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "MOST_MEMORY", 1000)
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    record = b'{"run":"a","seq":0,"event":"x","v":[[],[],[]]}'
    with pytest.raises(UnreadableRecordError, match=r"^line 1 holds a damaged record: too large$"):
        list(read_runs([MARKER.encode() + record]))


def test_records_that_take_too_much_memory_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    record = MARKER.encode() + b'{"run":"a","seq":0,"event":"x"}'
    monkeypatch.setattr(runlog, "MOST_MEMORY", 1000)
    assert len(list(read_runs([record] * 2))) == 1
    with pytest.raises(UnreadableRecordError, match=r"^line 3: more records or runs than can be judged at once$"):
        list(read_runs([record] * 3))


def test_a_sound_record_of_the_same_shape_is_not_refused() -> None:
    assert len(list(read_runs([MARKER.encode() + b'{"run":"a","seq":0,"event":"x","v":1.5e300}']))) == 1


# --------------------------------------------------------------------------------------------------- non-finite
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null_and_is_counted(tmp_path: Path, value: float) -> None:
    with RunLog(tmp_path / "x.log", "x.py", []) as log:
        log.record("sample", value=value, nested={"a": [value, 1.0], "b": (value, [value])})
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert run.problems == []
    sample = run.records[1]
    assert (sample["value"], sample["nested"]) == (None, {"a": [None, 1.0], "b": [None, [None]]})
    assert sample["nonfinite"] == 4


def test_a_count_that_the_caller_knows_better_is_kept(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "x.py", []) as log:
        log.record("sample", value=math.nan, nonfinite=768)
        log.record("sample", value=math.nan, nonfinite=0)
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert [record["nonfinite"] for record in run.events("sample")] == [768, 1]


def test_a_finite_record_has_no_count(lines: Lines) -> None:
    assert all("nonfinite" not in record for record in records_in(lines))


# ------------------------------------------------------------------------------------------------ hostile names
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
    with RunLog(tmp_path / "x.log", "x.py", []) as log:
        log.record("sample", image=HOSTILE_NAMES[name])
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert run.problems == []
    assert run.records[1]["image"] == HOSTILE_NAMES[name]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_in_the_arguments_or_an_error_forges_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError), RunLog(tmp_path / "x.log", "x.py", [HOSTILE_NAMES[name]]):
        raise OSError(HOSTILE_NAMES[name])
    (run,) = read_runs((tmp_path / "x.log").read_bytes().splitlines())
    assert [record["event"] for record in run.records] == ["run_start", "run_end"]


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
    with RunLog(tmp_path / "x.log", "x.py", []) as log:
        log.record("sample", image=filler * (200_000 // len(filler)))
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
    assert problems_of(lines) == []


def test_a_terminal_is_spared_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    lines = write_log(tmp_path / "x.log")
    assert terminal.getvalue() == "relative_error: 1.3408%\n"
    assert problems_of(lines) == []
