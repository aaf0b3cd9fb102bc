"""The checks of a performance run: every figure computed again from raw samples, none that is physically impossible."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.log import formulas
from common.log.figures import percent
from common.log.runlog import Record, Run
from common.verdict.evidence import (
    RELATIVE_TOLERANCE,
    Bounds,
    Check,
    UnjudgeableError,
    Verdict,
    at_most,
    equal,
    is_whole,
    number,
    number_or_none,
    numbers,
    one,
    passed,
    setting,
    text,
)

OUTPUT_TOLERANCE = {"float32": 0.01, "float16": 0.01, "bfloat16": formulas.LARGEST_ALLOWED}
PASSES = ("latency", "throughput", "end_to_end")
PHASES = ("before", "after")
OPERATORS = {"matmul", "conv", "attention", "other"}  # whose operations a run counts
LARGEST_COUNT = 2**53  # beyond it a float64 counts no more
CONVOLUTIONAL = 0.5  # the share of the operations above which convolution algorithms may beat the count


def check_perf(run: Run, bounds: Bounds) -> Iterator[Check]:
    """One performance run: every batch size that it set out to measure, computed again from its raw samples."""
    declared = [require_count(size, "run_start") for size in numbers(run.start, "batch_sizes")]
    rows = {number(record, "batch_size"): record for record in run.events("perf")}
    complete = len(run.events("perf")) == len(declared) and set(rows) == set(declared) and 1 in declared
    complete &= {number(record, "batch_size") for record in run.events("latencies")} <= set(declared)
    found = " ".join(f"{size:g}" for size in sorted(rows))
    bound = " ".join(map(str, sorted({1, *declared})))
    yield Check("batch sizes", found, bound, Verdict.PASS if complete else Verdict.CANNOT_JUDGE)
    if not complete:
        return

    limits = measured_limits(run)
    if limits:
        yield check_limits(run, limits)
    figures: dict[int, Mapping[str, Any]] = {}
    for batch_size in declared:
        row = rows[batch_size]
        name, status = f"batch {batch_size}", text(row, "status")
        yield Check(f"{name} status", status, "ok", passed(status == "ok"))
        if status == "ok":
            figures[batch_size] = compute_figures(run, batch_size, limits)
            yield check_summary(row, figures[batch_size])
            yield from check_timed_output(run, row)
            if limits:
                yield check_possible(run, batch_size, figures[batch_size])

    if bounds.min_throughput is not None:
        best = max((row["throughput_ips"] for row in figures.values()), default=0.0)
        verdict = passed(best >= bounds.min_throughput)
        yield Check("best throughput_ips", f"{best:.2f}", f">= {bounds.min_throughput:g}", verdict)
    if bounds.max_latency_ms is not None and 1 in figures:
        latency = figures[1]["avg_latency_ms"]
        verdict = passed(latency <= bounds.max_latency_ms)
        yield Check("batch 1 avg_latency_ms", f"{latency:.3f}", f"<= {bounds.max_latency_ms:g}", verdict)
    if number(run.start, "ranks") != 1:
        yield from check_ranks(run, declared)
    for record in run.events("speedup"):
        yield check_speedup(record, figures.get(1))


def compute_figures(run: Run, batch_size: int, limits: list[float]) -> dict[str, Any]:
    """The figures of one batch size, from the raw samples of its three passes."""
    latency_ms, one_call = raw_samples(run, batch_size, "latency")
    window_ms, calls = raw_samples(run, batch_size, "throughput")
    end_to_end_ms, single = raw_samples(run, batch_size, "end_to_end")
    if (one_call, single) != (1, 1):
        raise UnjudgeableError(f"batch {batch_size}: a sample of latency or end_to_end is not of one call")
    throughput_ips = formulas.images_per_second(window_ms, batch_size * calls)
    gflop = number(one(run, "model"), "gflop_per_image") if limits else 0.0
    return {
        "batch_size": batch_size,
        **formulas.summarize_latency(latency_ms),
        "throughput_ips": throughput_ips,
        "end_to_end_ips": formulas.images_per_second(end_to_end_ms, batch_size),
        **formulas.beside_the_limit(throughput_ips, gflop, limits),
    }


def check_summary(row: Record, figures: Mapping[str, Any]) -> Check:
    """The figures of one batch size are those of its raw samples."""
    wrong = [key for key, value in figures.items() if not is_figure(row, key, value)]
    value = f"{wrong[0]} contradicts its samples" if wrong else f"n={figures['n']}, computed again"
    return Check(f"batch {number(row, 'batch_size'):g} summary", value, "equal", passed(not wrong))


def is_figure(row: Record, key: str, expected: float | bool | None) -> bool:
    if isinstance(expected, bool):
        return row.get(key) is expected
    return equal(number_or_none(row, key), expected)


def raw_samples(run: Run, batch_size: int, name: str) -> tuple[list[float], int]:
    """The times in ms of one pass, each of `calls` calls."""
    of_batch = [record for record in run.events("latencies") if number(record, "batch_size") == batch_size]
    if any(record.get("pass") not in PASSES for record in of_batch):
        raise UnjudgeableError(f"latencies records of batch {batch_size}: another pass than {', '.join(PASSES)}")
    records = [record for record in of_batch if record["pass"] == name]
    if len(records) != 1:
        raise UnjudgeableError(f"{len(records)} latencies records of batch {batch_size}, pass {name}, not 1")
    return times_and_calls(records[0])


def times_and_calls(record: Mapping[str, Any]) -> tuple[list[float], int]:
    """The `samples_ms` of a record, each of `calls` calls."""
    samples_ms, calls = numbers(record, "samples_ms"), require_count(number(record, "calls"), str(record.get("event")))
    if min(samples_ms) <= 0:
        raise UnjudgeableError(f"{record.get('event')} record: times must be above 0")
    return samples_ms, calls


def require_count(value: float, event: str) -> int:
    """A whole number above 0, and no larger than a computer can count to. Raises UnjudgeableError for any other."""
    if not (is_whole(value) and 1 <= value <= LARGEST_COUNT):
        raise UnjudgeableError(f"{event} record: {value!r} is no count")
    return int(value)


# --------------------------------------------------------------------------------------------- the physical limit
def measured_limits(run: Run) -> list[float]:
    """The limit before and after the sweep, computed again; none where the encoder's operations can't be counted."""
    model = one(run, "model")
    records = run.events("limit")
    if number_or_none(model, "gflop_per_image") is None and not records:
        return []
    if [record.get("phase") for record in records] != list(PHASES):
        raise UnjudgeableError(f"{len(records)} limit records, not one before and one after")
    return [formulas.gemm_tflops([checked_shape(shape, record) for shape in shapes_of(record)]) for record in records]


def shapes_of(record: Record) -> list[Any]:
    shapes = record.get("shapes")
    if not isinstance(shapes, list) or not shapes:
        raise UnjudgeableError("limit record: no shapes")
    return shapes


def checked_shape(shape: object, record: Record) -> dict[str, Any]:
    """One matrix product of a limit record, its sizes, operations and times above 0."""
    if not isinstance(shape, dict):
        raise UnjudgeableError("limit record: a shape is no object")
    named = {**shape, "event": record["event"]}
    samples_ms, calls = times_and_calls(named)
    sizes, gflop = numbers(named, "shape"), number(named, "gflop")
    if len(sizes) != 3 or gflop <= 0:
        raise UnjudgeableError("limit record: a shape is not of three sizes and some operations")
    counts = [require_count(size, "limit") for size in sizes]
    return {"shape": counts, "gflop": gflop, "calls": calls, "samples_ms": samples_ms}


def check_limits(run: Run, limits: list[float]) -> Check:
    """The limit is that of its raw samples, in the run's dtype; the count of operations agrees with itself."""
    model = one(run, "model")
    gflop, by_operator = number(model, "gflop_per_image"), operations(model)
    parts = [sorted(number(shape, "gflop") for shape in shapes_of(record)) for record in run.events("limit")]
    faults = []
    if parts[0] != parts[-1]:
        faults.append("other shapes before than after")
    if not equal(gflop, math.fsum(by_operator.values())) or min(by_operator.values()) < 0 or gflop <= 0:
        faults.append("gflop_per_image contradicts its parts")
    if max(map(math.fsum, parts)) > gflop * (1 + RELATIVE_TOLERANCE):
        faults.append("the shapes have more operations than the encoder")
    for record, tflops in zip(run.events("limit"), limits, strict=True):
        if not equal(number(record, "gemm_tflops"), tflops):
            faults.append("gemm_tflops contradicts its samples")
        if text(record, "dtype") != text(model, "dtype"):
            faults.append(f"the limit is of {text(record, 'dtype')}")
    value = faults[0] if faults else f"{max(limits):.3f} TFLOP/s, computed again"
    return Check("limit", value, "equal", passed(not faults))


def operations(model: Record) -> dict[str, float]:
    """The model's operations for an image, by operator."""
    found = model.get("gflop_by_operator")
    if not isinstance(found, dict) or not found:
        raise UnjudgeableError("model record: no gflop_by_operator")
    if not set(found) <= OPERATORS:
        raise UnjudgeableError("model record: gflop_by_operator names an operator that is not counted")
    return {key: number({"event": "model", **found}, key) for key in found}


def check_possible(run: Run, batch_size: int, figures: Mapping[str, Any]) -> Check:
    """No pass is faster than the device can be: it was synchronised, and something was computed.

    The algorithms for convolutions may take fewer operations than are counted, so that there it is a remark.
    """
    share = figures["percent_of_limit"] * formulas.fastest_ips(figures) / figures["throughput_ips"]
    possible = share <= formulas.MOST_OF_LIMIT
    exempt = is_convolutional(one(run, "model"))
    bound = "any: convolutions" if exempt else at_most(formulas.MOST_OF_LIMIT)
    value = f"{share:.1%}" if possible else f"{share:.1%}: not synchronised?"
    return Check(f"batch {batch_size} percent_of_limit", value, bound, passed(possible or exempt))


def is_convolutional(model: Record) -> bool:
    by_operator = operations(model)
    return by_operator.get("conv", 0.0) > CONVOLUTIONAL * math.fsum(by_operator.values())


# ------------------------------------------------------------------------------------------------ what was timed
def check_timed_output(run: Run, row: Record) -> Iterator[Check]:
    """What was timed computed the right thing on the right device."""
    name = f"batch {number(row, 'batch_size'):g}"
    found, wanted = f"{text(row, 'device')} {text(row, 'dtype')}", setting(run)
    yield Check(f"{name} computed on", found, wanted, passed(found == wanted))
    bound = output_tolerance(run)
    error = percent(number_or_none(row, "output_relative_l2"))
    yield Check(f"{name} output_relative_l2", error, at_most(bound), passed(is_right(row, bound)))


def is_right(timed: Mapping[str, Any], bound: float) -> bool:
    """Whether the outputs of a row or a rank were finite and those of the images alone."""
    error, nonfinite = number_or_none(timed, "output_relative_l2"), number(timed, "nonfinite")
    return nonfinite == 0 and error is not None and 0 <= error <= bound


def output_tolerance(run: Run) -> float:
    """How far outputs of the same image may differ between batch sizes, which round differently."""
    dtype = text(one(run, "model"), "dtype")
    if dtype not in OUTPUT_TOLERANCE:
        raise UnjudgeableError(f"dtype {dtype} is not one that this program judges")
    return OUTPUT_TOLERANCE[dtype]


def check_speedup(record: Record, figures: Mapping[str, Any] | None) -> Check:
    """The speedup and its baseline are those of the baseline's raw samples and of batch size 1."""
    samples_ms, _ = times_and_calls({**record, "samples_ms": record.get("baseline_samples_ms"), "calls": 1})
    baseline = math.fsum(samples_ms) / len(samples_ms)
    right = (
        figures is not None
        and equal(number(record, "baseline_latency_ms"), baseline)
        and equal(number(record, "speedup"), baseline / figures["avg_latency_ms"])
        and number(record, "baseline_threads") >= 1
    )
    return Check("speedup", f"{number(record, 'speedup'):.2f}x", "as computed again", passed(right))


def check_same_outputs(accuracy: Run, perf: Run) -> Iterator[Check]:
    """What was timed is what was verified: the embedding of an image that both runs saw."""
    verified: dict[str, list[float]] = {}
    for sample in accuracy.events("sample"):
        if sample.get("output") == "embedding":
            image, fingerprint = text(sample, "image_sha256"), numbers(sample, "fingerprint")
            if verified.setdefault(image, fingerprint) != fingerprint:
                raise UnjudgeableError("sample records: two fingerprints of one image")
    if len(set(map(len, verified.values()))) > 1:
        raise UnjudgeableError("sample records: fingerprints of different lengths")
    bound = output_tolerance(perf)
    for row in perf.events("perf"):
        if row.get("status") != "ok":
            continue
        name = f"batch {number(row, 'batch_size'):g} same embedding"
        expected, found = verified.get(text(row, "image_sha256")), numbers(row, "fingerprint")
        if expected is None:
            yield Check(name, "no image in common", "one; give both --image", Verdict.CANNOT_JUDGE)
            continue
        difference = math.dist(expected, found) if len(expected) == len(found) else math.inf
        size = math.hypot(*expected)
        verdict = passed(0 < size < math.inf and difference <= bound * size)
        shown = percent(difference / size) if size > 0 else "zero embedding"
        yield Check(name, f"within {shown}", at_most(bound), verdict)


# ------------------------------------------------------------------------------------------------- several ranks
def check_ranks(run: Run, batch_sizes: Sequence[int]) -> Iterator[Check]:
    """Of a run on several ranks: each measured every batch size on a device of its own, and the total is theirs."""
    for batch_size in batch_sizes:
        records = [record for record in run.events("ranks") if record.get("batch_size") == batch_size]
        if len(records) != 1:
            raise UnjudgeableError(f"{len(records)} ranks records of batch {batch_size}, not 1")
        record, name = records[0], f"batch {batch_size} ranks"
        shares = record.get("shares")
        if not isinstance(shares, list) or not all(isinstance(share, dict) for share in shares):
            raise UnjudgeableError(f"{name}: no shares")
        whole = len(shares) == number(run.start, "ranks") and text(record, "status") == "ok"
        yield Check(name, f"{len(shares)}, {text(record, 'status')}", f"{run.start['ranks']}, ok", passed(whole))
        if whole:
            yield check_shares(run, record, shares, name)


def check_shares(run: Run, record: Record, shares: Sequence[Record], name: str) -> Check:
    raw = [dict(zip(("samples_ms", "calls"), times_and_calls(share), strict=True)) for share in shares]
    alone = record.get("alone")
    if not isinstance(alone, dict):
        raise UnjudgeableError(f"{name}: no samples of a rank alone")
    single = dict(zip(("samples_ms", "calls"), times_and_calls({**alone, "event": "ranks"}), strict=True))
    found = formulas.scaling(int(number(record, "batch_size")), raw, single)
    figures = ("total_throughput_ips", "scaling_efficiency", "alone_throughput_ips")
    faults = [key for key in figures if not equal(number(record, key), found[key])]
    each = numbers(record, "throughput_ips")
    if len(each) != len(shares) or not all(map(equal, each, found["throughput_ips"])):
        faults.append("throughput_ips")
    kind = text(one(run, "env"), "device").partition(":")[0]
    devices = {(number(share, "node"), text(share, "device")) for share in shares}
    if kind != "cpu" and len(devices) < len(shares):
        faults.append("one device for several ranks")
    if any(device.partition(":")[0] != kind for _, device in devices):
        faults.append("a rank on another kind of device")
    if any(share.get("status") != "ok" for share in shares):
        faults.append("a rank that failed")
    bound = output_tolerance(run)
    if not all(is_right(share, bound) for share in shares):
        faults.append("an output that is not the encoder's")
    value = faults[0] if faults else f"{found['total_throughput_ips']:.2f} images/s, {found['scaling_efficiency']:.1%}"
    return Check(f"{name} total", value, "as computed again", passed(not faults))


# ---------------------------------------------------------------------------------------------- an earlier run
def check_regression(run: Run, earlier: Run, allowed: float) -> Iterator[Check]:
    """Each batch size against the same of an earlier run on the same kind of device: SLOWER fails.

    Compared are the medians of a call's time, in the latency and in the throughput pass.
    """
    facts = {"env": ["device_name"], "model": ["model", "weights_sha256", "dtype", "numerics"]}
    if text(one(run, "env"), "device") == "cpu":
        facts["env"] += ["cpu_model", "cpu_threads", "cpu_quota"]
    different = [
        f"{key}: {str(one(earlier, event).get(key))[:16]}, now {str(one(run, event).get(key))[:16]}"
        for event, keys in facts.items()
        for key in keys
        if one(run, event).get(key) != one(earlier, event).get(key)
    ]
    if different:
        yield Check("baseline", "; ".join(different), "the same setting", Verdict.CANNOT_JUDGE)
        return
    measured = {number(row, "batch_size") for row in run.events("perf") if row.get("status") == "ok"}
    for row in earlier.events("perf"):
        batch_size = int(number(row, "batch_size"))
        if row.get("status") != "ok":
            continue
        if batch_size not in measured:
            yield Check(f"batch {batch_size} against baseline", "not measured", "measured", Verdict.CANNOT_JUDGE)
            continue
        for name in ("latency", "throughput"):
            before, now = call_times(earlier, batch_size, name), call_times(run, batch_size, name)
            word = formulas.compare_times(before, now, allowed)
            value = f"{word}: {statistics.median(before):.3f} -> {statistics.median(now):.3f} ms"
            bound = f"at most {allowed * 100:g}% slower"
            yield Check(f"batch {batch_size} {name} against baseline", value, bound, passed(word != "SLOWER"))


def call_times(run: Run, batch_size: int, name: str) -> list[float]:
    """The times in ms of a call in one pass; of the throughput pass a window's mean."""
    samples_ms, calls = raw_samples(run, batch_size, name)
    return [sample / calls for sample in samples_ms]
