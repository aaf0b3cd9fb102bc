"""Mutants of good logs, and which of them may pass: a seeded fuzzer for the checker.

A mutant is a file with the logs of good runs after one to three edits: of fields (digits, types, nothing, too much), of
records (dropped, doubled, moved, from another run, unknown), of runs (another model's, another machine's), of lines
and bytes. Half of them are numbered and signed again, so that the checker's gates decide and not its hash.

PASS is right only where the meaning is unchanged (`may_pass`): every record that the checker reads still says what it
said. A few fields only inform, and a few are held to bounds: `INFORMS` and `_is_bounded` list them. All else must
end in FAIL or CANNOT JUDGE, in one line each, without a traceback. Edits of two logs that agree with each other are
left out: the hash shows integrity, not who wrote a log.

    python tests/by_hand/fuzz_checker.py --mutants 20000 --seed 7
    python tests/by_hand/fuzz_checker.py --logs logs/accuracy.log logs/benchmark.log
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import io
import json
import math
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from helpers.logs import MARKER, Records, find, ranks_record, read_records, sign, text_of, windows

import check_accuracy_run_perf as checker
from common.log import formulas, samples, schema
from common.log.events import Kind, Limit, Machine, Product, Sample, Samples, Windows
from common.log.reader import UnjudgeableError

Random = random.Random
Record = dict[str, Any]

# Fields that only inform: no figure and no gate follows from them, and of `machine` alone a remark before the verdict.
INFORMS = {
    "run_start": {"argv", "utc", "git"},
    "numerics": {"gelu_replaced", "gelu_tanh"},  # the second is of an operator that the tiny model has not
    "env": {"cpu_count", "cpu_quota", "device_count", "cpu_threads"},
    "model": {"compiled", "hub", "revision", "asked_size"},
    "sample": {"image"},
    "repeat": {"image", "first_batch_size"},
    "accuracy": {"expected_relative_l2", "threshold"},  # of float32; the checker has a threshold of its own
    "task": {"threshold"},
    "perf": {"image", "first_call_ms", "warmup_calls", "warmup_stable", "peak_memory_mb"},
    "machine": {*schema.keys(Machine)} - {"phase"},
    "kind": {"classes"},
    "run_end": {"error"},
}
# What identifies a record among those of its event; records of other events are not evidence.
KEYS: dict[str, tuple[str, ...]] = {
    "run_start": (),
    "numerics": (),
    "env": (),
    "model": (),
    "sample": ("output", "reference", "image_sha256"),
    "samples": ("output", "reference"),
    "accuracy": ("output", "reference"),
    "repeat": ("output", "way"),
    "prediction": ("first",),
    "task": (),
    "limit": ("phase",),
    "latencies": ("batch_size", "mode", "pass"),
    "search": (),
    "perf": ("batch_size", "mode"),
    "kind": ("batch_size", "name"),
    "ranks": ("batch_size", "mode"),
    "speedup": (),
    "machine": ("phase",),
    "run_end": (),
}
MISSING = {"mode": "eager"}  # what a key says that is not there
RAW = {"limit": {"shapes"}, "kind": {"parts"}}  # from which the same figures must follow
# Of each batch size or together, as in a run that was not asked for them, or an earlier one.
ALL_OR_NONE = {"kind": "kind", "repeat": "repeat", "task": "task", "prediction": "task"}
DROP = "60"  # percent: a bound of what is lost on the task that its few images support
OPTIONAL = {"speedup"}  # its figure is checked where it is given
LONGEST = 2000  # characters of a line in the checker's answer
CLOSE = 1e-8  # what is computed again may differ by 1e-9; beyond this it may not pass


# ------------------------------------------------------------------------------------------------ the good evidence
@dataclass(frozen=True)
class Pair:
    """The records of an accuracy run and of a perf run that pass together."""

    name: str
    runs: tuple[Records, Records]


def pairs_of(accuracy: Path, perf: Path) -> list[Pair]:
    """Three pairs from the logs of one: as it is, of another model on another machine, and of several NPUs."""
    plain = Pair("cpu", (read_records(accuracy), read_records(perf)))
    for record in [record for run in plain.runs for record in run if "fingerprint" in record]:
        record["fingerprint"] = record["fingerprint"][:8]  # shorter logs are judged faster, and no gate counts them
    pairs = [plain, _of_another_model(plain), _of_npus(plain)]
    return [Pair(pair.name, (sign(pair.runs[0]), sign(pair.runs[1]))) for pair in pairs]


def _renamed(pair: Pair, digit: str) -> tuple[Records, Records]:
    accuracy, perf = ([{**r, "run": digit + r["run"][1:]} for r in copy.deepcopy(run)] for run in pair.runs)
    return accuracy, perf


def share_a_record(run: Records) -> None:
    """All images but the first share a record for each output, as those behind the first thousand do."""
    own = [record for record in run if record["event"] == Sample.event]
    first = {record["output"]: record["image_sha256"] for record in reversed(own)}
    moved = [record for record in own if record["image_sha256"] != first[record["output"]]]
    at = run.index(moved[0])
    run[:] = [record for record in run if record not in moved]
    for output in first:
        of_output = [
            schema.decode(Sample, {key: record[key] for key in schema.keys(Sample) & record.keys()})
            for record in moved
            if record["output"] == output
        ]
        shared = schema.encode(samples.together(of_output, first=1))
        run.insert(at, {"run": run[0]["run"], "seq": 0, "event": Samples.event, **shared})


def _of_another_model(pair: Pair) -> Pair:
    runs = _renamed(pair, "x")
    share_a_record(runs[0])
    for run in runs:
        find(run, "model").update(weights_sha256="1" * 64, model="another", architecture="another_vit")
        find(run, "env").update(device_name="another CPU", cpu_model="another CPU", platform="another")
    return Pair("other", runs)


def _of_npus(pair: Pair) -> Pair:
    """As if two NPUs had computed it, against both references, with a speedup over the CPU."""
    accuracy, perf = _renamed(pair, "y")
    for run in (accuracy, perf):
        npu = {"device": "npu:0", "parameters_device": "npu:0", "device_name": "Ascend910B2", "cann": "8.5.1"}
        find(run, "env").update(npu, simulated=False, torch_npu="2.9.0", npu_driver="25.2")
        for record in run:
            if record["event"] in ("sample", "perf"):
                record["device"] = "npu:0"
    compared = [record for record in accuracy if record["event"] in ("sample", "accuracy")]
    at = accuracy.index(compared[0])
    accuracy[at:at] = [{**record, "reference": "float32"} for record in copy.deepcopy(compared)]
    find(accuracy, "model")["references"] = ["float32", "float64"]
    accuracy.insert(-1, {"run": accuracy[0]["run"], "event": "noise_floor", "output": "embedding", "relative_l2": 1e-6})
    perf[0]["ranks"] = 2
    for row in [record for record in perf if record["event"] == "perf"]:
        timed = find(perf, "latencies", **{"batch_size": row["batch_size"], "pass": "throughput"})
        ranks = ranks_record(row["batch_size"], windows(timed), ["npu:0", "npu:1"])
        perf.insert(-1, {"run": perf[0]["run"], **ranks})
    latency = find(perf, "perf", batch_size=1)["avg_latency_ms"]
    speedup = {"speedup": 40.0 / latency, "baseline_latency_ms": 40.0, "baseline_samples_ms": [39.0, 41.0]}
    perf.insert(-1, {"run": perf[0]["run"], "event": "speedup", **speedup, "baseline_threads": 2})
    return Pair("npus", (accuracy, perf))


# ------------------------------------------------------------------------------------------------- what may pass
def may_pass(runs: Iterable[Records], pairs: Sequence[Pair]) -> bool:
    """Whether the records of these runs still say what those of one or more whole pairs said, and nothing else."""
    found = []
    for run in runs:
        matches = [(at, kind) for at, pair in enumerate(pairs) for kind in (0, 1) if is_same(run, pair.runs[kind])]
        if len(matches) != 1:
            return False
        found.append(matches[0])
    return bool(found) and {at for at, kind in found if kind == 0} == {at for at, kind in found if kind == 1}


def is_same(run: Records, good: Records) -> bool:
    """Whether every record that is evidence is there once and says what the good one says."""
    wanted = {_key(record): record for record in good if record["event"] in KEYS}
    seen: Counter[str] = Counter()
    for record in run:
        if str(record.get("event")) not in KEYS:
            continue
        key = _key(record)
        if key not in wanted and record["event"] in OPTIONAL:
            continue
        if key not in wanted or not _says_the_same(record, wanted[key], good):
            return False
        seen[key] += 1
    without_machine = not any(record.get("event") == Machine.event for record in run)  # as earlier logs are
    left_out = OPTIONAL | ALL_OR_NONE.keys() | ({Machine.event} if without_machine else set())
    once = [key for key, record in wanted.items() if record["event"] not in left_out]
    framed = run[0]["event"] == "run_start" and run[-1]["event"] == "run_end"
    return framed and all(seen[key] == 1 for key in once) and _all_or_none(wanted, seen)


def _all_or_none(wanted: dict[str, Record], seen: Counter[str]) -> bool:
    """All kinds of a batch size are there, once, or none is; likewise the repeats, and a task with its predictions."""
    found: dict[tuple[str, Any], set[int]] = {}
    for key, record in wanted.items():
        if record["event"] in ALL_OR_NONE:
            of = record["batch_size"] if record["event"] == "kind" else None
            found.setdefault((ALL_OR_NONE[record["event"]], of), set()).add(seen[key])
    return all(counts in ({0}, {1}) for counts in found.values())


def _key(record: Record) -> str:
    event = record["event"]
    return repr((event, *(_number(record.get(key, MISSING.get(key))) for key in KEYS[event])))


def _number(value: Any) -> Any:
    """1 and 1.0 are the same number; true is none."""
    return float(value) if _is_number(value) and abs(value) < 1e15 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _enough_bits(probe: Any) -> Any:
    """A probe in which every count of mantissa bits that suffices for float32 is one and the same."""
    if not isinstance(probe, dict):
        return probe
    least, most = formulas.LEAST_BITS["float32"], formulas.MANTISSA_BITS["float32"]
    return {
        key: most if key.endswith("_mantissa_bits") and _is_number(value) and least <= value <= most else value
        for key, value in probe.items()
    }


def _says_the_same(record: Record, good: Record, run: Records) -> bool:
    if good["event"] == "numerics":
        record, good = (
            _enough_bits({**each, "reference": _enough_bits(each.get("reference"))}) for each in (record, good)
        )
    event = good["event"]
    free = {"run", "seq", "records_sha256", "records", *INFORMS.get(event, ())}
    if event == "latencies":
        return _same_times(record, good)
    if event == "limit" and not _same_limit(record, good):
        return False
    if event == "kind" and not _same_kind(record, good):
        return False
    if event == "sample" and not _samples_agree(record, good):
        return False
    if event == "samples":
        return _same_samples(record, good, run)
    keys = set(good) - free - RAW.get(event, set()) - MISSING.keys()
    return all(key in record and _is_allowed(event, key, record, good, run) for key in keys)


def _is_allowed(event: str, key: str, record: Record, good: Record, run: Records) -> bool:
    return is_close(record[key], good[key]) or _is_bounded(event, key, record, good, run)


def is_close(found: Any, wanted: Any) -> bool:
    """Equal in value and kind; numbers to 1e-8."""
    if _is_number(found) and _is_number(wanted):
        return math.isclose(found, wanted, rel_tol=CLOSE, abs_tol=0 if wanted else 1e-12)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(is_close, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() >= wanted.keys() and all(is_close(found[key], wanted[key]) for key in wanted)
    return type(found) is type(wanted) and bool(found == wanted)


def _is_bounded(event: str, key: str, record: Record, good: Record, run: Records) -> bool:
    """Whether a changed value is inside the bounds that a reader may rely on."""
    value, old = record[key], good[key]
    if (event, key) == ("prediction", "margins"):  # nothing follows from those of what stayed
        numbers = isinstance(value, list) and len(value) == len(old) and all(map(_is_number, value))
        return numbers and all(0 <= each <= 1 for each in value)
    if event == "sample" and key in formulas.METRICS:
        return _is_number(value)  # their relations and the worst of all samples bound them: see _samples_agree
    if event == "sample" and key == "worst_token":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < good["shape"][1]
    if event == "sample" and key == "worst_token_relative_l2":
        return _is_number(value) and value >= good["relative_l2"] * (1 - CLOSE)
    if key == "fingerprint":  # within 1 % of the other run's; those of the images of one run alone are any
        alone = event == "sample" and record["image_sha256"] not in {r.get("image_sha256") for r in run[:5]}
        return isinstance(value, list) and all(map(_is_number, value)) and (alone or math.dist(value, old) < 0.011)
    if event == "sample" and key in ("reference_top5", "device_top5"):
        return _same_places(value, old)
    if event == "repeat":  # an error within rounding where the bits differ, and another place of another batch
        rounding = key == "relative_l2" and _is_number(value) and 0 <= value <= 1e-5 and record.get("equal") is False
        differs = key == "equal" and value is False
        size, place = record.get("batch_size"), record.get("place")
        placed = key in ("batch_size", "place") and good["way"] == "batch" and type(size) is type(place) is int
        return rounding or differs or (placed and 0 < place < size)
    if (event, key) == ("perf", "output_relative_l2"):
        return _is_number(value) and 0 <= value <= 0.01
    if (event, key) == ("model", "weights_source"):
        return isinstance(value, str) and value != "random"
    if (event, key) == ("speedup", "baseline_threads"):
        return _is_number(value) and value >= 1
    if (event, key) == ("numerics", "reference"):
        probe = [(k, value.get(k), old[k]) for k in old if k != "gelu_tanh"] if isinstance(value, dict) else None
        return probe is not None and all(_is_precise(k, new) or is_close(new, known) for k, new, known in probe)
    if (event, key) == ("run_start", "batch_sizes"):
        return isinstance(value, list) and is_close(sorted(map(str, value)), sorted(map(str, old)))
    if event == "numerics":
        return _is_precise(key, value)
    if (event, key) == ("ranks", "shares"):
        return isinstance(value, list) and len(value) == len(old) and all(map(_same_share, value, old))
    return (event, key) == ("ranks", "alone") and isinstance(value, dict) and _same_rate(value, old)


def _same_places(entries: Any, good: Records) -> bool:
    """The same elements in the same order; their values are near each other by the sample's `max_abs_error`."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return False
    values = [entry.get("value") for entry in entries]
    places = [entry.get("index") for entry in entries] == [entry["index"] for entry in good]
    return places and all(map(_is_number, values)) and values == sorted(values, reverse=True)


def _is_precise(key: str, value: Any) -> bool:
    """Bits that are as many as float32 is asked for."""
    return key.endswith("_mantissa_bits") and type(value) is int and value >= 20


def _samples_agree(record: Record, good: Record) -> bool:
    """Changed metrics of a sample: no worse than they were where they are the worst, and in their formulas."""
    values = [record.get(metric) for metric in formulas.METRICS]
    if not all(map(_is_number, values)):
        return False
    at = dict(zip(formulas.METRICS, values, strict=True))
    bounded = all(0 <= at[metric] <= 0.01 for metric in (*formulas.GATED_METRICS, "nmse", "one_minus_cosine"))
    squared = math.isclose(at["nmse"], at["relative_l2"] ** 2, rel_tol=CLOSE)
    return bounded and squared and -1 <= at["cosine_similarity"] <= 1 and 0 <= at["top5_match"] <= 1


def _same_samples(record: Record, good: Record, run: Records) -> bool:
    """The same images, of each of which the same is said."""
    apart = []
    for each in (record, good):
        try:
            event = schema.decode(Samples, {key: each[key] for key in schema.keys(Samples) & each.keys()})
            apart.append([{"event": "sample", **schema.encode(sample)} for sample in samples.apart(event)])
        except (schema.MisfitError, UnjudgeableError):
            return False
    same = len(apart[0]) == len(apart[1]) and record["first"] == good["first"]
    return same and all(_says_the_same(one, other, run) for one, other in zip(*apart, strict=True))


def _same_times(record: Record, good: Record) -> bool:
    """The same figures follow from the times, in whatever order they are."""
    if not _same_numbers(record.get("samples_ms"), good["samples_ms"]):
        return False
    return is_close(record.get("calls"), good["calls"]) and is_close(record.get("batch_size"), good["batch_size"])


def _same_numbers(found: Any, wanted: list[float]) -> bool:
    sound = isinstance(found, list) and all(map(_is_number, found)) and len(found) == len(wanted)
    pairs = zip(sorted(found), sorted(wanted), strict=True) if sound else ()
    return sound and all(math.isclose(a, b, rel_tol=CLOSE * len(found)) for a, b in pairs)


def _same_share(share: Any, good: Record) -> bool:
    if not isinstance(share, dict) or not _same_rate(share, good):
        return False
    error = share.get("output_relative_l2")
    exact = all(is_close(share.get(key), good[key]) for key in ("status", "nonfinite"))
    device = isinstance(share.get("device"), str) and share["device"].startswith("npu")
    return exact and device and _is_number(error) and 0 <= error <= 0.01


def _same_rate(found: Record, good: Record) -> bool:
    if not isinstance(found.get("samples_ms"), list) or not all(map(_is_number, found["samples_ms"])):
        return False
    if not _is_number(found.get("calls")) or found["calls"] < 1 or min(found["samples_ms"], default=0) <= 0:
        return False
    rates = [formulas.images_per_second(each["samples_ms"], each["calls"]) for each in (found, good)]
    return math.isclose(*rates, rel_tol=CLOSE)


def _takes_time(found: Windows) -> bool:
    return bool(found.samples_ms) and min(found.samples_ms) > 0 < found.calls


def _same_limit(record: Record, good: Record) -> bool:
    """The same rate follows from the shapes' best windows."""
    shapes = record.get("shapes")
    if not isinstance(shapes, list) or len(shapes) != len(good["shapes"]):
        return False
    if not all(isinstance(shape, dict) and _is_number(shape.get("gflop")) for shape in shapes):
        return False
    ordered = [sorted(each, key=lambda shape: shape["gflop"]) for each in (shapes, good["shapes"])]
    for shape, old in zip(*ordered, strict=True):
        if not is_close(shape["gflop"], old["gflop"]):
            return False
    try:
        products = [schema.decode(Product, shape) for shape in shapes]
    except schema.MisfitError:
        return False
    if not all(len(each.shape) == 3 and _takes_time(each.windows) for each in products):
        return False
    try:
        spread = formulas.spread_of([schema.decode(Limit, {key: record[key] for key in schema.keys(Limit)})])
    except (schema.MisfitError, KeyError, ValueError, ArithmeticError):
        return False
    rate = formulas.gemm_tflops(products)
    return math.isclose(rate, good["gemm_tflops"], rel_tol=CLOSE) and math.isclose(
        spread, good["spread"], rel_tol=CLOSE, abs_tol=CLOSE
    )


def _same_kind(record: Record, good: Record) -> bool:
    """The same time follows from the parts."""
    try:
        kind = schema.decode(Kind, {key: record[key] for key in schema.keys(Kind) & record.keys()})
    except schema.MisfitError:
        return False
    if not kind.parts or not all(part.count >= 1 and _takes_time(part.windows) for part in kind.parts):
        return False
    counted = sum(part.count for part in kind.parts) == good["count"]
    return counted and math.isclose(formulas.kind_ms(kind.parts), good["ms"], rel_tol=CLOSE)


# ----------------------------------------------------------------------------------------------------- the mutants
def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


VALUES: list[Callable[[Random], Any]] = [
    lambda r: None, lambda r: True, lambda r: False, lambda r: 0, lambda r: -1, lambda r: -0.0, lambda r: 1e308,
    lambda r: -1e308, lambda r: 1e-308, lambda r: 5e-324, lambda r: 10**18, lambda r: "1", lambda r: "",
    lambda r: "NaN",
    lambda r: [], lambda r: {}, lambda r: [None], lambda r: [[0.5]], lambda r: {"a": 1}, lambda r: "cpu",
    lambda r: "ok",
    lambda r: "random", lambda r: "float16", lambda r: "PASS", lambda r: "x" * 5000,
    lambda r: "\ud800\n\x1b[2J@record {}",
    lambda r: _nested(r.choice((3, 40, 400))), lambda r: r.random(), lambda r: 1, lambda r: 2, lambda r: 1.5,
]  # fmt: skip


def _changed(value: Any, chooser: Random) -> Any:
    """Another value for a field, near the old one or of another kind."""
    if chooser.random() < 0.4:
        return chooser.choice(VALUES)(chooser)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) and math.isfinite(value):
        near = (
            value + 1,
            value - 1,
            -value,
            value * 10,
            value / 10,
            value * (1 + 1e-6),
            value * 2,
            value * 0.99,
            value * 1e6,
        )
        digits = list(repr(value))
        at = chooser.choice([i for i, c in enumerate(digits) if c.isdigit()])
        digits[at] = chooser.choice("123456789")
        found = chooser.choice([*near, float("".join(digits))])
        whole = isinstance(value, int) and math.isfinite(found) and chooser.random() < 0.9  # else no reader takes it
        return int(found) if whole else found
    if isinstance(value, str) and value:
        at = chooser.randrange(len(value))
        return chooser.choice(
            [value[:at], value[:at] + chooser.choice("0f9z:") + value[at + 1 :], value.upper(), value + " "]
        )
    if isinstance(value, list) and value:
        at = chooser.randrange(len(value))
        shuffled = chooser.sample(value, len(value))
        one = [*value[:at], _changed(value[at], chooser), *value[at + 1 :]]
        return chooser.choice([one, one, one, value[:-1], value + value[:1], shuffled])
    if isinstance(value, dict) and value:
        key = chooser.choice(list(value))
        without = {k: v for k, v in value.items() if k != key}
        one = {**value, key: _changed(value[key], chooser)}
        return chooser.choice([one, one, one, without, {**without, key + "2": value[key]}])
    return chooser.choice(VALUES)(chooser)


def edit_field(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    record = chooser.choice([record for record in run[chooser.randrange(2) :] if record["event"] != "run_end"] or run)
    key = chooser.choice([key for key in record if key not in ("run", "seq")] or ["event"])
    record[key] = _changed(record[key], chooser)


def drop_field(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    record = chooser.choice(chooser.choice(runs))
    record.pop(chooser.choice([key for key in record if key not in ("run", "seq", "event")] or ["none"]), None)


def swap_fields(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    record = chooser.choice(chooser.choice(runs))
    keys = [key for key in record if key not in ("run", "seq", "event")]
    if len(keys) > 1:
        one, two = chooser.sample(keys, 2)
        record[one], record[two] = record[two], record[one]


def copy_field(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    """A field's value from another record of the same event: another sample's error, another batch's latency."""
    run = chooser.choice(runs)
    record = chooser.choice(run)
    others = [other for other in run if other["event"] == record["event"] and other is not record]
    if others:
        other = chooser.choice(others)
        key = chooser.choice([key for key in other if key not in ("run", "seq", "event")])
        record[key] = copy.deepcopy(other[key])


def drop_record(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    del run[chooser.randrange(len(run))]


def double_record(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    run.insert(chooser.randrange(len(run) + 1), copy.deepcopy(chooser.choice(run)))


def move_record(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    record = run.pop(chooser.randrange(len(run)))
    run.insert(chooser.randrange(len(run) + 1), record)


def shuffle_records(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    chooser.shuffle(chooser.choice(runs))


def truncate(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    del run[chooser.randrange(1, max(2, len(run))) :]


def unknown_record(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    run = chooser.choice(runs)
    event = chooser.choice(
        ["bogus", "inference", "fallback", "skipped", "startup", "noise_floor", "machine", "run_start", "run_end"]
    )
    known = {"output": chooser.choice(VALUES)(chooser), "relative_l2": chooser.choice(VALUES)(chooser)}
    extra = {"run": run[0]["run"], "seq": 0, "event": event, **known, "operators": chooser.choice(VALUES)(chooser)}
    run.insert(chooser.randrange(1, len(run) + 1), extra)


def foreign_record(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    """A record of another run under this run's name, instead of one of its own or beside it."""
    run = chooser.choice(runs)
    other = chooser.choice(chooser.choice(pairs).runs)
    at = chooser.randrange(len(run))
    run[at : at + chooser.randrange(2)] = [{**copy.deepcopy(chooser.choice(other)), "run": run[0]["run"]}]


def foreign_run(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    """Another model's or machine's run instead of this one or beside it."""
    other = copy.deepcopy(chooser.choice(chooser.choice(pairs).runs))
    at = chooser.randrange(len(runs))
    runs[at : at + chooser.randrange(2)] = [other]


def drop_run(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    if len(runs) > 1:
        del runs[chooser.randrange(len(runs))]


def merge_runs(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    """All under the name of one run."""
    runs[:] = [[{**record, "run": runs[0][0]["run"]} for run in runs for record in run]]


def same_name(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    name = chooser.choice(["", "run", runs[0][0]["run"]])
    for record in runs[-1]:
        record["run"] = name


def leave(runs: list[Records], pairs: Sequence[Pair], chooser: Random) -> None:
    """Nothing: another dress alone."""


EDITS = [*[edit_field] * 14, *[drop_field] * 3, swap_fields, *[copy_field] * 3, *[drop_record] * 2,
         *[double_record] * 2,
         move_record, shuffle_records, truncate, *[unknown_record] * 2, *[foreign_record] * 2, *[foreign_run] * 2,
         drop_run, merge_runs, same_name, *[leave] * 3]  # fmt: skip


# ------------------------------------------------------------------------------------------------ lines and bytes
def as_lines(runs: Sequence[Records], chooser: Random) -> list[bytes]:
    """The runs' records as lines: one run after the other, or interleaved."""
    queues = [[(MARKER + text_of(record)).encode() for record in run] for run in runs]
    if chooser.random() < 0.8:
        return [line for queue in queues for line in queue]
    lines = []
    while queues := [queue for queue in queues if queue]:
        lines.append(chooser.choice(queues).pop(0))
    return lines


def dress(lines: list[bytes], chooser: Random) -> bytes:
    """The lines as another program, terminal, disk or hand would leave them."""
    return chooser.choice(DRESSES)(list(lines), chooser)


def _joined(lines: Sequence[bytes], end: bytes = b"\n") -> bytes:
    return b"".join(line + end for line in lines)


def _noise(lines: list[bytes], chooser: Random) -> bytes:
    for _ in range(chooser.randrange(1, 30)):
        text = chooser.choice(
            [b"", b"\x00\xff binary", b"record {", b"@recor {", chooser.randbytes(50).replace(b"@", b"")]
        )
        lines.insert(chooser.randrange(len(lines) + 1), text.replace(b"\n", b" "))
    return _joined(lines)


def _bar(lines: list[bytes], chooser: Random) -> bytes:
    at = chooser.randrange(len(lines))
    lines[at] = "\r 50%|█████     | 4/8 [00:01<00:00]".encode() + lines[at]
    return _joined(lines)


def _bar_inside(lines: list[bytes], chooser: Random) -> bytes:
    at = chooser.randrange(len(lines))
    cut = chooser.randrange(len(lines[at]))
    lines[at] = lines[at][:cut] + b"\r 50%|##   | 4/8" + chooser.choice([b"", b"\n"]) + lines[at][cut:]
    return _joined(lines)


def _bytes_changed(lines: list[bytes], chooser: Random) -> bytes:
    content = bytearray(_joined(lines))
    for _ in range(chooser.randrange(1, 4)):
        content[chooser.randrange(len(content))] = chooser.randrange(256)
    return bytes(content)


def _digit_changed(lines: list[bytes], chooser: Random) -> bytes:
    content = bytearray(_joined(lines))
    at = chooser.choice([match.start() for match in re.finditer(rb"\d", content)])
    content[at] = chooser.choice(b"0123456789")
    return bytes(content)


def _cut(lines: list[bytes], chooser: Random) -> bytes:
    content = _joined(lines)
    return content[: chooser.randrange(len(content))]


def _hole(lines: list[bytes], chooser: Random) -> bytes:
    content = _joined(lines)
    start = chooser.randrange(len(content))
    return content[:start] + content[start + chooser.randrange(1, 400) :]


def _literal(lines: list[bytes], chooser: Random) -> bytes:
    """What JSON has not, or what no writer of ours gives, instead of a number."""
    content = _joined(lines)
    match = chooser.choice(list(re.finditer(rb"(?<=[:\[,])-?\d[\d.e+-]*", content)))
    bad = [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"0x1",
        b"01",
        b"1_0",
        b"nan",
        b"[" * 3000,
        b'{"a":' * 3000,
    ]
    return content[: match.start()] + chooser.choice(bad) + content[match.end() :]


def _key_twice(lines: list[bytes], chooser: Random) -> bytes:
    at = chooser.randrange(len(lines))
    head, brace, tail = lines[at].partition(b"{")
    twice = [b'"relative_l2":0.5,', b'"status":"complete",', b'"event":"model",', b'"run":"0",', b'"device":"npu:0",']
    lines[at] = head + brace + chooser.choice(twice) + tail
    return _joined(lines)


def _line_twice(lines: list[bytes], chooser: Random) -> bytes:
    lines.insert(chooser.randrange(len(lines)), chooser.choice(lines))
    return _joined(lines)


def _lines_swapped(lines: list[bytes], chooser: Random) -> bytes:
    one, two = chooser.sample(range(len(lines)), 2) if len(lines) > 1 else (0, 0)
    lines[one], lines[two] = lines[two], lines[one]
    return _joined(lines)


def _pretended(lines: list[bytes], chooser: Random) -> bytes:
    """A line that claims to be a record."""
    texts = [b"@record ", b"@record null", b"@record []", b"@record {}", b'@record {"run":1,"seq":0,"event":"x"}',
             b'@record {"run":"a","seq":true,"event":"x"}',
             b'@record {"run":"a","seq":0,"event":"run_start","format":1}',
             b"@record \xff\xfe", b"@record @record {}", b"@record " + b"[" * 100_000]  # fmt: skip
    lines.insert(chooser.randrange(len(lines) + 1), chooser.choice(texts))
    return _joined(lines)


def _tail_in_utf_16(lines: list[bytes], chooser: Random) -> bytes:
    """What PowerShell's >> appends."""
    at = chooser.randrange(len(lines))
    return _joined(lines[:at]) + _joined(lines[at:]).decode().encode(chooser.choice(("utf-16-le", "utf-16")))


DRESSES: list[Callable[[list[bytes], Random], bytes]] = [
    lambda lines, r: _joined(lines, b"\r\n"),
    lambda lines, r: b"\xef\xbb\xbf" + _joined(lines),
    lambda lines, r: _joined(lines).decode().encode("utf-16"),
    lambda lines, r: b"\xfe\xff" + _joined(lines).decode().encode("utf-16-be"),
    lambda lines, r: _joined(lines).decode().encode("utf-16-le"),
    lambda lines, r: b"\n".join(lines),
    lambda lines, r: _joined(lines, b"\r"),
    lambda lines, r: gzip.compress(_joined(lines)),
    lambda lines, r: _joined(lines, b"\x1b[0m\r 50%|##   | 4/8 [00:01<00:01]\n"),
    _tail_in_utf_16,
    _noise, _noise, _bar, _bar_inside, _bytes_changed, _digit_changed, _digit_changed, _cut, _hole, _literal,
    _key_twice,
    _line_twice, _lines_swapped, _pretended,
]  # fmt: skip


def records_in(content: bytes) -> dict[bytes, list[bytes]]:
    """The records' texts in a file, by their run, as the format promises them."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", errors="replace").encode()
    found: dict[bytes, list[bytes]] = {}
    for line in content.split(b"\n"):
        for part in line.split(MARKER.encode())[1:]:
            text = part[: _length_of_object(part)]
            match = re.match(rb'{"run":"([^"]*)"', text)
            found.setdefault(match[1] if match else text, []).append(text)
    return found


def _length_of_object(text: bytes) -> int:
    """Up to the brace that closes the first one; everything where none does."""
    depth = 0
    for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[{}]', text):
        depth += {b"{": 1, b"}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return len(text)


# ------------------------------------------------------------------------------------------------------- the fuzzer
@dataclass
class Counts:
    """What became of the mutants, and the first few that went wrong."""

    mutants: int = 0
    signed_again: int = 0
    last: str = ""
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=lambda: {"false PASS": [], "tracebacks": [], "unclear": []})

    def lines(self) -> list[str]:
        rows = {"mutants": self.mutants, "signed again": self.signed_again}
        rows |= {"PASS, meaning unchanged": self.verdicts["PASS"] - len(self.faults["false PASS"])}
        rows |= {name: self.verdicts[name] for name in ("FAIL", "CANNOT JUDGE")}
        rows |= {name: len(found) for name, found in self.faults.items()}
        return [f"{name:<24}{count}" for name, count in rows.items()]

    @property
    def first_faults(self) -> list[str]:
        return [f"{kind}: {text}" for kind, found in self.faults.items() for text in found[:5]]


def fuzz(pairs: Sequence[Pair], mutants: int, seed: int, keep: Path | None = None) -> Counts:
    """Judge this many mutants. Those that went wrong are left in the folder `keep`."""
    counts, chooser = Counts(), random.Random(seed)
    templates = [[json.dumps(run) for run in pair.runs] for pair in pairs]
    for number in range(mutants):
        runs: list[Records] = [json.loads(run) for run in chooser.choice(templates)]
        edits = chooser.choices(EDITS, k=chooser.choice((1, 1, 1, 2, 3)))
        for edit in edits:
            edit(runs, pairs, chooser)
        runs = [run for run in runs if run]
        signed = chooser.random() < 0.5
        if signed:
            runs = [sign(run) for run in runs]
        plain = as_lines(runs, chooser)
        content = dress(plain, chooser) if plain and chooser.random() < (0.2 if signed else 0.7) else _joined(plain)
        counts.mutants += 1
        counts.signed_again += signed
        fault = _judge(content, counts)
        if fault is None and counts.last == "PASS" and not _may_pass(content, plain, runs, pairs, signed):
            fault = "false PASS"
        if fault:
            counts.faults[fault].append(f"seed {seed}, mutant {number}: {', '.join(e.__name__ for e in edits)}")
            if keep:
                (keep / f"{fault.replace(' ', '_')}_{seed}_{number}.log").write_bytes(content)
    return counts


def _may_pass(content: bytes, plain: list[bytes], runs: Sequence[Records], pairs: Sequence[Pair], signed: bool) -> bool:
    """Signed, what still says the same, and no text changed since; unsigned, the very texts of whole good runs."""
    found = records_in(content)
    if signed:
        names = {run[0]["run"] for run in runs}
        return len(names) == len(runs) and found == records_in(_joined(plain)) and may_pass(runs, pairs)
    good = [[text_of(record).encode() for record in run] for pair in pairs for run in pair.runs]
    whole = all(texts in good for texts in found.values())
    return whole and may_pass([[json.loads(text) for text in texts] for texts in found.values()], pairs)


def _judge(content: bytes, counts: Counts) -> str | None:
    """Give the mutant to the checker's standard input; what is wrong with its answer, if anything."""
    out, err = io.StringIO(), io.StringIO()
    standard_input = mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), standard_input:
            code = checker.main(["-", "--max-accuracy-drop", DROP])
    except Exception:
        traceback.print_exc()
        return "tracebacks"
    lines = out.getvalue().splitlines()
    verdict = {0: "PASS", 1: "FAIL", 2: "CANNOT JUDGE"}[code]
    counts.verdicts[verdict] += 1
    counts.last = verdict
    clear = lines[-1:] == [f"OVERALL: {verdict}"] and len(err.getvalue().splitlines()) <= 1
    unclear = not clear or max(map(len, lines)) > LONGEST or "\x1b" in out.getvalue() + err.getvalue()
    return "unclear" if unclear else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", nargs=2, type=Path, metavar="LOG", help="an accuracy and a perf log that pass")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the mutants that went wrong there")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = pairs_of(*(args.logs or make_logs(folder)))
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        counts = fuzz(pairs, args.mutants, args.seed, args.keep)
        print("\n".join([*counts.lines(), f"{'seconds':<24}{time.perf_counter() - start:.1f}", *counts.first_faults]))
    return 1 if counts.first_faults else 0


def make_logs(folder: Path) -> tuple[Path, Path]:
    """The logs of a tiny model on the CPU, of a few images in folders that are their classes."""
    from conftest import PERF_QUICK, save_timm
    from helpers.image_folders import write_classes

    import accuracy_run
    import accuracy_run_perf

    images = write_classes(folder / "images", {"one": 2, "other": 2}, spread=10)
    model = save_timm(folder / "tiny_timm")
    common = ["--model", str(model), "--device", "cpu", "--log-dir", str(folder), "--image", str(images)]
    with contextlib.redirect_stdout(io.StringIO()):
        accuracy_run.main([*common, "--task", "--max-accuracy-drop", DROP])
        accuracy_run_perf.main([*common, *PERF_QUICK, "--explain"])
    return folder / "accuracy.log", folder / "benchmark.log"


if __name__ == "__main__":
    sys.exit(main())
