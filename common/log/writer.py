"""Writing a run's log: its records and its lines for people. Standard library only."""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from common.log import schema
from common.log.events import Event, Plan, RunEnd, RunStart
from common.log.framing import FORMAT, MARKER, Digest, parse_record, printable, record_text

ROOT = Path(__file__).parents[2]  # of the repository
TAIL_BYTES = 65536  # enough to hold the run_end of a log


class RunLog:
    """Write one run's log to a file and to standard output (a terminal is spared the records).

    As a context manager it closes the log: status "complete", or "error" when an exception leaves the block.
    A log found at `path` is set aside first, so that earlier evidence never answers for this run.
    """

    def __init__(self, path: Path, script: str, argv: Sequence[str], plan: Plan | None = None) -> None:
        """`plan` is a performance run's. Raises OSError when the folder can't be written."""
        self.folder = path.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        set_aside(path)
        self.run = secrets.token_hex(8)
        self._seq = 0
        self._digest = Digest()
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        self.record(
            RunStart(
                format=FORMAT,
                script=script,
                argv=[_basename(argument) for argument in argv],
                utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                code_sha256=code_sha256(),
                git=git_commit(),
                plan=plan,
            )
        )

    def line(self, text: str = "") -> None:
        """Write one line for people. Control characters and the record marker are escaped."""
        self._write(printable(text), sys.stdout)

    def record(self, event: Event) -> None:
        """Write one record. A NaN or infinity becomes null, counted in the field `nonfinite`."""
        fields, nonfinite = _replace_nonfinite(schema.encode(event))
        if nonfinite and not fields.get("nonfinite"):
            fields["nonfinite"] = nonfinite
        text = record_text({"run": self.run, "seq": self._seq, "event": event.event, **fields})
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
                with _beside_progress_bars():
                    copy.write(text + "\n")
                    copy.flush()
            except BrokenPipeError:  # whoever read along has left; the run goes on, into its file
                silence(copy)
            except OSError as error:
                raise OSError(error.errno, f"standard output can't be written: {error.strerror}") from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status, reason = ("complete", None) if error is None else ("error", f"{type(error).__name__}: {error}")
        records_sha256 = self._digest.hexdigest()
        try:
            self.record(RunEnd(records=self._seq, records_sha256=records_sha256, status=status, error=reason))
            self._file.close()
        except OSError:
            with suppress(OSError):  # what could not be written is tried again, and lost
                self._file.close()
            if error is None:
                raise


def silence(stream: TextIO) -> None:
    """From now on what is written to it goes nowhere: whoever read along has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _beside_progress_bars() -> AbstractContextManager[Any]:
    """tqdm's bars, where there are any, are not on the line that is written."""
    tqdm: Any = sys.modules.get("tqdm")
    found: AbstractContextManager[Any] = tqdm.tqdm.external_write_mode() if tqdm else nullcontext()
    return found


class NoLog(RunLog):
    """The log of a rank that writes none: the first rank writes it for all."""

    def __init__(self) -> None:
        pass

    def _write(self, text: str, copy: TextIO | None) -> None:
        pass

    def record(self, event: Event) -> None:
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


def is_of(start: RunStart, script: str, argv: Sequence[str]) -> bool:
    """Whether a run began with this command, --log-dir and --skip-complete aside, by the code that is here now.

    What was no path when the run began may be one since: its own output.
    """
    recorded, now = _without_place(start.argv), _without_place(argv)
    same = len(recorded) == len(now) and all(
        was in (given, _basename(given)) for was, given in zip(recorded, now, strict=True)
    )
    return same and start.script == script and start.code_sha256 == code_sha256()


def _without_place(argv: Sequence[str]) -> list[str]:
    """A command line without what says where the log goes, and whether a whole one is left there."""
    kept, place = [], False
    for argument in argv:
        if not place and argument != "--skip-complete" and argument.partition("=")[0] != "--log-dir":
            kept.append(argument)
        place = argument == "--log-dir"
    return kept


def _ends_complete(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        last_line = file.read().rstrip().rpartition(b"\n")[2]
    try:
        record = parse_record(last_line.partition(MARKER.encode())[2])
    except (ValueError, RecursionError):
        return False
    return record["event"] == "run_end" and record.get("status") == "complete"


def code_sha256() -> str:
    """SHA-256 over the names and bytes of the scripts and of all that `common` holds: which code made this log."""
    return sha256_of(code_files())


def code_files() -> dict[str, bytes]:
    """The scripts and all that `common` holds, by their names from the folder of the scripts."""
    ours = [*ROOT.glob("*.py"), *(path for path in (ROOT / "common").rglob("*") if "__pycache__" not in path.parts)]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sorted(ours) if path.is_file()}


def sha256_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(name.encode() + b"\0" + content + b"\0")
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
