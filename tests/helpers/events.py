"""Events for tests: plain ones, of which a test names the fields that it is about, and seeded ones of any kind."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from helpers.logs import MARKER

from common.log.events import Accuracy, Env, Metrics, Plan, Sample
from common.log.reader import Run, read_runs
from common.log.schema import Integers, Member, Numbers, decode, keys, members
from common.log.writer import RunLog

T = TypeVar("T")
Fields = dict[str, Any]

PLAIN: dict[Any, Any] = {int: 1, float: 1.0, str: "x", bool: False}
# The metrics of a sample with an error of 0.1 %.
SMALL_ERROR: dict[str, float | None] = {
    "max_abs_error": 0.01,
    "mean_abs_error": 0.001,
    "relative_error": 0.001,
    "relative_l2": 0.001,
    "nmse": 1e-6,
    "one_minus_cosine": 5e-7,
    "cosine_similarity": 0.9999995,
    "sqnr_db": 60.0,
    "top5_match": 0.8,
    "top1_gap": 0.0,
}


def example(declaration: type[T], **given: Any) -> T:
    """A valid instance. Fields are given by their key in the log, also those of groups; nested ones as in the log.

    The others are null where they may be, and plain values elsewhere; what may be missing is left out.
    """
    return decode(declaration, {**_plainest(declaration, given), **given})


def _plainest(declaration: Any, given: Fields) -> Fields:
    found: Fields = {}
    for member in members(declaration):
        if member.flat:
            if not member.omittable or keys(member.kind) & given.keys():
                found |= _plainest(member.kind, given)
        elif not member.omittable:
            found[member.key] = None if is_nullable(member) else _plain_value(member)
    return found


def is_nullable(member: Member) -> bool:
    return type(None) in member.plain


def _plain_value(member: Member) -> Any:
    kind = member.kind
    if member.one_of:
        return member.one_of.choices[0]
    if is_dataclass(kind):
        return _plainest(kind, {})
    if kind in (Numbers, Integers):
        return []
    return PLAIN[kind] if kind in PLAIN else get_origin(kind)()


def metrics(**changes: float | None) -> Metrics:
    return Metrics(**{**SMALL_ERROR, **changes})


# --------------------------------------------------------------------------------------------------- seeded ones
def seeded(declaration: Any, chooser: random.Random, share: float = 0.5) -> Fields:
    """The JSON object of an instance with any values; `share` of what may be missing, null or empty is there."""
    found: Fields = {}
    for member in members(declaration):
        if member.omittable and chooser.random() >= share:
            continue
        if member.flat:
            found |= seeded(member.kind, chooser, share)
        elif is_nullable(member) and chooser.random() >= share:
            found[member.key] = None
        elif member.one_of:
            found[member.key] = chooser.choice(member.one_of.choices)
        else:
            found[member.key] = _any(member.kind, chooser, share)
    return found


def _any(kind: Any, chooser: random.Random, share: float) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return seeded(kind, chooser, share)
    if origin is list:
        return [_any(arguments[0], chooser, share) for _ in range(chooser.randrange(share == 1, 4))]
    if origin is dict:
        return {_text(chooser): _any(arguments[1], chooser, share) for _ in range(chooser.randrange(share == 1, 4))}
    if kind in (Numbers, Integers):
        item = float if kind is Numbers else int
        return [_any(item, chooser, share) for _ in range(chooser.randrange(share == 1, 4))]
    if arguments:  # X | None
        return _any(arguments[0], chooser, share) if chooser.random() < share else None
    return {
        int: chooser.choice([0, 1, -1, 2**62, chooser.randrange(10**6)]),
        float: chooser.choice([0.0, -0.0, 1e-300, 1e300, chooser.gauss(0, 1), 1 / 3]),
        str: _text(chooser),
        bool: chooser.random() < 0.5,
        Any: chooser.choice([None, True, 5, 0.5, "text", [1, {"a": None}], {"a": [0.25]}]),
    }[kind]


def _text(chooser: random.Random) -> str:
    return "".join(chooser.choice('ab /.:+é图\u2028\x1b\udcff"\\@') for _ in range(chooser.randrange(12)))


# ---------------------------------------------------------------------------------------------------- whole runs
Lines = list[bytes]


def write_log(path: Path, fail: BaseException | None = None) -> Lines:
    """Write a whole run of five records, or one that `fail` ended, and give its lines without their ends."""
    expected = () if fail is None else (type(fail),)
    plan = Plan(batch_sizes=[1, 4], ranks=2)
    with suppress(*expected), RunLog(path, "accuracy_run.py", ["--device", "cpu"], plan) as log:
        log.line("relative_error: 1.3408%")
        log.record(example(Env, device="cpu", cpu_threads=8))
        log.record(example(Sample, image="naïve.jpg", relative_error=0.013408))
        log.record(example(Accuracy, result="PASS", samples=1))
        if fail:
            raise fail
    return path.read_bytes().splitlines()


def records_in(lines: Lines) -> list[Fields]:
    return [json.loads(line.partition(MARKER.encode())[2]) for line in lines if MARKER.encode() in line]


def read_one(lines: Lines) -> Run:
    (run,) = read_runs(lines)
    return run


def read_log(path: Path) -> Run:
    """The only run in a log."""
    return read_one(path.read_bytes().splitlines())
