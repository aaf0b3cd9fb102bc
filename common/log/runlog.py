"""The log: its format, its writer and its reader. Standard library only.

A log has two kinds of lines, made from the same data. People read and grep the first; the checker trusts only the
second:

    relative_error: 1.3408%
    @record {"run":"9c1e5b0d","seq":4,"event":"accuracy","output":"embedding","relative_error":0.013408}

A record is one ASCII JSON object after the marker, which may stand anywhere in a line. Every record has `run` (a
random id), `seq` (0, 1, 2, ...) and `event`. The first is `run_start`, the last `run_end`, which holds how many
records precede it, the SHA-256 of their JSON texts as written (each followed by a newline) and the status. A log
without its `run_end` is incomplete. The hash finds cuts and accidental edits; it does not prove who wrote the log.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]  # of the repository
FORMAT = 1
MARKER = "@record "
INT_DIGITS = 19  # of 64 bits
RUN_END_FIELDS = {"run", "seq", "event", "records", "records_sha256", "status", "error"}
LONGEST_LINE = 16 * 1024 * 1024  # bytes: a reader holds a line at a time
DEEPEST = 16  # levels of lists and objects in a record
MOST_RUNS = 1000  # in a log
MOST_MEMORY = 192 * 1024 * 1024  # bytes that the records of a log may take, as `_memory` estimates them
TAIL_BYTES = 65536  # enough to hold the run_end of a log

Record = dict[str, Any]


class Digest:
    """SHA-256 over the JSON texts of records, each followed by a newline."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.before_last = ""  # of all records but the last one added: what a run_end has to hold

    def add(self, text: bytes) -> None:
        self.before_last = self._hash.hexdigest()
        self._hash.update(text + b"\n")

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


# ---------------------------------------------------------------------------------------------------- the writer
class RunLog:
    """Write one run's log to a file and to standard output (a terminal is spared the records).

    As a context manager it closes the log: status "complete", or "error" when an exception leaves the block.
    A log found at `path` is set aside first, so that earlier evidence never answers for this run.
    """

    def __init__(self, path: Path, script: str, argv: Sequence[str], **start: Any) -> None:
        """`start` adds fields to the `run_start` record. Raises OSError when the folder can't be written."""
        self.folder = path.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        set_aside(path)
        self.run = secrets.token_hex(8)
        self._seq = 0
        self._digest = Digest()
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        self.record(
            "run_start",
            format=FORMAT,
            script=script,
            argv=[_basename(argument) for argument in argv],
            utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            code_sha256=code_sha256(),
            git=git_commit(),
            **start,
        )

    def line(self, text: str = "") -> None:
        """Write one line for people. Control characters and the record marker are escaped."""
        self._write(printable(text), sys.stdout)

    def record(self, event: str, **fields: Any) -> None:
        """Write one record. A NaN or infinity becomes null, counted in the field `nonfinite`."""
        fields, nonfinite = _replace_nonfinite(fields)
        if nonfinite and not fields.get("nonfinite"):
            fields["nonfinite"] = nonfinite
        text = json.dumps(
            {"run": self.run, "seq": self._seq, "event": event, **fields}, allow_nan=False, separators=(",", ":")
        )
        self._seq += 1
        self._digest.add(text.encode())
        self._write(MARKER + text, None if sys.stdout.isatty() else sys.stdout)

    def _write(self, text: str, copy: TextIO | None) -> None:
        try:
            self._file.write(text + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, f"the log can't be written: {error.strerror}", self._file.name) from error
        if copy is not None:
            try:
                copy.write(text + "\n")
                copy.flush()
            except BrokenPipeError:  # whoever read along has left; the run goes on, into its file
                os.dup2(os.open(os.devnull, os.O_WRONLY), copy.fileno())
            except OSError as error:
                raise OSError(error.errno, f"standard output can't be written: {error.strerror}") from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Record = {"status": "complete"}
        if error is not None:
            outcome = {"status": "error", "error": f"{type(error).__name__}: {error}"}
        try:
            self.record("run_end", records=self._seq, records_sha256=self._digest.hexdigest(), **outcome)
            self._file.close()
        except OSError:
            with suppress(OSError):  # what could not be written is tried again, and lost
                self._file.close()
            if error is None:
                raise


class NoLog(RunLog):
    """The log of a rank that writes none: the first rank writes it for all."""

    def __init__(self) -> None:
        pass

    def _write(self, text: str, copy: TextIO | None) -> None:
        pass

    def record(self, event: str, **fields: Any) -> None:
        pass

    def __exit__(self, *leaving: object) -> None:
        pass


def set_aside(path: Path) -> None:
    """Rename the log at `path` to `*.prev.log`, unless it is incomplete and would replace a complete one."""
    previous = path.with_suffix(".prev.log")
    if not path.is_file():
        return
    if previous.is_file() and _ends_complete(previous) and not _ends_complete(path):
        path.unlink()
    else:
        path.replace(previous)


def _ends_complete(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        last_line = file.read().rstrip().rpartition(b"\n")[2]
    try:
        record = _parse_record(last_line.partition(MARKER.encode())[2])
    except (ValueError, RecursionError):
        return False
    return record["event"] == "run_end" and record.get("status") == "complete"


def printable(text: str) -> str:
    """`text` on one line: control and invisible characters escaped, and no record marker that we did not write."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped.replace(MARKER.strip(), "\\x40record")


def code_sha256() -> str:
    """SHA-256 over the names and bytes of the scripts and of all that `common` holds: which code made this log."""
    digest = hashlib.sha256()
    ours = [*ROOT.glob("*.py"), *(path for path in (ROOT / "common").rglob("*") if "__pycache__" not in path.parts)]
    for path in sorted(path for path in ours if path.is_file()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def git_commit() -> str | None:
    """The commit that is checked out, with `+dirty` after local changes; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _basename(argument: str) -> str:
    """An argument without the folders of a path: a log says what was run, not where somebody's home is."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(value)
    is_path = path.is_absolute() or value.startswith((".", "~")) or os.path.exists(value)  # noqa: PTH110  (Path.exists raises for a long text)
    return flag + equals + (path.name or value if is_path else value)


def _replace_nonfinite(value: Any) -> tuple[Any, int]:
    """`value` with None for each NaN or infinity in it, and how many there were."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    if isinstance(value, dict):
        replaced = {key: _replace_nonfinite(item) for key, item in value.items()}
        return {key: item for key, (item, _) in replaced.items()}, sum(count for _, count in replaced.values())
    if isinstance(value, (list, tuple)):
        items = [_replace_nonfinite(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    return value, 0


# ---------------------------------------------------------------------------------------------------- the reader
@dataclass
class Run:
    """The records of one run, what is wrong with them as evidence (empty when whole), and the log that held them."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def start(self) -> Record:
        return self.records[0]

    def events(self, event: str) -> list[Record]:
        return [record for record in self.records if record["event"] == event]


class UnreadableRecordError(ValueError):
    """A line with the record marker that holds no valid record, or more than a log can hold."""


def lines_of(file: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a log, none longer than a byte more than a line may be; PowerShell's `tee` writes UTF-16, which its
    byte order mark shows.
    """
    if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = io.TextIOWrapper(file, "utf-16", errors="replace")
        return (line.encode() for line in iter(lambda: text.readline(LONGEST_LINE + 1), ""))
    return iter(lambda: file.readline(LONGEST_LINE + 1), b"")


def read_runs(lines: Iterable[bytes]) -> Iterator[Run]:
    """Group the records in `lines` by run, in order of appearance, and check that each run is whole.

    A file may hold several runs, other text between them, CRLF line ends, and text before a marker.
    Raises UnreadableRecordError for a damaged record: which run it belonged to can't be known; and for lines and
    records that are more than any run writes, so that memory is bounded.
    """
    runs: dict[str, Run] = {}
    digests: dict[str, Digest] = {}
    memory = 0
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise UnreadableRecordError(f"line {number} is longer than {LONGEST_LINE} bytes")
        _, marker, text = line.partition(MARKER.encode())
        if not marker:
            continue
        text = text.rstrip()
        try:
            record = _parse_record(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableRecordError(f"line {number} holds a damaged record: {error}") from None
        memory += _memory(text)
        if memory > MOST_MEMORY or len(runs) > MOST_RUNS:
            raise UnreadableRecordError(f"line {number}: more records or runs than can be judged at once")
        runs.setdefault(record["run"], Run()).records.append(record)
        digests.setdefault(record["run"], Digest()).add(text)
    for identity, run in runs.items():
        run.problems = list(_integrity_problems(run.records, digests[identity].before_last))
        yield run


def _memory(text: bytes) -> int:
    """About how many bytes a record's values take: those of its text, its objects and lists, and its items."""
    return len(text) + 300 * (text.count(b"{") + text.count(b"[")) + 40 * text.count(b",")


def _parse_record(text: bytes) -> Record:
    if _memory(text) > MOST_MEMORY:
        raise ValueError("too large")
    record = json.loads(
        text.decode("ascii"),
        object_pairs_hook=_unique_keys,
        parse_constant=_refuse_constant,
        parse_float=_finite_float,
        parse_int=_bounded_int,
    )
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if not (isinstance(record.get("run"), str) and isinstance(record.get("event"), str)):
        raise ValueError("run or event is missing")
    if type(record.get("seq")) is not int:
        raise ValueError("seq is no integer")
    _require_shallow(record, DEEPEST)
    return record


def _require_shallow(value: Any, levels: int) -> None:
    """Raise ValueError for more levels of lists and objects than this: to print or compare them would be too deep."""
    if levels == 0:
        raise ValueError("nested too deeply")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _require_shallow(item, levels - 1)


def _unique_keys(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond a float")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > INT_DIGITS:
        raise ValueError(f"{text[:20]} is beyond any count")
    return int(text)


def _integrity_problems(records: list[Record], digest: str) -> Iterator[str]:
    """What makes these records less than one whole, complete run; `digest` is of all texts but the last."""
    first, last = records[0], records[-1]
    if first["event"] != "run_start":
        yield "its run_start is missing"
    elif type(first.get("format")) is not int or first["format"] != FORMAT:
        yield f"format {first.get('format')!r} is not the format {FORMAT} that this program reads"
    if any(record["event"] in ("run_start", "run_end") for record in records[1:-1]):
        yield "a run starts or ends in the middle of it"
    if [record["seq"] for record in records] != list(range(len(records))):
        yield "records are missing, doubled or out of order"
    if last["event"] != "run_end":
        yield "incomplete: no run_end"
        return
    if not set(last) <= RUN_END_FIELDS:
        yield "run_end, which no hash covers, holds more than it should"
    if last.get("records") != len(records) - 1:
        yield f"run_end counts {last.get('records')!r} records before it, found {len(records) - 1}"
    elif last.get("records_sha256") != digest:
        yield "records_sha256 does not fit: records were changed"
    if last.get("status") != "complete":
        yield f"the run ended with status {last.get('status')!r}: {last.get('error', 'no reason given')}"
