"""The checks of a performance run: every figure computed again from raw samples, none that is physically impossible."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from common.cli import options
from common.log import formulas, schema
from common.log.events import (
    COMPILED,
    EAGER,
    OPERATORS,
    Case,
    Cost,
    Env,
    Figures,
    IssueFigures,
    Latencies,
    Limit,
    Model,
    Perf,
    Plan,
    Ranks,
    Sample,
    Scaling,
    Search,
    SearchStep,
    Share,
    Speedup,
    Timed,
    Windows,
)
from common.log.figures import percent, rate
from common.log.reader import Run, UnjudgeableError
from common.verdict.evidence import (
    RELATIVE_TOLERANCE,
    Bounds,
    Check,
    Verdict,
    at_most,
    differences_between,
    equal,
    judgeable,
    passed,
    setting,
)

OUTPUT_TOLERANCE = {"float32": 0.01, "float16": 0.01, "bfloat16": formulas.LARGEST_ALLOWED}
CONVOLUTIONAL = 0.5  # the share of the operations above which convolution algorithms may beat the count


def check_perf(run: Run, bounds: Bounds) -> Iterator[Check]:
    """One performance run: every batch size and mode that it was to measure, computed again from its raw samples."""
    plan = run.start.plan
    if plan is None:
        raise UnjudgeableError("run_start record: no batch_sizes")
    searched = formulas.sizes_of(require_search(run, plan))
    sizes = sorted({*plan.batch_sizes, *searched})
    cases = [Case(mode, size) for mode in planned_modes(run, plan) for size in sizes]
    found, wanted = [row.case for row in run.all(Perf)], sorted({1, *sizes})
    measured = sorted({case.batch_size for case in found})
    complete = sorted(found) == sorted(cases) and measured == wanted == sizes and wanted[0] == 1
    complete &= len(set(plan.batch_sizes)) == len(plan.batch_sizes)
    complete &= {each.case for each in run.all(Latencies)} <= set(cases)
    complete &= {each.case for each in run.all(Ranks)} <= set(cases)
    value = " ".join(map(str, measured)) + ("" if complete or measured != wanted else " in other modes than planned")
    yield Check("batch sizes", value, " ".join(map(str, wanted)), judgeable(complete))
    if not complete:
        return

    limits = measured_limits(run)
    yield check_limits(run, limits)
    figures: dict[Case, Figures] = {}
    for row in run.all(Perf):
        name, ok = str(row.case), row.status == "ok"
        if ok or row.case.mode == EAGER:
            yield Check(f"{name} status", row.status, "ok", passed(ok))
        else:  # a backend that can't do it is no fault of the encoder's: the others stand
            yield Check(f"{name} status", f"{row.status}: {row.reason}", "any: a backend", Verdict.PASS)
        if ok:
            timed, computed = timed_of(row), compute_figures(run, row.case, limits)
            computed = replace(computed, issue=compute_issue(run, row.case, timed.figures))
            figures[row.case] = computed
            yield check_summary(name, timed.figures, computed)
            if computed.latency.n < formulas.FEWEST_SAMPLES:
                yield check_samples(name, computed.latency.n)
            yield from check_timed_output(name, timed, run)
            yield check_possible(name, formulas.fastest_ips(row.batch_size, computed), limits)

    if bounds.min_throughput is not None:
        best = max((each.throughput_ips for each in figures.values()), default=0.0)
        verdict = passed(best >= bounds.min_throughput)
        yield Check("best throughput_ips", f"{best:.2f}", f">= {bounds.min_throughput:g}", verdict)
    alone = {case: each.latency.avg_latency_ms for case, each in figures.items() if case.batch_size == 1}
    if bounds.max_latency_ms is not None and alone:
        case = min(alone, key=lambda each: alone[each])
        verdict = passed(alone[case] <= bounds.max_latency_ms)
        yield Check(f"{case} avg_latency_ms", f"{alone[case]:.3f}", f"<= {bounds.max_latency_ms:g}", verdict)
    if plan.ranks != 1 or run.all(Ranks):
        for row in run.all(Perf):
            if row.status == "ok" or row.case.mode == EAGER:
                yield from check_ranks(run, row.case, plan.ranks)
    for speedup in run.all(Speedup):
        yield check_speedup(speedup, figures.get(Case(EAGER, 1)))


def planned_modes(run: Run, plan: Plan) -> list[str]:
    """Eager, and the backends of torch.compile that were named, or else the one of the device."""
    if plan.backends is None:
        return [EAGER]
    names = plan.backends or [options.DEVICE_KINDS[run.one(Env).kind].compiler]
    return [EAGER, *(COMPILED + name for name in dict.fromkeys(names))]


def require_search(run: Run, plan: Plan) -> list[SearchStep]:
    """The batch sizes that were tried, none where the plan names them all.

    Raises UnjudgeableError where there are others than the plan says, or they do not follow from each other.
    """
    found = run.all(Search)
    if len(found) != (1 if plan.auto else 0):
        raise UnjudgeableError(f"{len(found)} search records, with{'' if plan.auto else 'out'} --batch-sizes auto")
    steps = found[0].steps if found else []
    for step in steps:
        if (step.status == "ok") != (step.windows is not None):
            raise UnjudgeableError("search record: a batch size that is ok without samples, or failed with them")
        if step.windows:
            require_times(step.windows, "search")
    doubled = [step.batch_size for step in steps] == [2**turn for turn in range(len(steps))]
    ends = [formulas.ends_search(steps[: turn + 1]) for turn in range(len(steps))]
    if found and (not doubled or ends != [False] * (len(steps) - 1) + [True]):
        raise UnjudgeableError("search record: its batch sizes do not follow from each other")
    return steps


def timed_of(row: Perf) -> Timed:
    """What was measured of a batch size whose status is ok."""
    if row.timed is None:
        raise UnjudgeableError(f"perf record of batch {row.batch_size}: ok, without figures")
    return row.timed


def compute_figures(run: Run, case: Case, limits: Limits) -> Figures:
    """The figures of one batch size in a mode, from the raw samples of its three passes."""
    latency, throughput, end_to_end = (windows_of(run, case, name) for name in ("latency", "throughput", "end_to_end"))
    if (latency.calls, end_to_end.calls) != (1, 1):
        raise UnjudgeableError(f"{case}: a sample of latency or end_to_end is not of one call")
    ips = formulas.throughput_of(throughput, case.batch_size)
    beside = formulas.beside_the_limit(ips, limits.cost.gflop_per_image, limits.tflops)
    return formulas.summarize_passes(case.batch_size, latency, throughput, end_to_end, beside)


def compute_issue(run: Run, case: Case, stated: Figures) -> IssueFigures | None:
    """What bounds the latency, from the raw samples; None of an earlier log, which has none."""
    issue, latency = issue_of(run, case), windows_of(run, case, "latency")
    if stated.issue is None and issue is None:
        return None
    if stated.issue is None or (issue and run.one(Env).kind == "cpu"):
        raise UnjudgeableError(f"{case}: issue times of a CPU, which has no queue, or without a figure")
    if issue and (
        issue.calls != 1
        or len(issue.samples_ms) != len(latency.samples_ms)
        or any(issued > whole for issued, whole in zip(issue.samples_ms, latency.samples_ms, strict=True))
    ):
        raise UnjudgeableError(f"{case}: issue times that are not of the calls of the latency pass")
    return formulas.issue_figures(issue, latency)


def issue_of(run: Run, case: Case) -> Windows | None:
    """How long the calls of the latency pass took to issue; None where that was not timed."""
    timed = any((each.case, each.pass_) == (case, "issue") for each in run.all(Latencies))
    return windows_of(run, case, "issue") if timed else None


def check_summary(name: str, stated: Figures, computed: Figures) -> Check:
    """The figures of one batch size are those of its raw samples."""
    found = schema.encode(stated)
    wrong = [key for key, value in schema.encode(computed).items() if not equal(found[key], value)]
    value = f"{wrong[0]} contradicts its samples" if wrong else f"n={computed.latency.n}, computed again"
    return Check(f"{name} summary", value, "equal", passed(not wrong))


def check_samples(name: str, timed: int) -> Check:
    """Of fewer calls not even the median is bounded: nothing is proved."""
    bound = f">= {formulas.FEWEST_SAMPLES}: more --iterations or --max-seconds"
    return Check(f"{name} timed calls", str(timed), bound, Verdict.CANNOT_JUDGE)


def windows_of(run: Run, case: Case, name: str) -> Windows:
    """The raw samples of one pass."""
    found = [each for each in run.all(Latencies) if (each.case, each.pass_) == (case, name)]
    if len(found) != 1:
        raise UnjudgeableError(f"{len(found)} latencies records of {case}, pass {name}, not 1")
    return require_times(found[0].windows, "latencies")


def require_times(windows: Windows, event: str) -> Windows:
    """The windows as they are. Raises UnjudgeableError where nothing was timed."""
    if windows.calls < 1 or not windows.samples_ms or min(windows.samples_ms) <= 0:
        raise UnjudgeableError(f"{event} record: no samples_ms, or some not above 0, or calls below 1")
    return windows


# --------------------------------------------------------------------------------------------- the physical limit
@dataclass(frozen=True)
class Limits:
    """What an image costs, and what the device can do in 1e12 operations a second: one figure of what was measured
    during the sweep; in earlier logs one before it and one after it. `spread` is how far the measurements lie apart.
    """

    cost: Cost
    tflops: list[float]
    spread: float

    @property
    def is_steady(self) -> bool:
        return self.spread <= formulas.STEADY_LIMIT

    @property
    def is_convolutional(self) -> bool:
        by_operator = self.cost.gflop_by_operator
        return by_operator.get("conv", 0.0) > CONVOLUTIONAL * math.fsum(by_operator.values())


def measured_limits(run: Run) -> Limits:
    """The limits, computed again from their raw samples."""
    cost, limits = run.one(Model).cost, run.all(Limit)
    if cost is None or not cost.gflop_by_operator:
        raise UnjudgeableError("model record: no gflop_per_image by operator")
    if not cost.gflop_by_operator.keys() <= set(OPERATORS):
        raise UnjudgeableError("model record: gflop_by_operator names an operator that is not counted")
    if [limit.phase for limit in limits] not in (["during"], ["before", "after"]):
        raise UnjudgeableError(f"{len(limits)} limit records, not one during the sweep, or one before and one after")
    for limit in limits:
        require_products(limit)
        require_rounds(limit)
    return Limits(cost, [formulas.gemm_tflops(limit.shapes) for limit in limits], formulas.spread_of(limits))


def require_products(limit: Limit) -> None:
    """Raises UnjudgeableError for no matrix products, or one whose sizes, operations or times are not above 0."""
    for product in limit.shapes:
        require_times(product.windows, "limit")
        if len(product.shape) != 3 or min(product.shape) < 1 or product.gflop <= 0:
            raise UnjudgeableError("limit record: a shape is not of three sizes and some operations")
    if not limit.shapes:
        raise UnjudgeableError("limit record: no shapes")


def require_rounds(limit: Limit) -> None:
    """Raises UnjudgeableError where it is not known which windows of a limit during the sweep are of which round."""
    rounds = [product.windows_a_round for product in limit.shapes]
    if limit.phase != "during":
        if limit.spread is not None or any(counts is not None for counts in rounds):
            raise UnjudgeableError(f"limit record: rounds {limit.phase} the sweep")
        return
    if limit.spread is None:
        raise UnjudgeableError("limit record: no spread")
    for product, counts in zip(limit.shapes, rounds, strict=True):
        if counts is None or min(counts, default=-1) < 0 or sum(counts) != len(product.windows.samples_ms):
            raise UnjudgeableError("limit record: windows_a_round are not those of the samples")
    if len({len(counts or ()) for counts in rounds}) > 1:
        raise UnjudgeableError("limit record: shapes of different rounds")


def check_limits(run: Run, limits: Limits) -> Check:
    """The limit is that of its raw samples, in the run's dtype; the count of operations agrees with itself."""
    gflop, by_operator = limits.cost.gflop_per_image, limits.cost.gflop_by_operator.values()
    each = [sorted(product.gflop for product in limit.shapes) for limit in run.all(Limit)]
    faults = []
    if each[0] != each[-1]:
        faults.append("other shapes before than after")
    if not equal(gflop, math.fsum(by_operator)) or min(by_operator) < 0 or gflop <= 0:
        faults.append("gflop_per_image contradicts its parts")
    if max(map(math.fsum, each)) > gflop * (1 + RELATIVE_TOLERANCE):
        faults.append("the shapes have more operations than the encoder")
    for limit, tflops in zip(run.all(Limit), limits.tflops, strict=True):
        if not equal(limit.gemm_tflops, tflops):
            faults.append("gemm_tflops contradicts its samples")
        if limit.spread is not None and not equal(limit.spread, limits.spread):
            faults.append("spread contradicts its samples")
        if limit.dtype != run.one(Model).dtype:
            faults.append(f"the limit is of {limit.dtype}")
    value = faults[0] if faults else f"{rate(max(limits.tflops))}, recomputed"
    return Check("limit", value, "equal", passed(not faults))


def check_possible(name: str, fastest_ips: float, limits: Limits) -> Check:
    """No pass is faster than the device can be: it was synchronised, and something was computed.

    Beyond an unsteady limit nothing is known: the machine may have been busy when the limit was measured. The
    algorithms for convolutions may take fewer operations than are counted, so that there it is a remark.
    """
    share = formulas.fastest_of_limit(fastest_ips, limits.cost.gflop_per_image, max(limits.tflops))
    name, value = f"{name} fastest_of_limit", f"{share:.1%}"
    if limits.is_convolutional:
        value += "" if share <= formulas.MOST_OF_LIMIT else ": not synchronised?"
        return Check(name, value, "any: convolutions", Verdict.PASS)
    bound = at_most(formulas.MOST_OF_LIMIT)
    if share <= formulas.MOST_OF_LIMIT:
        return Check(name, value, bound, Verdict.PASS)
    if limits.is_steady:
        return Check(name, f"{value}: not synchronised?", bound, Verdict.FAIL)
    bound += " of a steady limit: a quiet machine, more --max-seconds"
    return Check(name, f"{value}, limit unsteady", bound, Verdict.CANNOT_JUDGE)


# ------------------------------------------------------------------------------------------------ what was timed
def check_timed_output(name: str, timed: Timed, run: Run) -> Iterator[Check]:
    """What was timed computed the right thing on the right device."""
    found, wanted = f"{timed.device} {timed.dtype}", setting(run)
    yield Check(f"{name} computed on", found, wanted, passed(found == wanted))
    bound = output_tolerance(run)
    error = percent(timed.output_relative_l2)
    yield Check(f"{name} output_relative_l2", error, at_most(bound), passed(is_right(timed, bound)))


def is_right(timed: Timed | Share, bound: float) -> bool:
    """Whether the outputs of a batch size or a rank were finite and those of the images alone."""
    error = timed.output_relative_l2
    return timed.nonfinite == 0 and error is not None and 0 <= error <= bound


def output_tolerance(run: Run) -> float:
    """How far outputs of the same image may differ between batch sizes, which round differently."""
    return OUTPUT_TOLERANCE[run.one(Model).dtype]


def check_speedup(stated: Speedup, figures: Figures | None) -> Check:
    """The speedup and its baseline are those of the baseline's raw samples and of batch size 1."""
    baseline = require_times(Windows(calls=1, samples_ms=stated.baseline_samples_ms), "speedup")
    baseline_ms = statistics.fmean(baseline.samples_ms)
    right = (
        figures is not None
        and equal(stated.baseline_latency_ms, baseline_ms)
        and equal(stated.speedup, baseline_ms / figures.latency.avg_latency_ms)
        and stated.baseline_threads >= 1
    )
    return Check("speedup", f"{stated.speedup:.2f}x", "as computed again", passed(right))


def check_same_outputs(accuracy: Run, perf: Run) -> Iterator[Check]:
    """What was timed is what was verified: the embedding of an image that both runs saw."""
    verified: dict[str, list[float]] = {}
    for sample in accuracy.all(Sample):
        if sample.output == "embedding":
            fingerprint = finite(sample.fingerprint)
            if verified.setdefault(sample.image_sha256, fingerprint) != fingerprint:
                raise UnjudgeableError("sample records: two fingerprints of one image")
    if len(set(map(len, verified.values()))) > 1:
        raise UnjudgeableError("sample records: fingerprints of different lengths")
    bound = output_tolerance(perf)
    for row in perf.all(Perf):
        if row.status != "ok":
            continue
        name, timed = f"{row.case} same embedding", timed_of(row)
        expected, found = verified.get(timed.image_sha256), finite(timed.fingerprint)
        if expected is None:
            yield Check(name, "no image in common", "one; give both --image", Verdict.CANNOT_JUDGE)
            continue
        difference = math.dist(expected, found) if len(expected) == len(found) else math.inf
        size = math.hypot(*expected)
        verdict = passed(0 < size < math.inf and difference <= bound * size)
        yield Check(name, apart(difference, size), at_most(bound), verdict)


def apart(difference: float, size: float) -> str:
    """How far an embedding is from one of this size, in words."""
    if not 0 < size < math.inf:
        return "zero or infinite embedding"
    return "of another length" if difference == math.inf else f"{percent(difference / size)} apart"


def finite(fingerprint: Sequence[float | None] | None) -> list[float]:
    """The numbers of a fingerprint. Raises UnjudgeableError where there are none, or one is not finite."""
    numbers = [value for value in fingerprint or () if value is not None]
    if not fingerprint or len(numbers) < len(fingerprint):
        raise UnjudgeableError("an embedding without a fingerprint of finite numbers")
    return numbers


# ------------------------------------------------------------------------------------------------- several ranks
def check_ranks(run: Run, case: Case, count: int) -> Iterator[Check]:
    """Of a run on several ranks: each measured the batch size on a device of its own, and the total is theirs."""
    records, name = [each for each in run.all(Ranks) if each.case == case], f"{case} ranks"
    if len(records) != 1:
        raise UnjudgeableError(f"{len(records)} ranks records of {case}, not 1")
    ranks = records[0]
    whole = len(ranks.shares) == count and ranks.status == "ok"
    yield Check(name, f"{len(ranks.shares)}, {ranks.status}", f"{count}, ok", passed(whole))
    if whole:
        if ranks.scaling is None:
            raise UnjudgeableError(f"{name}: ok, without a total")
        yield check_shares(f"{name} total", ranks, ranks.scaling, run)


def check_shares(name: str, ranks: Ranks, stated: Scaling, run: Run) -> Check:
    """What the ranks did, each on its own device, and what they reached together."""
    shares = ranks.shares
    for windows in (stated.alone, *(share.windows for share in shares)):
        require_times(windows, "ranks")
    found = formulas.scaling(ranks.batch_size, shares, stated.alone)
    figures = ("total_throughput_ips", "scaling_efficiency", "alone_throughput_ips")
    faults = [key for key in figures if not equal(getattr(stated, key), getattr(found, key))]
    if len(stated.throughput_ips) != len(shares) or not all(map(equal, stated.throughput_ips, found.throughput_ips)):
        faults.append("throughput_ips")
    kind = run.one(Env).kind
    if kind != "cpu" and len({(share.node, share.device) for share in shares}) < len(shares):
        faults.append("one device for several ranks")
    if any(share.device.partition(":")[0] != kind for share in shares):
        faults.append("a rank on another kind of device")
    if any(share.status != "ok" for share in shares):
        faults.append("a rank that failed")
    if not all(is_right(share, output_tolerance(run)) for share in shares):
        faults.append("an output that is not the encoder's")
    value = faults[0] if faults else f"{found.total_throughput_ips:.2f} images/s, {found.scaling_efficiency:.1%}"
    return Check(name, value, "as computed again", passed(not faults))


# ---------------------------------------------------------------------------------------------- an earlier run
def check_regression(run: Run, earlier: Run, allowed: float) -> Iterator[Check]:
    """Each batch size against the same of an earlier run on the same kind of device: SLOWER fails.

    Compared are the medians of a call's time, in the latency and in the throughput pass.
    """
    on_cpu = ("cpu_model", "cpu_threads", "cpu_quota") if run.one(Env).kind == "cpu" else ()
    keys = ("device_name", *on_cpu, "model", "weights_sha256", "dtype", "numerics")
    different = [
        f"{each.key}: {str(each.theirs)[:16]}, now {str(each.ours)[:16]}"
        for each in differences_between(run, earlier, keys)
    ]
    if different:
        yield Check("baseline", "; ".join(different), "the same setting", Verdict.CANNOT_JUDGE)
        return
    measured = measured_cases(run)
    for case in measured_cases(earlier):
        if case not in measured:
            yield Check(f"{case} against baseline", "not measured", "measured", Verdict.CANNOT_JUDGE)
            continue
        for name in ("latency", "throughput"):
            before_ms, now_ms = (call_times(each, case, name) for each in (earlier, run))
            word = formulas.compare_times(before_ms, now_ms, allowed)
            value = f"{word}: {statistics.median(before_ms):.3f} -> {statistics.median(now_ms):.3f} ms"
            bound = f"at most {allowed * 100:g}% slower"
            yield Check(f"{case} {name} against baseline", value, bound, passed(word != "SLOWER"))


def measured_cases(run: Run) -> list[Case]:
    """What was measured, as it stands in the log."""
    return [row.case for row in run.all(Perf) if row.status == "ok"]


def call_times(run: Run, case: Case, name: str) -> list[float]:
    """The times in ms of a call in one pass; of the throughput pass a window's mean."""
    windows = windows_of(run, case, name)
    return [sample / windows.calls for sample in windows.samples_ms]
