"""The declarations: every event comes back as it was written, and a record that is not what is declared is refused."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from conftest import ROOT
from helpers.events import example, is_nullable, read_log, seeded
from helpers.logs import find, read_records, sign, write_records

from common.log.events import (
    ACCURACY,
    DECLARED,
    INFERENCE,
    PERF,
    SCRIPTS,
    Event,
    Inference,
    NoiseFloor,
    Perf,
    RunEnd,
    RunStart,
    Sample,
    declare,
)
from common.log.schema import (
    FLAT,
    OPTIONAL,
    Integers,
    Member,
    MisfitError,
    Numbers,
    OneOf,
    decode,
    encode,
    keys,
    members,
)
from common.log.writer import RunLog

Fields = dict[str, Any]

EARLIER_LOGS = sorted((ROOT / "tests" / "data" / "earlier_logs").glob("*.log"))
OF_EVERY_RECORD = {"run", "seq", "event"}
EVERY_EVENT = pytest.mark.parametrize("kind", DECLARED.values(), ids=DECLARED)
INSIDE = {name: kind for name, kind in DECLARED.items() if kind not in (RunStart, RunEnd)}
EVERY_EVENT_INSIDE = pytest.mark.parametrize("kind", INSIDE.values(), ids=INSIDE)


# ------------------------------------------------------------------------------------ one of each, written by hand
@declare
class Inner:
    count: int
    size: float | None


@declare
class Always:
    left: str
    right: float


@declare
class Sometimes:
    first: int
    second: float | None


@declare
class Everything:
    count: int
    size: float
    text: str
    yes: bool
    choice: Annotated[str, OneOf(("ok", "oom", "error"))]
    choice_or_null: Annotated[str | None, OneOf(("a", "b"))]
    count_or_null: int | None
    texts: list[str]
    sizes: list[float | None]
    many: Numbers
    counts: Integers
    by_name: dict[str, float]
    anything: dict[str, Any]
    inner: Inner
    inner_or_null: Inner | None
    inners: list[Inner]
    pass_: str
    always: Annotated[Always, FLAT]
    extra: Annotated[float | None, OPTIONAL] = None
    sometimes: Annotated[Sometimes | None, FLAT] = None


GOOD: Fields = {
    "count": 5,
    "size": 0.5,
    "text": "a",
    "yes": True,
    "choice": "oom",
    "choice_or_null": None,
    "count_or_null": None,
    "texts": ["a", ""],
    "sizes": [0.5, None],
    "many": [0.5, 2.0],
    "counts": [1, -2],
    "by_name": {"x": 1.5},
    "anything": {"x": [1, {"y": None}]},
    "inner": {"count": 1, "size": None},
    "inner_or_null": None,
    "inners": [{"count": 2, "size": 2.5}],
    "pass": "latency",
    "left": "l",
    "right": 1.5,
}


def good(**more: Any) -> Everything:
    return Everything(
        count=5,
        size=0.5,
        text="a",
        yes=True,
        choice="oom",
        choice_or_null=None,
        count_or_null=None,
        texts=["a", ""],
        sizes=[0.5, None],
        many=Numbers([0.5, 2.0]),
        counts=Integers([1, -2]),
        by_name={"x": 1.5},
        anything={"x": [1, {"y": None}]},
        inner=Inner(count=1, size=None),
        inner_or_null=None,
        inners=[Inner(count=2, size=2.5)],
        pass_="latency",
        always=Always(left="l", right=1.5),
        **more,
    )


# What a record may add to or change of the good one, and what that is as an instance.
ACCEPTED: dict[str, tuple[Fields, Everything]] = {
    "as it is": ({}, good()),
    "what may be missing": ({"extra": 0.25}, good(extra=0.25)),
    "a group that may be missing": ({"first": 1, "second": 0.5}, good(sometimes=Sometimes(first=1, second=0.5))),
    "a null in that group": ({"first": 1, "second": None}, good(sometimes=Sometimes(first=1, second=None))),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_object_and_its_instance(case: str) -> None:
    fields, instance = ACCEPTED[case]
    assert decode(Everything, GOOD | fields) == instance
    assert encode(instance) == GOOD | fields


def test_keys_stand_in_the_order_of_their_declaration() -> None:
    assert list(encode(good(sometimes=Sometimes(first=1, second=None)))) == [*GOOD, "first", "second"]


@pytest.mark.parametrize("key", ["size", "right"])
def test_a_whole_number_is_a_number_and_becomes_a_float(key: str) -> None:
    decoded = decode(Everything, GOOD | {key: 5})
    found = decoded.size if key == "size" else decoded.always.right
    assert (found, type(found)) == (5.0, float)


def test_whole_numbers_in_lists_and_objects_become_floats() -> None:
    decoded = decode(Everything, GOOD | {"sizes": [1, 2.5, None], "by_name": {"x": 3}})
    assert [type(size) for size in decoded.sizes] == [float, float, type(None)]


def test_a_null_among_many_numbers_is_a_nan_in_memory_and_null_again_on_disk() -> None:
    decoded = decode(Everything, GOOD | {"many": [1, None, 2.5]})
    assert [str(number) for number in decoded.many] == ["1.0", "nan", "2.5"]
    assert decoded.many.itemsize == decoded.counts.itemsize == 8
    assert encode(decoded)["many"] == [1.0, None, 2.5]
    assert type(decoded.by_name["x"]) is float


# One change of the good object, and what is said of it.
REFUSED: dict[str, tuple[Fields, str]] = {
    "5.0 for a count": ({"count": 5.0}, "count is 5.0, not a whole number"),
    "true for a count": ({"count": True}, "count is True, not a whole number"),
    "a text for a count": ({"count": "5"}, "count is '5', not a whole number"),
    "null for a count": ({"count": None}, "count is None, not a whole number"),
    "5.0 for a count or null": ({"count_or_null": 5.0}, "count_or_null is 5.0, not a whole number"),
    "a text for a number": ({"size": "0.5"}, "size is '0.5', not a number"),
    "true for a number": ({"size": True}, "size is True, not a number"),
    "null for a number": ({"size": None}, "size is None, not a number"),
    "a list for a number": ({"size": [0.5]}, "size is [0.5], not a number"),
    "a number for a text": ({"text": 5}, "text is 5, not a text"),
    "null for a text": ({"text": None}, "text is None, not a text"),
    "1 for true": ({"yes": 1}, "yes is 1, not true or false"),
    "null for false": ({"yes": None}, "yes is None, not true or false"),
    "none of the choices": ({"choice": "fine"}, "choice is 'fine', not ok, oom or error"),
    "a choice in capitals": ({"choice": "OK"}, "choice is 'OK', not ok, oom or error"),
    "a number for a choice": ({"choice": 0}, "choice is 0, not ok, oom or error"),
    "a list for a choice": ({"choice": ["ok"]}, "choice is ['ok'], not ok, oom or error"),
    "null for a choice": ({"choice": None}, "choice is None, not ok, oom or error"),
    "none of the choices nor null": ({"choice_or_null": "c"}, "choice_or_null is 'c', not a or b"),
    "a text for a list": ({"texts": "ab"}, "texts is 'ab', not a list"),
    "null for a list": ({"texts": None}, "texts is None, not a list"),
    "null in a list of texts": ({"texts": ["a", None]}, "texts is None, not a text"),
    "a text in a list of numbers": ({"sizes": [0.5, "0.5"]}, "sizes is '0.5', not a number"),
    "a text in a long list of numbers": ({"many": [0.5, "0.5"]}, "many is '0.5', not a number"),
    "a number in a long list of integers": ({"counts": [1, 2.0]}, "counts is 2.0, not a whole number"),
    "an integer of more than 64 bits": ({"counts": [1, 10**18 * 10]}, "counts is 10000000000000000000, not of 64 bits"),
    "no list of integers": ({"counts": 5}, "counts is 5, not a list"),
    "true in a list of numbers": ({"sizes": [0.5, True]}, "sizes is True, not a number"),
    "a list for an object": ({"by_name": [1.5]}, "by_name is [1.5], not an object"),
    "a text in an object of numbers": ({"by_name": {"x": "1"}}, "by_name is '1', not a number"),
    "null in an object of numbers": ({"by_name": {"x": None}}, "by_name is None, not a number"),
    "a list for an object of anything": ({"anything": []}, "anything is [], not an object"),
    "null for an object": ({"inner": None}, "inner is None, not an object"),
    "a number for an object": ({"inner": 5}, "inner is 5, not an object"),
    "a field missing in an object": ({"inner": {"count": 1}}, "inner: size is missing"),
    "one too many in an object": ({"inner": {"count": 1, "size": 1.0, "x": 0}}, "inner: 'x' is none of its fields"),
    "5.0 in an object": ({"inner": {"count": 5.0, "size": 1.0}}, "inner: count is 5.0, not a whole number"),
    "the same where null may be": ({"inner_or_null": {"count": 1}}, "inner_or_null: size is missing"),
    "an object for a list": ({"inners": {"count": 1, "size": 1.0}}, "inners is {'count': 1, 'size': 1.0}, not a list"),
    "null in a list of objects": ({"inners": [None]}, "inners is None, not an object"),
    "the second of a list": ({"inners": [{"count": 1, "size": 1.0}, {"count": 1}]}, "inners: size is missing"),
    "a text in a group": ({"right": "1.5"}, "right is '1.5', not a number"),
    "null for what is missing": ({"extra": None}, "extra is None, not a number"),
    "a text for what may be missing": ({"extra": "0.5"}, "extra is '0.5', not a number"),
    "half of a group": ({"first": 1}, "second is missing"),
    "the other half": ({"second": 0.5}, "first is missing"),
    "nulls for a group": ({"first": None, "second": None}, "first is None, not a whole number"),
    "one too many": ({"more": 1}, "'more' is none of its fields"),
    "Python's name of a key": ({"pass_": "latency"}, "'pass_' is none of its fields"),
    "the name of a group": ({"always": {"left": "l", "right": 1.5}}, "'always' is none of its fields"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_declared_is_refused_by_name(case: str) -> None:
    fields, said = REFUSED[case]
    with pytest.raises(MisfitError) as caught:
        decode(Everything, GOOD | fields)
    assert str(caught.value) == said


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(MisfitError, match=f"^{key} is missing$"):
        decode(Everything, {other: value for other, value in GOOD.items() if other != key})


def test_a_long_value_is_named_in_part() -> None:
    with pytest.raises(MisfitError) as caught:
        decode(Everything, GOOD | {"count": "x" * 1000})
    assert len(str(caught.value)) < 100


def test_what_is_read_is_not_taken_from_the_record() -> None:
    fields = copy.deepcopy(GOOD)
    decode(Everything, fields)
    assert fields == GOOD


def test_an_event_is_given_by_name_and_does_not_change() -> None:
    event = NoiseFloor(output="embedding", relative_l2=0.5)
    with pytest.raises(FrozenInstanceError):
        event.relative_l2 = 0.1  # type: ignore[misc]
    with pytest.raises(TypeError):
        NoiseFloor("embedding", 0.5)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------- all that is declared
def declarations_in(declaration: Any) -> Iterator[Any]:
    """A declaration and all that it holds."""
    yield declaration
    for member in members(declaration):
        for inner in (member.kind, *get_args(member.kind)):
            if is_dataclass(inner):
                yield from declarations_in(inner)


@EVERY_EVENT
def test_no_key_stands_for_two_fields(kind: type[Event]) -> None:
    for declaration in declarations_in(kind):
        found = [sorted(keys(m.kind)) if m.flat else [m.key] for m in members(declaration)]
        flattened = [key for each in found for key in each]
        assert len(flattened) == len(set(flattened))
    assert not keys(kind) & OF_EVERY_RECORD


@EVERY_EVENT
def test_every_event_is_written_by_scripts_and_says_how_many_there_are(kind: type[Event]) -> None:
    assert set(kind.scripts) <= set(SCRIPTS)
    assert kind.scripts
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].split()[0] in ("run,", "run", "image", "image,", "output", "output,",
                                                       "hypothesis,", "block", "batch", "kind")  # fmt: skip


@EVERY_EVENT
def test_every_type_is_one_that_can_be_read(kind: type[Event]) -> None:
    for declaration in declarations_in(kind):
        for member in members(declaration):
            plain = member.kind in (int, float, str, bool, Any) or is_dataclass(member.kind)
            assert plain or member.kind in (Numbers, Integers) or get_origin(member.kind) in (list, dict), member
            assert not member.one_of or member.kind is str, member
            assert not member.flat or (is_dataclass(member.kind) and not is_nullable(member)), member


def test_the_names_of_the_events() -> None:
    """They are on disk, so that none may change with its class."""
    assert sorted(DECLARED) == [
        "accuracy", "animation", "candidate_source", "cause", "env", "fallback", "inference", "kind", "latencies",
        "layer", "limit", "machine", "model", "noise_floor", "nonfinite_weights", "numerics", "perf", "prediction",
        "ranks", "reference_source", "repeat", "run_end", "run_start", "sample", "samples", "scaled", "search",
        "skipped", "speedup", "startup", "task", "transparency", "unread",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------- every event there and back
@EVERY_EVENT
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["least", "some", "all"])
def test_every_event_comes_back_as_it_was(kind: type[Event], share: float) -> None:
    """With and without what may be null or missing."""
    chooser = random.Random(f"{kind.event} {share}")
    for _ in range(20 if share == 0.5 else 3):
        fields = seeded(kind, chooser, share)
        event = decode(kind, json.loads(json.dumps(fields)))
        assert encode(event) == fields
        assert json.dumps(encode(event)) == json.dumps(fields)
        assert decode(kind, encode(event)) == event


def test_every_part_that_may_be_missing_is_there_in_some_and_missing_in_others() -> None:
    """Else the test above would not show it."""
    for kind in DECLARED.values():
        for member in members(kind):
            own = keys(member.kind) if member.flat else {member.key}
            least, full = (seeded(kind, random.Random(0), share).keys() for share in (0.0, 1.0))
            assert own <= full
            assert own.isdisjoint(least) == member.omittable


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_events_of_a_script_go_through_a_log(script: str, tmp_path: Path) -> None:
    chooser = random.Random(script)
    kinds = [kind for kind in INSIDE.values() if script in kind.scripts]
    written = [decode(kind, seeded(kind, chooser)) for kind in kinds for _ in range(5)]
    with RunLog(tmp_path / "x.log", script, []) as log:
        for event in written:
            log.record(event)
    run = read_log(tmp_path / "x.log")
    assert run.problems == []
    assert run.events[1:-1] == written


# -------------------------------------------------------------------------------------------- what is not declared
def paths_of(declaration: Any, fields: Fields) -> Iterator[tuple[Member, Fields]]:
    """Each field that a JSON object has, with the object that holds it, also of objects inside."""
    for member in members(declaration):
        if member.flat:
            if keys(member.kind) & fields.keys():
                yield from paths_of(member.kind, fields)
        elif member.key in fields:
            yield member, fields
            value = fields[member.key]
            if is_dataclass(member.kind):
                yield from paths_of(member.kind, value)
            elif get_origin(member.kind) is list and is_dataclass(get_args(member.kind)[0]):
                for item in value:
                    yield from paths_of(get_args(member.kind)[0], item)


def wrong_values(member: Member) -> list[Any]:
    """Values that a field may not hold."""
    wrong: list[Any] = {
        int: [5.0, True, "5", [5], {}],
        float: ["0.5", True, [0.5], {}],
        str: [5, True, ["a"], {}],
        bool: [0, 1, 1.0, "true", []],
    }.get(member.kind, [5, "a", True])
    if member.kind in (Numbers, Integers):
        wrong = [5, "a", {}, ["a"], [True], [[1]]] + [[0.5]] * (member.kind is Integers)
    elif get_origin(member.kind) is list:
        wrong = [5, "a", {}, [{"none of its fields": None}]]
    elif not isinstance(member.kind, type) or is_dataclass(member.kind):  # an object
        wrong = [5, "a", []]
    choices = ["none of the choices", ""] if member.one_of else []
    return [*wrong, *choices, *([] if is_nullable(member) else [None])]


@EVERY_EVENT
def test_every_field_of_every_event_refuses_what_it_may_not_hold(kind: type[Event]) -> None:
    fields = seeded(kind, random.Random(kind.event), 1.0)
    tried = 0
    for member, holder in list(paths_of(kind, fields)):
        right = holder[member.key]
        for wrong in wrong_values(member):
            holder[member.key] = wrong
            with pytest.raises(MisfitError) as caught:
                decode(kind, fields)
            assert member.key in str(caught.value), (member.key, wrong)
            tried += 1
        holder[member.key] = right
        decode(kind, fields)
    assert tried >= 4 * len(members(kind))


@EVERY_EVENT
def test_every_field_of_every_event_is_missed(kind: type[Event]) -> None:
    fields = seeded(kind, random.Random(kind.event), 1.0)
    for member, holder in list(paths_of(kind, fields)):
        right = holder.pop(member.key)
        if member.omittable:
            assert encode(decode(kind, fields)) == fields
        else:
            with pytest.raises(MisfitError, match=rf"\b{member.key} is missing$"):
                decode(kind, fields)
        holder[member.key] = right


@EVERY_EVENT
def test_every_event_refuses_one_field_too_many(kind: type[Event]) -> None:
    fields = seeded(kind, random.Random(kind.event), 1.0)
    for _, holder in list(paths_of(kind, fields)):
        holder["surplus"] = None
        with pytest.raises(MisfitError, match=r"'surplus' is none of its fields$"):
            decode(kind, fields)
        del holder["surplus"]


# ----------------------------------------------------------------------------------------------- in a run's log
def problems_with(tmp_path: Path, script: str, event: str, fields: Fields) -> list[str]:
    """What is wrong with a run of a script that holds one more record, signed."""
    with RunLog(tmp_path / "x.log", script, []):
        pass
    start, end = read_records(tmp_path / "x.log")
    record = {"run": start["run"], "event": event, **fields}
    write_records(tmp_path / "x.log", sign([start, record, end]))
    return read_log(tmp_path / "x.log").problems


@EVERY_EVENT_INSIDE
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_event_stands_in_the_runs_of_its_scripts_alone(kind: type[Event], script: str, tmp_path: Path) -> None:
    problems = problems_with(tmp_path, script, kind.event, seeded(kind, random.Random(0), 1.0))
    right = script in kind.scripts
    assert problems == ([] if right else [f"record 1: {script} writes no {kind.event!r} record"])


def test_which_scripts_write_what() -> None:
    of = {script: {name for name, kind in DECLARED.items() if script in kind.scripts} for script in SCRIPTS}
    all_three = of[INFERENCE] & of[ACCURACY] & of[PERF]
    assert of[INFERENCE] - all_three == {"inference"}
    assert of[ACCURACY] - all_three == {
        *("sample", "samples", "accuracy", "repeat", "noise_floor", "cause", "layer"),
        *("reference_source", "candidate_source", "prediction", "task"),
    }
    assert of[PERF] - all_three == {
        *("startup", "limit", "search", "latencies", "perf", "kind", "ranks", "speedup", "machine")
    }
    assert {"run_start", "numerics", "env", "model", "run_end"} <= all_three


@pytest.mark.parametrize("event", ["surprise", "Sample", "", "run", "x\x1b[2K"])
def test_an_unknown_event_is_refused(event: str, tmp_path: Path) -> None:
    (problem,) = problems_with(tmp_path, ACCURACY, event, {})
    assert problem == f"record 1: accuracy_run.py writes no {event!r} record"


def test_a_field_that_does_not_fit_is_named_with_its_record(tmp_path: Path) -> None:
    fields = encode(example(Inference, topk=[{"index": 1, "value": 0.5, "label": None}]))
    fields["topk"][0]["index"] = 1.0
    (problem,) = problems_with(tmp_path, INFERENCE, "inference", fields)
    assert problem == "record 1, inference: topk: index is 1.0, not a whole number"


@EVERY_EVENT_INSIDE
def test_the_count_of_replaced_numbers_is_accepted_in_every_event(kind: type[Event], tmp_path: Path) -> None:
    fields = seeded(kind, random.Random(0), 1.0)
    assert problems_with(tmp_path, kind.scripts[0], kind.event, {**fields, "nonfinite": 3}) == []


@pytest.mark.parametrize("event", ["noise_floor", "sample"])
@pytest.mark.parametrize("wrong", [None, "3", 3.0, True, [3]])
def test_the_count_of_replaced_numbers_is_a_count(event: str, wrong: Any, tmp_path: Path) -> None:
    """Whether an event declares it or the writer added it."""
    fields = seeded(DECLARED[event], random.Random(0), 1.0)
    (problem,) = problems_with(tmp_path, ACCURACY, event, {**fields, "nonfinite": wrong})
    assert problem == f"record 1, {event}: nonfinite is {wrong!r}, not a whole number"


# ------------------------------------------------------------------------------------------------- earlier logs
@pytest.mark.parametrize("path", EARLIER_LOGS, ids=lambda path: path.name)
def test_every_record_of_an_earlier_log_is_what_is_declared(path: Path) -> None:
    """The first bytes of one are cut; its whole lines count."""
    count = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        _, marker, text = line.partition("@record ")
        if not marker or not text.endswith("}"):
            continue
        record = json.loads(text)
        fields = {key: value for key, value in record.items() if key not in OF_EVERY_RECORD}
        encoded = encode(decode(DECLARED[record["event"]], fields))
        assert json.dumps(encoded, sort_keys=True) == json.dumps(fields, sort_keys=True)
        count += 1
    assert count >= 3


def test_the_earlier_logs_have_most_of_the_events() -> None:
    found = {
        json.loads(line.partition("@record ")[2])["event"]
        for path in EARLIER_LOGS
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("@record ") and line.endswith("}")
    }
    assert found <= set(DECLARED)
    assert set(DECLARED) - found == {
        "animation",
        "fallback",
        "machine",
        "repeat",
        "samples",
        "candidate_source",
        "prediction",
        "task",
        "kind",
        "nonfinite_weights",
        "reference_source",
        "scaled",
        "search",
        "skipped",
        "transparency",
        "unread",
    }


def test_what_is_missing_in_an_earlier_log_is_none() -> None:
    """A batch that did not fit has no figures, an accuracy run no plan, and a sample of tokens no fingerprint."""
    folder = EARLIER_LOGS[0].parent
    plain = read_log(folder / "pass.accuracy.log")
    assert plain.start.plan is None
    assert [sample.fingerprint is None for sample in plain.all(Sample)][:2] == [False, True]
    assert [sample.worst is None for sample in plain.all(Sample)][:2] == [True, False]
    assert all(row.timed is not None for row in read_log(folder / "pass.benchmark.log").all(Perf))
    record = find(read_records(folder / "pass.benchmark.log"), "perf")
    failed = decode(Perf, {"batch_size": record["batch_size"], "status": "oom", "reason": "out of memory"})
    assert (failed.reason, failed.timed) == ("out of memory", None)
