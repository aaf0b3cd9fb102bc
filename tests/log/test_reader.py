"""Every way in which a log is not whole is found, what stands around records does not matter, and memory is bounded."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.events import example, read_log, read_one, records_in, write_log
from helpers.logs import MARKER

from common.log import framing, reader
from common.log import lines as log_lines
from common.log.events import Accuracy, Env, Model, RunStart, Sample
from common.log.lines import UnreadableRecordError, lines_of
from common.log.reader import Run, UnjudgeableError, read_runs
from common.log.writer import RunLog

Lines = list[bytes]
MIB = 1024 * 1024


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return write_log(tmp_path / "accuracy.log")


def signed(records: list[dict[str, Any]]) -> Lines:
    """The lines of `records` with the count and the hash of the last made right: only other faults remain."""
    texts = [json.dumps(record).encode() for record in records[:-1]]
    digest = hashlib.sha256(b"".join(text + b"\n" for text in texts)).hexdigest()
    end = {**records[-1], "records": len(texts), "records_sha256": digest}
    return [MARKER.encode() + text for text in [*texts, json.dumps(end).encode()]]


def problems_of(lines: Lines) -> list[str]:
    return read_one(lines).problems


# ------------------------------------------------------------------------------------------------ what a run gives
def test_events_are_found_by_their_kind(lines: Lines) -> None:
    run = read_one(lines)
    assert (run.script, run.count, len(run.events)) == ("accuracy_run.py", 5, 5)
    assert run.id == records_in(lines)[0]["run"]
    assert [run.start, run.one(Env), *run.all(Sample), run.one(Accuracy), run.end] == run.events
    assert run.all(Model) == []


def test_one_event_is_neither_none_nor_several(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "accuracy_run.py", []) as log:
        log.record(example(Sample))
        log.record(example(Sample))
    run = read_log(tmp_path / "x.log")
    with pytest.raises(UnjudgeableError, match=r"^0 env records, not 1$"):
        run.one(Env)
    with pytest.raises(UnjudgeableError, match=r"^2 sample records, not 1$"):
        run.one(Sample)


def test_a_run_without_an_end_has_none(lines: Lines) -> None:
    assert read_one(lines[:-1]).end is None


def test_a_run_of_another_script_is_whole_and_gives_no_events(tmp_path: Path) -> None:
    with RunLog(tmp_path / "x.log", "another.py", []) as log:
        log.record(example(Env))
    run = read_log(tmp_path / "x.log")
    assert (run.script, run.count, run.events, run.problems) == ("another.py", 3, [], [])


def test_text_without_records_holds_no_run() -> None:
    assert list(read_runs([b"relative_error: 1.3408%", b"", b"@recordings", b"record {}"])) == []


# ------------------------------------------------------------------------------------------------ integrity faults
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


def in_last(old: bytes, new: bytes) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[:-1], *replace(old, new)(lines[-1:])]


FAULTS = {
    "a record dropped": (drop(2), "missing, doubled or out of order"),
    "a record doubled": (double(2), "missing, doubled or out of order"),
    "records swapped": (swap, "missing, doubled or out of order"),
    "a digit edited": (replace(b"0.013408", b"0.003408"), "records_sha256"),
    "a digit of a reference edited": (replace(rb'"cpu\u005fthreads":8', rb'"cpu\u005fthreads":9'), "records_sha256"),
    "white space added": (replace(b'"device":"cpu"', b'"device": "cpu"'), "records_sha256"),
    "run_end dropped": (drop(4), "no run_end"),
    "the second half cut": (lambda lines: lines[:2], "no run_end"),
    "run_start dropped": (drop(0), "run_start is missing"),
    "only run_end left": (lambda lines: lines[-1:], "run_start is missing"),
    "run_end doubled": (lambda lines: [*lines, lines[-1]], "missing, doubled or out of order"),
    "run_end twice": (lambda lines: [*lines, lines[-1]], "starts or ends in the middle of it"),
    "run_start twice": (lambda lines: [*lines[:2], lines[0], *lines[2:]], "starts or ends in the middle of it"),
    "a record after run_end": (lambda lines: [*lines, lines[1]], "no run_end"),
    "run_end first": (lambda lines: [lines[-1], *lines[:-1]], "run_start is missing"),
    "a count too high": (replace(b'"records":4', b'"records":5'), "run_end counts 5 records before it, found 4"),
    "a count that is no number": (replace(b'"records":4', b'"records":null'), "run_end counts None"),
    "a hash missing": (replace(rb"records\u005fsha256", b"hash"), "records_sha256"),
    "another format": (replace(b'"format":1', b'"format":2'), "format 2 is not the format 1"),
    "no format": (replace(b'"format":1', b'"form":1'), "format None is not the format 1"),
    "a format that is true": (replace(b'"format":1', b'"format":true'), "format True is not the format 1"),
    "another status": (replace(b'"complete"', b'"fine"'), "status 'fine'"),
    "no status": (replace(b'"status"', b'"state"'), "status None"),
    "more in run_end, which no hash covers": (in_last(b"}", b',"relative_l2":0.0}'), "'relative_l2' is none of its"),
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


def test_a_record_that_does_not_fit_is_the_first_problem_and_ends_the_events(lines: Lines) -> None:
    records = records_in(lines)
    records[2]["nmse"], records[3]["samples"] = "small", "few"
    run = read_one(signed(records))
    assert run.problems == ["record 2, sample: nmse is 'small', not a number"]
    assert [type(event) for event in run.events] == [RunStart, Env]


# --------------------------------------------------------------------------------- what may stand around records
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
    assert [run.id for run in runs] == [records_in(log)[0]["run"] for log in logs]
    assert all(len(run.events) == 5 for run in runs)


def test_a_fault_of_one_run_is_not_the_others(tmp_path: Path) -> None:
    whole, cut = write_log(tmp_path / "a.log"), write_log(tmp_path / "b.log")[:-1]
    assert [bool(run.problems) for run in read_runs([*cut, *whole])] == [True, False]


def in_json(line: bytes, key: str = "log") -> bytes:
    return json.dumps({key: f"{line.decode()}\n", "stream": "stdout"}).encode()


AROUND: dict[str, Callable[[bytes], bytes]] = {
    "a progress bar before": lambda line: "\r 50%|█████     | 4/8 [00:01<00:01]\r".encode() + line,
    "a progress bar behind": lambda line: line + "\r 50%|█████     | 4/8 [00:01<00:01]".encode(),
    "brackets and quotes behind": lambda line: line + b'}}]"}',
    "a time before": lambda line: b"2026-01-01T00:00:00.123Z stdout F " + line,
    "a rank before, CRLF": lambda line: b"[rank0]:" + line + b"\r\n",
    "colour around": lambda line: b"\x1b[32m" + line + b"\x1b[0m\x1b[K",
    "colour of the marker": lambda line: line.replace(b"@record", b"\x1b[01;31m\x1b[K@record\x1b[m\x1b[K"),
    "colour inside of the marker": lambda line: line.replace(b"record", b"\x1b[1;31mrecord\x1b[m", 1),
    "colour inside of the object": lambda line: line.replace(b'"seq"', b'"\x1b[1;31mseq\x1b[m"'),
    "Docker's json-file": in_json,
    "journald's JSON": lambda line: b"17:00 " + in_json(line, "MESSAGE"),
    "JSON in JSON": lambda line: in_json(in_json(line), "message"),
    "text that is not UTF-8": lambda line: b"\xff\xfe" + line + b"\x80",
    "a BOM": lambda line: b"\xef\xbb\xbf" + line,
}


@pytest.mark.parametrize("dress", AROUND)
def test_what_stands_around_a_record_does_not_matter(lines: Lines, dress: str) -> None:
    assert problems_of([AROUND[dress](line) for line in lines]) == []


def test_several_records_may_share_a_line(lines: Lines) -> None:
    assert problems_of([b" ".join(lines)]) == []
    assert problems_of([b"".join(lines[:3]), b"\r".join(lines[3:])]) == []
    assert problems_of([in_json(b"\n".join(lines)) * 1]) == []


def test_the_text_of_a_record_is_hashed_as_it_was_written(lines: Lines) -> None:
    """So that white space inside of it, which JSON does not mind, is a change, and white space behind it is none."""
    records = [line for line in lines if line.startswith(MARKER.encode())]
    assert problems_of([line + b" \t" for line in records]) == []
    assert problems_of([line[:-1] + b" }" for line in records]) != []


ENCODED: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-8 after a BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-8, a BOM before each line": lambda text: b"".join(f"{x}\n".encode("utf-8-sig") for x in text.split("\n")),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big-endian": lambda text: f"\ufeff{text}".encode("utf-16-be"),
    "UTF-16, a BOM before each line": lambda text: ("\ufeff" + text.replace("\n", "\r\n\ufeff")).encode("utf-16-le"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip of UTF-16": lambda text: gzip.compress(text.encode("utf-16")),
    "gzip, a member for each line": lambda text: b"".join(gzip.compress(f"{x}\n".encode()) for x in text.split("\n")),
    "gzip, padded": lambda text: gzip.compress(text.encode()) + bytes(512),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_file_is_read_in_the_encodings_of_tee_and_of_archives(tmp_path: Path, lines: Lines, encoding: str) -> None:
    (run,) = read(ENCODED[encoding]((tmp_path / "accuracy.log").read_text()))
    assert (run.problems, len(run.events)) == ([], 5)


def by_docker(text: str, size: int) -> bytes:
    """As Docker's json-file keeps a container's output: of a line that is longer than its buffer several objects."""
    pieces = [line[at : at + size] for line in text.splitlines(True) for at in range(0, len(line), size)]
    return b"".join(
        json.dumps({"log": piece, "stream": "stdout", "time": "2026-01-01T00:00:00.1Z"}, separators=(",", ":")).encode()
        + b'\n{"log":"a warning\\n","stream":"stderr","time":"2026-01-01T00:00:00.2Z"}\n'
        for piece in pieces
    )


def by_cri(text: str, size: int) -> bytes:
    """As containerd and CRI-O keep it: a part is marked P, and the last or only one of a line F."""
    kept = ""
    for line in text.splitlines():
        pieces = [line[at : at + size] for at in range(0, len(line), size)] or [""]
        marks = ["P"] * (len(pieces) - 1) + ["F"]
        for mark, piece in zip(marks, pieces, strict=True):
            kept += f"2026-01-01T00:00:00.1+08:00 stdout {mark} {piece}\n"
            kept += "2026-01-01T00:00:00.2+08:00 stderr F a warning\n"
    return kept.encode()


@pytest.mark.parametrize("size", [20, 100, 16 * 1024])
@pytest.mark.parametrize("keep", [by_docker, by_cri])
def test_lines_that_a_container_s_runtime_has_cut_are_put_together(
    keep: Callable[[str, int], bytes], size: int, tmp_path: Path
) -> None:
    """Standard error's lines stand between their parts. A log that ends within a line is read as far as it goes."""
    with RunLog(tmp_path / "x.log", "accuracy_run.py", ["--image", *["a.jpg"] * 8000]) as log:
        log.line("a \\n and a \\\\" * 2000)
        log.record(example(Env))
        log.record(example(Accuracy))
    text = (tmp_path / "x.log").read_text()
    assert max(len(line) for line in text.splitlines() if MARKER in line) > 2 * 16 * 1024
    (plain,), (kept,) = read(text.encode()), read(keep(text, size))
    assert (kept.problems, kept.events) == ([], plain.events)
    assert [run.problems for run in read(keep(text + "@record", size))] == [[]]
    damaged = keep(text, size) + keep('@record {"run":\n', size)
    with pytest.raises(UnreadableRecordError, match=f"line {damaged.count(bytes([10])) - 1} holds"):
        read(damaged)


# A whole log, then a second that was killed: what hides the second must be refused, or the first would speak for both.
MIXTURES: dict[str, tuple[Callable[[str, str], bytes], str]] = {
    "UTF-16 behind UTF-8": (lambda a, b: a.encode() + b.encode("utf-16-le"), "NUL bytes"),
    "UTF-16 with a BOM behind UTF-8": (lambda a, b: a.encode() + b.encode("utf-16"), "NUL bytes"),
    "big-endian UTF-16 behind UTF-8": (lambda a, b: a.encode() + b.encode("utf-16-be"), "NUL bytes"),
    "UTF-16 in the middle": (lambda a, b: a.encode() + b.encode("utf-16") + b"\n" + a.encode(), "NUL bytes"),
    "UTF-16 without a BOM": (lambda a, b: (a + b).encode("utf-16-le"), "NUL bytes"),
    "UTF-32": (lambda a, b: (a + b).encode("utf-32"), "NUL bytes"),
    "UTF-32 behind UTF-16": (lambda a, b: a.encode("utf-16") + b.encode("utf-32-le"), "NUL bytes"),
    "UTF-8 behind UTF-16": (lambda a, b: a.encode("utf-16") + b.encode(), "UTF-16|encoding"),
    "UTF-8 behind UTF-16, shifted": (lambda a, b: a.encode("utf-16") + b" " + b.encode(), "UTF-16|encoding"),
    "UTF-8 in the middle": (lambda a, b: a.encode("utf-16") + b.encode() + a.encode("utf-16-le"), "UTF-16|encoding"),
    "UTF-8 behind big-endian UTF-16": (
        lambda a, b: b"\xfe\xff" + a.encode("utf-16-be") + b.encode(), "UTF-16|encoding"),
    "UTF-16 of the other byte order": (lambda a, b: a.encode("utf-16") + b.encode("utf-16-be"), "another encoding"),
    "UTF-16, shifted": (lambda a, b: a.encode("utf-16") + b" " + b.encode("utf-16-le") + b" ", "another encoding"),
    "a hole": (lambda a, b: a.encode() + bytes(4096) + b.encode()[4096:], "NUL bytes"),
    "gzip behind text": (lambda a, b: a.encode() + gzip.compress(b.encode(), 9), "compressed|NUL bytes"),
    "gzip without NULs behind text": (lambda a, b: a.encode() + b"\x1f\x8b\x08\x08abcd\x02\x03x", "compressed"),
    "text behind gzip": (lambda a, b: gzip.compress(a.encode()) + b.encode(), "gzip is cut or damaged"),
    "gzip that is cut": (lambda a, b: gzip.compress((a + b).encode())[:-9], "gzip is cut or damaged"),
    "gzip that is damaged": (lambda a, b: gzip.compress(a.encode())[:-8] + bytes(8), "gzip is cut or damaged"),
    "bzip2": (lambda a, b: bz2.compress(b.encode()), "compressed by bzip2"),
    "xz": (lambda a, b: lzma.compress(b.encode()), "compressed by xz"),
    "UTF-16 in gzip": (lambda a, b: gzip.compress(a.encode() + b.encode("utf-16-le")), "NUL bytes"),
}  # fmt: skip


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_part_that_can_t_be_read_is_refused_and_named(tmp_path: Path, mixture: str) -> None:
    for name in "ab":
        write_log(tmp_path / f"{name}.log")
    mix, reason = MIXTURES[mixture]
    whole, killed = (tmp_path / "a.log").read_text(), (tmp_path / "b.log").read_text().rpartition("@record")[0]
    assert [bool(run.problems) for run in read((whole + killed).encode())] == [False, True]
    with pytest.raises(UnreadableRecordError, match=reason):
        read(mix(whole, killed))


def test_text_in_utf_16_that_only_looks_odd_is_read(tmp_path: Path, lines: Lines) -> None:
    text = (tmp_path / "accuracy.log").read_text()
    for odd in ("模型, 视觉编码器\n", "\U0001f600 \ufeff naïve\n", "\u4000\u7200\u6500\n"):
        assert [run.problems for run in read((odd + text + odd).encode("utf-16"))] == [[]]


# ------------------------------------------------------------------------------------------------ damaged records
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
    "a second record that is cut": b'{"run":"a","seq":0,"event":"x"} @record {"run":"a","seq":1,"ev',
    "a second record in the midst of it": b'{"run":"a","seq":0,"ev@record {"run":"a","seq":1,"event":"x"}',
    "a progress bar in the midst of it": b'{"run":"a","seq":0,"ev\r 50%|#####     | 4/8\rent":"x"}',
    "quoted, and cut": rb'{\"run\":\"a\",\"seq\":0,\"event\":\"x\"}',
    "quoted, and damaged": rb'{\"run\":\"a\",\"seq\":0,\"ev"',
    "quotes of HTML": b'{&quot;run&quot;:&quot;a&quot;}',
    "an array": b'["run","seq","event"]',
    "a string": b'"run"',
    "deep nesting": b'{"run":"a","seq":0,"event":"x","v":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a level too deep": b'{"run":"a","seq":0,"event":"x","v":' + b"[" * 16 + b"]" * 16 + b"}",
    "UTF-8": '{"run":"a","seq":0,"event":"x","image":"naïve.jpg"}'.encode(),
    "not even UTF-8": b'{"run":"a","seq":0,"event":"x","image":"\xff"}',
    "a control character": b'{"run":"a","seq":0,"event":"x","image":"\x07"}',
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


SOUND = {
    "a large number": b'{"run":"a","seq":0,"event":"x","v":1.5e300}',
    "as deep as may be": b'{"run":"a","seq":0,"event":"x","v":' + b"[" * 15 + b"]" * 15 + b',"w":[]}',
    "many lists, but not deep": b'{"run":"a","seq":0,"event":"x","v":[' + b"[]," * 50 + b"[]]}",
    "text behind it": '{"run":"a","seq":0,"event":"x"}\r 50%|█████     |'.encode(),
    "the quote of a text behind it": b'{"run":"a","seq":0,"event":"x"}", file=log',
    "brackets in a text": b'{"run":"a","seq":0,"event":"x","v":"' + b"[" * 50 + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("record", SOUND)
def test_a_sound_record_of_the_same_shape_is_not_refused(record: str) -> None:
    assert len(list(read_runs([MARKER.encode() + SOUND[record]]))) == 1


# ------------------------------------------------------------------------------------------------- bounded memory
def test_a_record_that_takes_too_much_memory_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_MEMORY", 1000)
    monkeypatch.setattr(framing.DECODER, "raw_decode", lambda *_: pytest.fail("it was parsed"))
    record = b'{"run":"a","seq":0,"event":"x","v":[[],[],[]]}'
    with pytest.raises(UnreadableRecordError, match=r"^line 1: more records or runs than can be judged at once$"):
        list(read_runs([MARKER.encode() + record]))


def test_records_that_take_too_much_memory_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    record = MARKER.encode() + b'{"run":"a","seq":0,"event":"x"}'
    monkeypatch.setattr(reader, "MOST_MEMORY", 1000)
    assert len(list(read_runs([record] * 2))) == 1
    with pytest.raises(UnreadableRecordError, match=r"^line 3: more records or runs than can be judged at once$"):
        list(read_runs([record] * 3))


def test_more_runs_than_can_be_judged_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_RUNS", 3)
    records = [MARKER.encode() + b'{"run":"%d","seq":0,"event":"x"}' % number for number in range(10)]
    assert len(list(read_runs(records[:3]))) == 3
    with pytest.raises(UnreadableRecordError, match=r"^line \d: more records or runs than can be judged at once$"):
        list(read_runs(records))


def read(content: bytes) -> list[Run]:
    """The runs in a file of these bytes."""
    with io.BufferedReader(io.BytesIO(content)) as file:  # type: ignore[arg-type]
        return list(read_runs(lines_of(file)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_line_that_is_too_long_is_refused_and_never_held(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "LONGEST_LINE", 100)
    assert read(("x" * 90 + "\n").encode(encoding)) == []
    with pytest.raises(UnreadableRecordError, match=r"^line 2 is longer than 100 bytes$"):
        read(("\n" + "x" * 10_000).encode(encoding))
    with pytest.raises(UnreadableRecordError, match=r"^line 2 is longer than 100 bytes$"):
        read(gzip.compress(("\n" + "x" * 10_000).encode(encoding)))


def test_a_small_file_that_unpacks_to_a_large_one_takes_little_memory() -> None:
    bomb = gzip.compress((b"x" * MIB + b"\n") * 32)
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        assert read(bomb) == []
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_a_value_of_any_length_is_a_short_problem(lines: Lines) -> None:
    records = records_in(lines)
    records[2]["nmse"] = "x" * 100_000
    records[2]["y" * 100_000] = 1
    assert max(map(len, problems_of(signed(records)))) < 200
    del records[2]["y" * 100_000]
    assert max(map(len, problems_of(signed(records)))) < 200
    records[2]["event"] = "z" * 100_000
    assert max(map(len, problems_of(signed(records)))) < 200
