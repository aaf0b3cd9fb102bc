"""The frame of a log: its marker, and what a record is as text. Standard library only.

A log has two kinds of lines, made from the same data. People read and grep the first; the checker trusts only the
second:

    embedding relative_error: 1.3408%
    @record {"run":"9c1e5b0d","seq":4,"event":"accuracy","output":"embedding","relative\\u005ferror":0.013408}

A record is one ASCII JSON object after the marker, which may stand anywhere in a line; anything may stand behind the
object, another record too. An underscore in a key is written as JSON's escape, which every JSON parser reads as an
underscore: `grep relative_error` finds the lines for people and no record.

Every record has `run` (a random id), `seq` (0, 1, 2, ...) and `event`. The first is `run_start`, the last `run_end`,
which holds how many records precede it, the SHA-256 of their JSON texts as written (each followed by a newline) and the
status. A log without its `run_end` is incomplete. The hash finds cuts and accidental edits; it does not prove who wrote
the log.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

FORMAT = 1
MARKER = "@record "
INT_DIGITS = 19  # of 64 bits
DEEPEST = 16  # levels of lists and objects in a record
MOST_MEMORY = 256 * 1024 * 1024  # bytes that the records of a log may take, as `memory` estimates them
KEY = re.compile(r'"\w+":')  # a colon follows no other quote

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


def printable(text: str) -> str:
    """`text` on one line: control and invisible characters escaped, and no record marker that we did not write."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped.replace(MARKER.strip(), "\\x40record")


def record_text(record: Record, allow_nan: bool = False) -> str:
    """A record as it stands in a log. Raises ValueError for a NaN or infinity, which no run writes."""
    text = json.dumps(record, allow_nan=allow_nan, separators=(",", ":"))
    return KEY.sub(lambda key: key[0].replace("_", r"\u005f"), text)


def memory(text: str, compact: bool = False) -> int:
    """About how many bytes a record's values take: those of its text, its objects and lists, and its items.

    Those of a `compact` event are arrays once it is read: 8 bytes for each number, which has two characters at least.
    """
    if compact:
        return len(text) + 6 * text.count(",")
    return len(text) + 300 * (text.count("{") + text.count("[")) + 40 * text.count(",")


def parse_record(text: bytes) -> Record:
    """The record that the text behind a marker begins with."""
    return record_at(text.decode("latin-1"), 0)[0]


def record_at(line: str, start: int) -> tuple[Record, int]:
    """The record in a line from `start`, and where its text ends: anything may stand behind it.

    Raises ValueError, or RecursionError, where there is none.
    """
    record, end = DECODER.raw_decode(line, start)
    text = line[start:end]
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if not text.isascii():
        raise ValueError("not ASCII")
    if not (isinstance(record.get("run"), str) and isinstance(record.get("event"), str)):
        raise ValueError("run or event is missing")
    if type(record.get("seq")) is not int:
        raise ValueError("seq is no integer")
    if text.count("{") + text.count("[") > DEEPEST:
        _require_shallow(record, DEEPEST)
    return record, end


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


DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
    parse_int=_bounded_int,
)
