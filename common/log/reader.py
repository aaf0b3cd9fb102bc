"""Reading logs: records as typed events, run by run, and what keeps a run from being whole. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from common.log import schema
from common.log.events import DECLARED, SCRIPTS, Event, RunEnd, RunStart
from common.log.framing import FORMAT, MARKER, MOST_MEMORY, Digest, Record, memory, record_at
from common.log.lines import WORD, UnreadableRecordError

MOST_RUNS = 1000  # in a log
COLOUR = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")  # a terminal's control sequences
QUOTED = re.compile(r'(?:[^"\\]++|\\.)*+')  # the rest of a text in JSON, up to its quote

COMPACT = {name for name, declaration in DECLARED.items() if declaration.compact}

E = TypeVar("E", bound=Event)


class UnjudgeableError(Exception):
    """A run lacks what is asked of it."""


@dataclass
class Run:
    """The events of one run, what is wrong with them as evidence (empty when whole), and the log that held them.

    Of a run of another script, or in another format, there are no events.
    """

    id: str
    script: str = "run"
    events: list[Event] = field(default_factory=list)
    count: int = 0  # of records
    problems: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def start(self) -> RunStart:
        return self.one(RunStart)

    @property
    def end(self) -> RunEnd | None:
        return next(iter(self.all(RunEnd)), None)

    def all(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[E]) -> E:
        """The only event of this kind. Raises UnjudgeableError for none, or several."""
        found = self.all(kind)
        if len(found) != 1:
            raise UnjudgeableError(f"{len(found)} {kind.event} records, not 1")
        return found[0]


class TooMuchError(Exception):
    """Records that would take more memory than a log may."""


def read_runs(lines: Iterable[bytes]) -> Iterator[Run]:
    """Group the records in `lines` by run, in order of appearance, and check that each run is whole.

    A file may hold several runs, CRLF line ends, and other text between records and around each.
    Raises UnreadableRecordError for a damaged record: which run it belonged to can't be known; and for more records
    than any run writes, so that memory is bounded.
    """
    found: dict[str, _Gathering] = {}
    left = MOST_MEMORY
    for number, line in enumerate(lines, start=1):
        if b"\x1b" in line:  # which no record holds: the colours of what grep found stand in the midst of one
            line = COLOUR.sub(b"", line)
        if WORD not in line:
            continue
        try:
            for record, text in records_in(line, left):
                left -= memory(text, record["event"] in COMPACT)
                found.setdefault(record["run"], _Gathering(record["run"])).add(record, text.encode())
                if left < 0 or len(found) > MOST_RUNS:
                    raise TooMuchError
        except TooMuchError:
            raise UnreadableRecordError(f"line {number}: more records or runs than can be judged at once") from None
        except (ValueError, RecursionError) as error:
            raise UnreadableRecordError(f"line {number} holds a damaged record: {error}") from None
    for gathering in found.values():
        yield gathering.finished()


def records_in(line: bytes, most_memory: int) -> Iterator[tuple[Record, str]]:
    """The records of a line, each with its text as it was written, whatever stands before and behind it.

    Raises ValueError, or RecursionError, for a damaged record, and TooMuchError where they may take more memory.
    """
    text = line.decode("latin-1")
    start = text.find(MARKER)
    if start < 0:
        return
    if memory(text[start:]) > most_memory:
        raise TooMuchError
    yield from _records_of(text)


def _records_of(text: str) -> Iterator[tuple[Record, str]]:
    """The records in a text; of a line that some JSON quotes, as Docker's json-file does, what it quotes."""
    at = text.find(MARKER)
    while at >= 0:
        start = at + len(MARKER)
        if text.startswith("{\\", start):
            end = QUOTED.match(text, start).end()  # type: ignore[union-attr]  # which matches nothing, too
            if text[end : end + 1] != '"':
                raise ValueError("quoted, without an end")
            yield from _records_of(MARKER + json.loads(f'"{text[start:end]}"'))
        else:
            record, end = record_at(text, start)
            yield record, text[start:end]
        at = text.find(MARKER, end)


class _Gathering:
    """One run while its records come in."""

    def __init__(self, identity: str) -> None:
        self.run = Run(identity)
        self.digest = Digest()
        self.faults: list[str] = []
        self.in_order = True
        self.split = False  # by a start or an end in the middle of it
        self.last: Record = {}

    def add(self, record: Record, text: bytes) -> None:
        name, seq, place = record["event"], record["seq"], self.run.count
        self.in_order &= seq == place
        self.split |= place > 1 and self.last["event"] in (RunStart.event, RunEnd.event)
        self.digest.add(text)
        self.run.count += 1
        self.last = record
        if place == 0:
            self._begin(name, record)
        if self.run.script in SCRIPTS and not self.faults:
            self._take(name, {key: value for key, value in record.items() if key not in ("run", "seq", "event")}, seq)

    def _begin(self, name: str, record: Record) -> None:
        if name != RunStart.event:
            self.faults.append("its run_start is missing")
            return
        self.run.script = str(record.get("script"))
        if type(record.get("format")) is not int or record["format"] != FORMAT:
            self.faults.append(f"format {record.get('format')!r} is not the format {FORMAT} that this program reads")

    def _take(self, name: str, fields: Record, seq: int) -> None:
        """Add the event that a record is, or note what is wrong with it."""
        declaration = DECLARED.get(name)
        if declaration is None or self.run.script not in declaration.scripts:
            self.faults.append(f"record {seq}: {self.run.script} writes no {name!r:.40} record")
            return
        try:
            if "nonfinite" not in schema.keys(declaration):  # how many numbers the writer had to replace by null
                schema.exactly(int, fields.pop("nonfinite", 0), "nonfinite")
            self.run.events.append(schema.decode(declaration, fields))
        except schema.MisfitError as error:
            self.faults.append(f"record {seq}, {name}: {error}")

    def finished(self) -> Run:
        self.run.problems = [*self.faults, *self._integrity_problems()]
        return self.run

    def _integrity_problems(self) -> Iterator[str]:
        """What makes these records less than one whole, complete run."""
        if self.split:
            yield "a run starts or ends in the middle of it"
        if not self.in_order:
            yield "records are missing, doubled or out of order"
        end, before = self.last, self.run.count - 1
        if end["event"] != RunEnd.event:
            yield "incomplete: no run_end"
            return
        if end.get("records") != before:
            yield f"run_end counts {end.get('records')!r} records before it, found {before}"
        elif end.get("records_sha256") != self.digest.before_last:
            yield "records_sha256 does not fit: records were changed"
        if end.get("status") != "complete":
            yield f"the run ended with status {end.get('status')!r}: {end.get('error', 'no reason given')}"
