"""Judge the logs of accuracy_run.py and accuracy_run_perf.py: PASS, FAIL or CANNOT JUDGE.

Only complete, consistent evidence can pass: whole logs, accuracy and performance of the same weights on the same
device with the same code, every figure finite and inside its bound, every summary computed again from its samples.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import environment
import options
import summaries
from options import UserError
from runlog import Record, Run, UnreadableRecordError, percent, printable, read_runs
from summaries import OUTPUTS

SCRIPT = "check_accuracy_run_perf.py"
EXAMPLES = """examples:
  python check_accuracy_run_perf.py                          logs/accuracy.log, logs/benchmark.log
  python check_accuracy_run_perf.py log.txt --require-device npu
  cat accuracy_log.txt perf_log.txt | python check_accuracy_run_perf.py -

exit codes: 0 PASS, 1 FAIL, 2 CANNOT JUDGE
"""
DEFAULT_LOGS = ("logs/accuracy.log", "logs/benchmark.log")
WIDEST = 36  # columns that a cell may make its column wide; beyond it only its own row moves
KIND = {"accuracy_run.py": "accuracy", "accuracy_run_perf.py": "perf"}
FEW_SAMPLES = 5  # below it not even the median is bounded
RELATIVE_TOLERANCE = 1e-9  # of figures that are computed again from the same float64 numbers
ABSOLUTE_TOLERANCE = 1e-12  # likewise, where they cancel
OUTPUT_TOLERANCE = {"float32": 0.01, "float16": 0.01, "bfloat16": 0.1}

# What the runs of one verdict must have in common, beside weights, dtype and device.
COMMON_FACTS = {
    "run_start": ("code_sha256",),
    "env": (
        *("device_name", "simulated", "python", "platform", "cpu_model", "cann", *environment.PACKAGES),
        *("npu_driver", "allow_hf32", "fallback_disabled", "task_queue_enable", "visible_devices"),
    ),
    "model": ("model", "architecture", "params", "input_size", "preprocess", "compiled", "operators", "classifier"),
}


class Verdict(IntEnum):
    """In rising order of how bad it is: the worst counts. The value is the exit code."""

    PASS = options.EXIT_OK
    FAIL = options.EXIT_FAIL
    CANNOT_JUDGE = options.EXIT_ERROR

    def __str__(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    value: str
    bound: str
    verdict: Verdict


class UnjudgeableError(Exception):
    """A record lacks what a check needs."""


@dataclass(frozen=True)
class Gates:
    """The bounds that the command line sets."""

    threshold: float
    require_device: str | None
    allow_random_weights: bool
    min_throughput: float | None
    max_latency_ms: float | None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.Parser(SCRIPT, __doc__, EXAMPLES)
    parser.add_argument(
        "logs",
        nargs="*",
        default=DEFAULT_LOGS,
        metavar="LOG",
        help="logs, several runs in one file too; - is standard input (default: logs/accuracy.log logs/benchmark.log)",
    )
    parser.add_argument(
        "--require-device", choices=("npu", "cuda", "cpu"), help="FAIL evidence from any other kind of device"
    )
    parser.add_argument(
        "--threshold",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="the largest relative_error and relative_l2, whatever the log's own was (default: %(default)s)",
    )
    parser.add_argument(
        "--min-throughput",
        type=options.positive_float,
        metavar="IPS",
        help="images a second that the best batch size must reach",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=options.positive_float,
        metavar="MS",
        help="the largest average latency at batch size 1",
    )
    parser.add_argument(
        "--allow-random-weights", action="store_true", help="judge evidence that was made with --weights random"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    gates = Gates(
        args.threshold, args.require_device, args.allow_random_weights, args.min_throughput, args.max_latency_ms
    )
    try:
        runs = [run for log in args.logs for run in read_log(log)]
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        checks: list[Check] = [Check("logs", "unreadable", "readable", Verdict.CANNOT_JUDGE)]
        remarks: list[str] = []
    else:
        checks, remarks = judge(runs, gates)
    print_table(checks)
    for remark in remarks:
        print(printable(remark))
    verdict = max((check.verdict for check in checks), default=Verdict.CANNOT_JUDGE)
    print(f"OVERALL: {verdict}")
    return int(verdict)


def read_log(name: str) -> list[Run]:
    """The runs in a log file, or in standard input for `-`. Raises UserError when there is nothing to judge."""
    try:
        if name == "-":
            runs = list(read_runs(text_lines(sys.stdin.buffer)))  # type: ignore[arg-type]
        else:
            with open(name, "rb") as file:
                runs = list(read_runs(text_lines(file)))
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror}") from error
    except UnreadableRecordError as error:
        raise UserError(f"{name}: {error}") from error
    if not runs:
        raise UserError(f"{name} holds no records")
    return runs


def text_lines(file: io.BufferedReader) -> Iterable[bytes]:
    """The lines of a log; PowerShell's `tee` writes UTF-16, which its byte order mark shows."""
    if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return (line.encode() for line in io.TextIOWrapper(file, "utf-16", errors="replace"))
    return file


def print_table(checks: Sequence[Check]) -> None:
    """One line a check, in at most 100 columns unless a name, value or bound is unusually long."""
    rows = [(printable(c.name), printable(c.value), printable(c.bound), str(c.verdict)) for c in checks]
    rows.insert(0, ("check", "value", "bound", "verdict"))
    widths = [max(len(row[column]) for row in rows if len(row[column]) <= WIDEST) for column in range(3)]
    for name, value, bound, verdict in rows:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {bound:<{widths[2]}}  {verdict}".rstrip())


# -------------------------------------------------------------------------------------------- reading the records
def one(run: Run, event: str) -> Record:
    """The run's only record of this event."""
    records = run.events(event)
    if len(records) != 1:
        raise UnjudgeableError(f"{len(records)} {event} records, not 1")
    return records[0]


def number(record: Mapping[str, object], key: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnjudgeableError(f"{record.get('event')} record: {key} is {value!r}, not a number")
    return value


def number_or_none(record: Mapping[str, object], key: str) -> float | None:
    """None stands for a value that was not finite, or too few samples; a key that is missing is no value at all."""
    return None if key in record and record[key] is None else number(record, key)


def text(record: Mapping[str, object], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UnjudgeableError(f"{record.get('event')} record: {key} is {value!r}, not a text")
    return value


def numbers(record: Mapping[str, object], key: str) -> list[float]:
    """A list of at least one number."""
    values = record.get(key)
    if not isinstance(values, list) or not values:
        raise UnjudgeableError(f"{record.get('event')} record: {key} is no list of numbers")
    return [number({"event": record.get("event"), key: value}, key) for value in values]


def equal(found: float | None, expected: float | None) -> bool:
    """Whether a figure in the log is the one computed again; None equals only None."""
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def at_most(fraction: float) -> str:
    return f"<= {fraction * 100:g}%"


# ------------------------------------------------------------------------------------------------------- judging
def judge(runs: Sequence[Run], gates: Gates) -> tuple[list[Check], list[str]]:
    """All checks of all runs, and what must be said right before the verdict."""
    checks = [check_integrity(run) for run in runs]
    if any(check.verdict for check in checks):
        return checks, []
    groups: dict[tuple[str, ...], list[Run]] = {}
    try:
        for run in runs:
            if text(run.start, "script") in KIND:
                groups.setdefault(identity(run), []).append(run)
    except UnjudgeableError as error:
        return [*checks, Check("evidence", str(error), "whole records", Verdict.CANNOT_JUDGE)], []
    if not groups:
        return [*checks, Check("evidence", "no accuracy, no perf run", "both", Verdict.CANNOT_JUDGE)], []
    remarks: list[str] = []
    for key, group in groups.items():
        prefix = f"{' '.join(key[1:])}: " if len(groups) > 1 else ""
        checks += [replace(check, name=prefix + check.name) for check in check_group(group, gates)]
        remarks += [remark for remark in remarks_on(group) if remark not in remarks]
    return checks, remarks


def check_integrity(run: Run) -> Check:
    name = f"{run.start.get('script', 'run')} {run.records[0]['run'][:8]}"
    if run.problems:
        return Check(name, "; ".join(run.problems), "a whole run", Verdict.CANNOT_JUDGE)
    return Check(name, f"{len(run.records)} records", "a whole run", Verdict.PASS)


def identity(run: Run) -> tuple[str, ...]:
    """What a run is evidence of: runs of different identity are judged apart."""
    model, env = one(run, "model"), one(run, "env")
    asked = [text(model, key) for key in ("weights_sha256", "model", "dtype", "numerics")]
    return *asked, text(env, "device")


def remarks_on(group: Sequence[Run]) -> Iterator[str]:
    """What a reader must know before the verdict: what this evidence does not prove."""
    env, model = one(group[0], "env"), one(group[0], "model")
    for run in group:
        for record in run.events("perf"):
            if isinstance(record.get("n"), int) and record["n"] < FEW_SAMPLES:
                yield f"warning: batch {record.get('batch_size')} was timed {record['n']} times only."
        for record in run.events("fallback"):
            yield f"warning: operators ran on the CPU: {record.get('operators')}."
    for run in group:
        for record in run.events("accuracy"):
            error = record.get("relative_l2")
            strict = (model.get("numerics"), model.get("dtype")) == ("strict", "float32")
            if strict and isinstance(error, float) and summaries.is_far_above_noise(error, noise_floor(run, record)):
                yield f"warning: {record.get('output')} errs by {percent(error)}: float32 alone is far below that."
    if model.get("numerics") != "strict":
        yield f"{model.get('numerics')} numerics: the device's defaults, as probed, not what the model asks for."
    if model.get("weights_source") == "random":
        yield "random weights: this says nothing about a pretrained model's weights."
    if env["device"] == "cpu":
        yield "CPU evidence: it says nothing about an NPU."
    elif is_simulated(env):
        yield f"simulated device {env.get('device_name')}: it says nothing about Ascend hardware."


def noise_floor(run: Run, accuracy: Record) -> float | None:
    """What the run measured of its CPU's float32 against float64; None where it did not."""
    floors = [record for record in run.events("noise_floor") if record.get("output") == accuracy.get("output")]
    floor = floors[0].get("relative_l2") if floors else None
    return floor if isinstance(floor, float) else None


def is_simulated(env: Record) -> bool:
    named = f"{env.get('device_name')} {env.get('torch_npu')}"
    return env.get("simulated") is not False or "SIM" in named or "simulated" in named


def check_group(group: Sequence[Run], gates: Gates) -> Iterator[Check]:
    """The checks of all runs of one identity."""
    kinds = {kind: [run for run in group if KIND[run.start["script"]] == kind] for kind in ("accuracy", "perf")}
    for kind, runs in kinds.items():
        if not runs:
            yield Check(f"{kind} run", "none", "of the same weights, dtype, device", Verdict.CANNOT_JUDGE)
    yield check_common_facts(group)
    for run in group:
        yield from guarded(check_setting(run, gates))
        yield from guarded(check_numerics(run))
    for run in kinds["accuracy"]:
        yield from guarded(check_references(run, gates.threshold))
    for run in kinds["perf"]:
        yield from guarded(check_perf(run, gates))
    for perf in kinds["perf"]:
        for accuracy in kinds["accuracy"]:
            yield from guarded(check_same_outputs(accuracy, perf))


def guarded(checks: Iterator[Check]) -> Iterator[Check]:
    """`checks`, ended by a CANNOT JUDGE where a record lacks what they need."""
    try:
        yield from checks
    except UnjudgeableError as error:
        yield Check("records", str(error), "whole records", Verdict.CANNOT_JUDGE)


def check_common_facts(group: Sequence[Run]) -> Check:
    """Code, libraries, device and preprocessing are the same in all runs."""
    different = []
    for event, keys in COMMON_FACTS.items():
        for key in keys:
            values = [run.events(event)[0].get(key) for run in group]
            if any(value != values[0] for value in values):
                different.append(f"{key} differs: {' / '.join(str(value)[:24] for value in values)}")
    if different:
        return Check("same setting", "; ".join(different), "equal in all runs", Verdict.CANNOT_JUDGE)
    return Check("same setting", "code, versions, device", "equal in all runs", Verdict.PASS)


def check_setting(run: Run, gates: Gates) -> Iterator[Check]:
    """What was run, and on what."""
    env, model, kind = one(run, "env"), one(run, "model"), KIND[run.start["script"]]
    device = text(env, "device")
    device_kind = device.partition(":")[0]

    name = f"{device} {text(env, 'device_name')}"
    required = gates.require_device or device_kind
    yield Check(f"{kind} device", name, required, passed(device_kind == required and text(env, "device_name") != ""))
    placed = text(env, "parameters_device")
    yield Check(f"{kind} weights on", placed, device, passed(placed == device))
    if device_kind == "npu" and not is_simulated(env):
        versions = f"torch_npu {env.get('torch_npu')}, CANN {env.get('cann')}"
        known = isinstance(env.get("torch_npu"), str) and isinstance(env.get("cann"), str)
        yield Check(f"{kind} NPU software", versions, "both known", Verdict.PASS if known else Verdict.CANNOT_JUDGE)

    source = text(model, "weights_source")
    allowed = source != "random" or gates.allow_random_weights
    bound = "any" if gates.allow_random_weights else "not random"
    yield Check(f"{kind} weights", source, bound, Verdict.PASS if allowed else Verdict.CANNOT_JUDGE)
    misfits = number(model, "missing_keys") + number(model, "unexpected_keys")
    yield Check(f"{kind} misfit keys", f"{misfits:g}", "0", passed(misfits == 0))


def check_numerics(run: Run) -> Iterator[Check]:
    """Strict evidence shows a probe that agrees, over the operators of the model; a CPU reference always does."""
    model, found, kind = one(run, "model"), one(run, "numerics"), KIND[run.start["script"]]
    operators, reference, dtype = model.get("operators"), found.get("reference"), text(model, "dtype")
    known = {"conv", "matmul", "attention", "gelu", "gelu_tanh"}
    named = isinstance(operators, list) and operators and set(map(str, operators)) <= known
    if not named or not isinstance(operators, list) or dtype not in summaries.MANTISSA_BITS:
        raise UnjudgeableError("model record: operators or dtype are not those of a numerics probe")
    if not isinstance(reference, dict):
        raise UnjudgeableError("numerics record: no probe of the reference")
    strict = text(model, "numerics") == "strict"
    faults = summaries.probe_contradictions(found, operators, dtype)
    value, bound = "; ".join(faults) or f"as {dtype} asks", "as asked" if strict else "any: fast numerics"
    yield Check(f"{kind} probe of the device", value, bound, passed(not (strict and faults)))
    faults = summaries.probe_contradictions(reference, operators, "float32")
    yield Check(f"{kind} probe of the CPU", "; ".join(faults) or "as float32 asks", "as asked", passed(not faults))


def passed(condition: bool) -> Verdict:
    return Verdict.PASS if condition else Verdict.FAIL


def check_references(run: Run, threshold: float) -> Iterator[Check]:
    """Both outputs of one accuracy run against every reference that any of its records names."""
    records = [*run.events("accuracy"), *run.events("sample")]
    references = sorted({text(record, "reference") for record in records})
    if not references:
        raise UnjudgeableError("no accuracy or sample records")
    if any(record.get("output") not in OUTPUTS for record in records):
        raise UnjudgeableError("an accuracy or sample record of another output")
    images = [[r.get("image_sha256") for r in run.events("sample") if r.get("output") == output] for output in OUTPUTS]
    yield Check("images of the outputs", f"{len(images[0])}", "the same for both", passed(images[0] == images[1]))
    for reference in references:
        for output in OUTPUTS:
            prefix = f"{reference} " if len(references) > 1 else ""
            checks = guarded(check_accuracy(run, output, reference, threshold))
            yield from (replace(check, name=prefix + check.name) for check in checks)


def check_accuracy(run: Run, output: str, reference: str, threshold: float) -> Iterator[Check]:
    """One output against one reference: samples that agree with themselves and the summary, errors within bounds."""
    of_both = {"output": output, "reference": reference}.items()
    accuracies = [record for record in run.events("accuracy") if of_both <= record.items()]
    if len(accuracies) != 1:
        raise UnjudgeableError(f"{len(accuracies)} accuracy records of {output} against {reference}, not 1")
    accuracy = accuracies[0]
    samples = [record for record in run.events("sample") if of_both <= record.items()]
    expected = number(accuracy, "samples")
    different = len({text(sample, "image_sha256") for sample in samples})
    complete = different == len(samples) == expected > 0
    yield Check(f"{output} samples", f"{len(samples)}, {different} different", f"{expected:g}", passed(complete))
    if not samples:
        return

    env, model = one(run, "env"), one(run, "model")
    places = {(text(sample, "device"), text(sample, "dtype")) for sample in samples}
    wanted = (text(env, "device"), text(model, "dtype"))
    found = ", ".join(sorted(" ".join(place) for place in places))
    yield Check(f"{output} computed on", found, " ".join(wanted), passed(places == {wanted}))

    references = ("float64",) if wanted == ("cpu", "float32") else ("float32", "float64")
    yield Check(f"{output} reference", reference, " or ".join(references), passed(reference in references))

    counts = [number(sample, "nonfinite") for sample in samples]
    none = counts == [0] * len(counts) and number(accuracy, "nonfinite") == 0
    yield Check(f"{output} NaN or infinite", f"{max(counts):g}", "0", passed(none))
    metrics = [{metric: number_or_none(sample, metric) for metric in summaries.METRICS} for sample in samples]
    contradictions = [fault for sample in metrics for fault in contradictions_in(sample)]
    yield Check(
        f"{output} formulas", contradictions[0] if contradictions else "consistent", "consistent",
        passed(not contradictions),
    )  # fmt: skip

    worst = summaries.worst_metrics(metrics)
    wrong = [metric for metric in summaries.METRICS if not equal(number_or_none(accuracy, metric), worst[metric])]
    yield Check(
        f"{output} worst of samples", f"{wrong[0]} contradicts" if wrong else "as computed again", "equal",
        passed(not wrong),
    )  # fmt: skip
    if output == "hidden_state":
        tokens = [number_or_none(sample, "worst_token_relative_l2") for sample in samples]
        sound = all(token is not None and token >= 0 for token in tokens)
        yield Check(f"{output} worst token", "finite" if sound else "not finite", "finite", passed(sound))
    classifier = output == "embedding" and model.get("classifier") is not False
    allowed = summaries.allowed_error(wanted[1], threshold, number_or_none(accuracy, "expected_relative_l2"))
    for metric in summaries.gated_metrics(classifier):
        value = worst[metric]
        yield Check(
            f"{output} {metric}", percent(value), at_most(allowed), passed(value is not None and 0 <= value <= allowed)
        )

    stated = text(accuracy, "result")
    within = summaries.is_within(worst, 0 if none else 1, number(accuracy, "threshold"), classifier)
    result = "PASS" if within else "FAIL"
    yield Check(f"{output} result in the log", stated, result, passed(stated == result))


def contradictions_in(sample: Mapping[str, float | None]) -> Iterator[str]:
    """Where the metrics of one sample are not finite, out of their range, or contradict each other's formulas."""
    missing = [metric for metric, value in sample.items() if value is None and metric != "sqnr_db"]
    if missing:
        yield f"{missing[0]} is not finite"
        return
    value = {metric: number for metric, number in sample.items() if number is not None}
    nmse, cosine = value["nmse"], value["cosine_similarity"]
    if any(value[metric] < 0 for metric in summaries.ERROR_METRICS):
        yield "an error is negative"
    if not -1 <= cosine <= 1:
        yield "cosine_similarity is outside [-1, 1]"
    if not 0 <= value["top5_match"] <= 1:
        yield "top5_match is outside [0, 1]"
    if value["mean_abs_error"] > value["max_abs_error"]:
        yield "mean_abs_error is above max_abs_error"
    if not equal(nmse, value["relative_l2"] ** 2):
        yield "nmse is not the square of relative_l2"
    if not equal(sample["sqnr_db"], -10 * math.log10(nmse) if nmse > 0 else None):
        yield "sqnr_db does not follow from nmse"
    if not equal(cosine, max(-1.0, 1 - value["one_minus_cosine"])):
        yield "cosine_similarity does not follow from one_minus_cosine"
    if value["relative_l2"] < 1 and value["one_minus_cosine"] > largest_angle(value["relative_l2"]):
        yield "one_minus_cosine is more than relative_l2 allows"
    if len({value[metric] == 0 for metric in ("max_abs_error", "mean_abs_error", "relative_error", "relative_l2")}) > 1:
        yield "some errors are zero and others are not"


def largest_angle(relative_l2: float) -> float:
    """The largest one_minus_cosine of a vector within `relative_l2` < 1 of the reference: a tangent to that sphere."""
    return 1 - math.sqrt(1 - relative_l2**2) + ABSOLUTE_TOLERANCE


def check_perf(run: Run, gates: Gates) -> Iterator[Check]:
    """One performance run: every batch size that it set out to measure, computed again from its raw samples."""
    declared = [int(size) for size in numbers(run.start, "batch_sizes")]
    rows = {number(record, "batch_size"): record for record in run.events("perf")}
    complete = len(run.events("perf")) == len(declared) and set(rows) == set(declared) and 1 in declared
    found = " ".join(f"{size:g}" for size in sorted(rows))
    bound = " ".join(map(str, sorted({1, *declared})))
    yield Check("batch sizes", found, bound, Verdict.PASS if complete else Verdict.CANNOT_JUDGE)
    if not complete:
        return

    throughputs = []
    for batch_size in declared:
        row = rows[batch_size]
        name, status = f"batch {batch_size}", text(row, "status")
        yield Check(f"{name} status", status, "ok", passed(status == "ok"))
        if status != "ok":
            continue
        yield check_summary(run, row)
        yield from check_timed_output(run, row)
        throughputs.append(number(row, "throughput_ips"))

    best = max(throughputs, default=0.0)
    if gates.min_throughput is not None:
        verdict = passed(best >= gates.min_throughput)
        yield Check("best throughput_ips", f"{best:.2f}", f">= {gates.min_throughput:g}", verdict)
    if gates.max_latency_ms is not None and rows[1]["status"] == "ok":
        latency = number(rows[1], "avg_latency_ms")
        verdict = passed(latency <= gates.max_latency_ms)
        yield Check("batch 1 avg_latency_ms", f"{latency:.3f}", f"<= {gates.max_latency_ms:g}", verdict)
    for record in run.events("speedup"):
        yield check_speedup(record, rows[1])


def check_summary(run: Run, row: Record) -> Check:
    """The latency keys and the throughput of one batch size are those of its raw samples."""
    batch_size = int(number(row, "batch_size"))
    latency_ms, _ = raw_samples(run, batch_size, "latency")
    window_ms, calls = raw_samples(run, batch_size, "throughput")
    expected: dict[str, float | None] = {
        **summaries.summarize_latency(latency_ms),
        "throughput_ips": summaries.throughput_ips(window_ms, batch_size * calls),
    }
    wrong = [key for key, value in expected.items() if not equal(number_or_none(row, key), value)]
    value = f"{wrong[0]} contradicts its samples" if wrong else f"n={len(latency_ms)}, computed again"
    return Check(f"batch {batch_size} summary", value, "equal", passed(not wrong))


def raw_samples(run: Run, batch_size: int, name: str) -> tuple[list[float], int]:
    """The times in ms of one pass, each of `calls` calls."""
    records = [r for r in run.events("latencies") if r.get("batch_size") == batch_size and r.get("pass") == name]
    if len(records) != 1:
        raise UnjudgeableError(f"{len(records)} latencies records of batch {batch_size}, pass {name}, not 1")
    samples_ms, calls = numbers(records[0], "samples_ms"), number(records[0], "calls")
    if min(samples_ms) <= 0 or calls < 1 or calls != int(calls):
        raise UnjudgeableError(f"batch {batch_size}, pass {name}: times and calls must be above 0")
    return samples_ms, int(calls)


def check_timed_output(run: Run, row: Record) -> Iterator[Check]:
    """What was timed computed the right thing on the right device."""
    name = f"batch {number(row, 'batch_size'):g}"
    found, wanted = f"{text(row, 'device')} {text(row, 'dtype')}", setting(run)
    yield Check(f"{name} computed on", found, wanted, passed(found == wanted))
    error, nonfinite = number_or_none(row, "output_relative_l2"), number(row, "nonfinite")
    bound = output_tolerance(run)
    verdict = passed(nonfinite == 0 and error is not None and 0 <= error <= bound)
    yield Check(f"{name} output_relative_l2", percent(error), at_most(bound), verdict)


def setting(run: Run) -> str:
    """The device and dtype that all outputs of the run must have."""
    return f"{text(one(run, 'env'), 'device')} {text(one(run, 'model'), 'dtype')}"


def output_tolerance(run: Run) -> float:
    """How far outputs of the same image may differ between batch sizes, which round differently."""
    dtype = text(one(run, "model"), "dtype")
    if dtype not in OUTPUT_TOLERANCE:
        raise UnjudgeableError(f"dtype {dtype} is not one that this program judges")
    return OUTPUT_TOLERANCE[dtype]


def check_speedup(record: Record, single: Record) -> Check:
    """The speedup and its baseline are those of the baseline's raw samples."""
    baseline = summaries.summarize_latency(numbers(record, "baseline_samples_ms"))["avg_latency_ms"]
    measured = number(single, "avg_latency_ms") if single["status"] == "ok" else 0.0
    right = (
        baseline is not None
        and measured > 0
        and equal(number(record, "baseline_latency_ms"), baseline)
        and equal(number(record, "speedup"), baseline / measured)
        and number(record, "baseline_threads") >= 1
    )
    return Check("speedup", f"{number(record, 'speedup'):.2f}x", "as computed again", passed(right))


def check_same_outputs(accuracy: Run, perf: Run) -> Iterator[Check]:
    """What was timed is what was verified: the embedding of an image that both runs saw."""
    verified = {
        text(sample, "image_sha256"): numbers(sample, "fingerprint")
        for sample in accuracy.events("sample")
        if sample.get("output") == "embedding"
    }
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
        verdict = passed(size > 0 and difference <= bound * size)
        shown = percent(difference / size) if size > 0 else "zero embedding"
        yield Check(name, f"within {shown}", at_most(bound), verdict)


if __name__ == "__main__":
    options.run(main)
