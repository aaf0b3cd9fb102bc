"""Every formula that turns samples into figures: runs write them, the checker computes them again.

Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from common.log.events import (
    Computed,
    Figures,
    IssueFigures,
    Kind,
    LatencyFigures,
    Limit,
    LimitFigures,
    Metrics,
    Part,
    Probe,
    Product,
    Scaling,
    SearchStep,
    Share,
    Windows,
)


class Metric(NamedTuple):
    """How a metric is judged and shown; its formula is in accuracy.metrics."""

    worst: Callable[..., float] = max  # of several samples: an error's largest, a similarity's smallest
    form: str = "number"  # or percent, share, decibel: how it is printed
    zero_together: bool = False  # all of these are zero without any error, and none of them with one


METRICS = {
    "max_abs_error": Metric(zero_together=True),
    "mean_abs_error": Metric(zero_together=True),
    "relative_error": Metric(form="percent", zero_together=True),
    "relative_l2": Metric(form="percent", zero_together=True),
    "nmse": Metric(form="percent"),
    "one_minus_cosine": Metric(),
    "top1_gap": Metric(form="percent"),
    "cosine_similarity": Metric(worst=min),
    "sqnr_db": Metric(worst=min, form="decibel"),
    "top5_match": Metric(worst=min, form="share"),
}
ERROR_METRICS = tuple(name for name, metric in METRICS.items() if metric.worst is max)
GATED_METRICS = ("relative_error", "relative_l2")
EXPECTED_FACTOR = 2
FLOAT32_NOISE_FLOOR = 1.2e-6  # relative L2 of float32 against float64, measured on a ViT-S of 12 blocks
FAR_ABOVE_NOISE = 100
FLOAT32_ROUNDING = 1e-5  # relative L2; more has another cause (the noise floor is 0.5e-6 to 1.2e-6)
STANDS_OUT = 10.0  # times the median of all blocks: the error of a block that is blamed
LARGEST_ALLOWED = 0.1

# What float32, float16 and bfloat16 keep of a mantissa; HF32 keeps 11 bits, TF32 10.
MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
# What a probe has to find at least: an operator that is off by an ulp or two computes in its dtype all the same.
LEAST_BITS = {"float32": 20, "float16": 9, "bfloat16": 6}

PERCENTILES = {"p50_latency_ms": 50, "p90_latency_ms": 90, "p95_latency_ms": 95, "p99_latency_ms": 99}
LATENCY_KEYS = ("avg_latency_ms", "min_latency_ms", "max_latency_ms", *PERCENTILES, "iqr_latency_ms")
LIMIT_KEYS = ("achieved_tflops", "limit_tflops", "percent_of_limit")
FORWARD = "forward"  # the whole encoder, among the kinds of its modules
CONFIDENCE = 0.95
FEWEST_SAMPLES = 5  # below it not even the median is bounded
STABLE_SPREAD = 0.1
MOST_OF_LIMIT = 1.05  # above it a figure is not synchronised, or not computed
HOST_BOUND, DEVICE_BOUND = 0.9, 0.5  # of the latency: the host's time to issue a call, from and up to which
LEAST_GAIN = 0.05  # of throughput, for which a batch size is doubled once more
STEADY_LIMIT = 0.2  # how far the measurements of a limit may lie apart; beyond, nothing is impossible because of it


def values_of(metrics: Metrics) -> dict[str, float | None]:
    """Each metric by its name, in their order."""
    return {name: getattr(metrics, name) for name in METRICS}


def worst_metrics(samples: Iterable[Metrics]) -> Metrics:
    """Each metric's own worst over `samples`, of which there is at least one.

    None (not a finite number) is worse than any number, with one exception: `sqnr_db` is None where the error is
    exactly zero, the best there is.
    """
    worst: dict[str, float] = {}
    not_finite: set[str] = set()
    for sample in samples:
        for name, metric in METRICS.items():
            value = getattr(sample, name)
            if name == "sqnr_db" and sample.nmse == 0:
                continue
            if value is None:
                not_finite.add(name)
            else:
                worst[name] = metric.worst(worst[name], value) if name in worst else value
    return Metrics(**{name: None if name in not_finite else worst.get(name) for name in METRICS})


def complete(measured: Mapping[str, float | None]) -> Metrics:
    """All metrics from those that are measured (events.MEASURED); None for what is not finite."""
    found = {name: value for name, value in measured.items() if value is not None and math.isfinite(value)}
    relative_l2, one_minus_cosine = found.get("relative_l2"), found.get("one_minus_cosine")
    if relative_l2 is not None:
        nmse = relative_l2 * relative_l2  # unlike **, this overflows to infinity
        if math.isfinite(nmse):
            found["nmse"] = nmse
            decibels = sqnr_db(nmse)
            if decibels is not None:
                found["sqnr_db"] = decibels
    if one_minus_cosine is not None:
        found["cosine_similarity"] = max(1 - one_minus_cosine, -1.0)
    return Metrics(**{name: found.get(name) for name in METRICS})


def sqnr_db(nmse: float) -> float | None:
    """Signal to quantisation noise in dB; None where there is no noise."""
    return -10 * math.log10(nmse) if nmse > 0 else None


def rounding_of(dtype: str) -> float:
    """The relative L2 error below which a block is only rounding: 1e-5 in float32, 2e-3 in float16, 1.6e-2 in bfloat16.

    A block of a ViT measures up to 4e-7, 4e-4 and 4e-3.
    """
    return FLOAT32_ROUNDING + (0.0 if dtype == "float32" else 2 * 2.0 ** -MANTISSA_BITS[dtype])


def size_of(error: float | None) -> float:
    """An error to compare by: one that is not finite is the largest."""
    return math.inf if error is None else error


def gated_metrics(classifier: bool) -> tuple[str, ...]:
    """What decides: the errors that an NMSE or a cosine would let through, and of a classifier its first class.

    A first class that changed counts where the reference's gap between the two is above the bound: a tie is no error.
    """
    return (*GATED_METRICS, "top1_gap") if classifier else GATED_METRICS


def allowed_error(dtype: str, threshold: float, expected_relative_l2: float | None) -> float:
    """The bound of the gated metrics: `threshold`; for bfloat16 twice what its rounding is expected to cost.

    The expectation is an emulation's, and counts to 10 % at most; without one, `threshold` holds for bfloat16 too.
    """
    if dtype != "bfloat16" or expected_relative_l2 is None:
        return threshold
    return min(EXPECTED_FACTOR * expected_relative_l2, LARGEST_ALLOWED)


def repeat_bound(dtype: str, numerics: str, expected_relative_l2: float | None) -> float:
    """The relative L2 up to which an image's output may differ from one call to the next: rounding, in another order.

    `fast` float32 may round to TF32 or HF32 by kernels that depend on the batch. In 16 bits a whole model's rounding is
    what is expected of it; two that are independent differ by less than twice that.
    """
    rounding = rounding_of("float16" if (dtype, numerics) == ("float32", "fast") else dtype)
    expected = 0.0 if dtype == "float32" or expected_relative_l2 is None else EXPECTED_FACTOR * expected_relative_l2
    return max(rounding, min(expected, LARGEST_ALLOWED))


def proves_nothing(one: Computed, other: Computed) -> bool:
    """Whether two sides were computed alike: by the same kind of device, in the same dtype and numerics.

    Devices of one kind are alike by their name, as 0 and 1 of a machine are; CPUs whatever their name.
    """
    kinds = [computed.device.partition(":")[0] for computed in (one, other)]
    names = [computed.device_name for computed in (one, other)]
    alike = kinds[0] == kinds[1] and (kinds[0] == "cpu" or names[0] == names[1])
    return alike and (one.dtype, one.numerics) == (other.dtype, other.numerics)


def is_far_above_noise(relative_l2: float | None, noise_floor: float | None) -> bool:
    """Whether an error of strict float32 is more than rounding can be: something else is different."""
    floor = FLOAT32_NOISE_FLOOR if noise_floor is None else noise_floor
    return relative_l2 is not None and relative_l2 > FAR_ABOVE_NOISE * floor


def is_within(worst: Metrics, nonfinite: int, allowed: float, classifier: bool) -> bool:
    """The accuracy gate: all finite, and every gated metric at most `allowed`."""
    gated = [getattr(worst, metric) for metric in gated_metrics(classifier)]
    return nonfinite == 0 and all(value is not None and value <= allowed for value in gated)


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile; None where `samples` are too few to bound it.

    With n independent samples the largest lies above the p-th percentile with probability 1 - (p/100)^n. Below 95 %
    the percentile is a guess: p50 needs 5 samples, p90 29, p95 59, p99 299.
    """
    if len(samples) < smallest_count(percent):
        return None
    return sorted(samples)[math.ceil(percent / 100 * len(samples)) - 1]


def smallest_count(percent: int) -> int:
    """How many samples the percentile needs."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


def summarize_latency(samples_ms: Sequence[float]) -> LatencyFigures:
    """The latency figures of one synchronised time a call, in milliseconds."""
    return LatencyFigures(
        n=len(samples_ms),
        avg_latency_ms=math.fsum(samples_ms) / len(samples_ms),
        min_latency_ms=min(samples_ms),
        max_latency_ms=max(samples_ms),
        **{key: percentile(samples_ms, percent) for key, percent in PERCENTILES.items()},
        iqr_latency_ms=interquartile_range(samples_ms) if len(samples_ms) >= FEWEST_SAMPLES else None,
        stable=is_stable(samples_ms),
    )


def interquartile_range(samples: Sequence[float]) -> float:
    """The distance between the quartiles, interpolated between the samples."""
    first, _, third = statistics.quantiles(samples, method="inclusive")
    return third - first


def is_stable(samples: Sequence[float]) -> bool:
    """Whether the interquartile range is at most 10 % of the median: a drift widens it as scatter does.

    Fewer than five samples can't show it.
    """
    if len(samples) < FEWEST_SAMPLES:
        return False
    return interquartile_range(samples) <= STABLE_SPREAD * statistics.median(samples)


def images_per_second(samples_ms: Iterable[float], images_per_sample: int) -> float:
    """Over all samples of a pass, each the time of as many images."""
    times = list(samples_ms)
    return images_per_sample * len(times) / (math.fsum(times) / 1000)


def throughput_of(windows: Windows, batch_size: int) -> float:
    """Images a second of calls at a batch size, over all samples."""
    return images_per_second(windows.samples_ms, batch_size * windows.calls)


def summarize_passes(
    batch_size: int,
    latency: Windows,
    throughput: Windows,
    end_to_end: Windows,
    limit: LimitFigures | None = None,
    issue: IssueFigures | None = None,
) -> Figures:
    """The figures of a batch size from the raw samples of its three passes."""
    return Figures(
        latency=summarize_latency(latency.samples_ms),
        throughput_ips=throughput_of(throughput, batch_size),
        end_to_end_ips=throughput_of(end_to_end, batch_size),
        limit=limit or beside_the_limit(0.0, 0.0, []),
        issue=issue,
    )


def issue_figures(issue: Windows | None, latency: Windows) -> IssueFigures:
    """What bounds the latency, by the medians (of an even number the lower, as `p50_latency_ms`); None without a queue.

    A full queue makes the host wait for the device: this can't tell, `bottlenecks.conclude_bound` looks for it.
    """
    if issue is None:
        return IssueFigures(issue_ms=None, bound=None)
    issue_ms = statistics.median_low(issue.samples_ms)
    share = issue_ms / statistics.median_low(latency.samples_ms)
    bound = "host" if share >= HOST_BOUND else "device" if share < DEVICE_BOUND else "both"
    return IssueFigures(issue_ms=issue_ms, bound=bound)


def ratios_of(figures: Figures, eager: Figures) -> tuple[float | None, float]:
    """The median latency and the throughput of a mode in times of eager's; None of too few samples."""
    p50, of = figures.latency.p50_latency_ms, eager.latency.p50_latency_ms
    latency = None if p50 is None or of is None else p50 / of
    return latency, figures.throughput_ips / eager.throughput_ips


def fastest_ips(batch_size: int, figures: Figures) -> float:
    """The images a second of the fastest of the three passes."""
    latency_ips = 1000 * batch_size / figures.latency.avg_latency_ms
    return max(figures.throughput_ips, figures.end_to_end_ips, latency_ips)


def fastest_of_limit(fastest: float, gflop_per_image: float, limit_tflops: float) -> float:
    """How near the fastest of the three passes, in images a second, is to the limit: what must be possible.

    `percent_of_limit` is that of the throughput pass.
    """
    return fastest * gflop_per_image / 1000 / limit_tflops


def best_window_ips(step: SearchStep) -> float:
    """Images a second of a batch size that was tried, in its best window; 0 where it failed."""
    return 0.0 if step.windows is None else images_per_second([min(step.windows.samples_ms)], images_of(step))


def images_of(step: SearchStep) -> int:
    return step.batch_size * (step.windows.calls if step.windows else 0)


def gain_of(steps: Sequence[SearchStep]) -> float | None:
    """How much more throughput the last of the batch sizes has than the best before it, as a fraction; None of one."""
    *others, last = map(best_window_ips, steps)
    return last / max(others) - 1 if others else None


def ends_search(steps: Sequence[SearchStep]) -> bool:
    """Whether no larger batch size is tried after these: the last failed, or gained too little."""
    gain = gain_of(steps)
    return steps[-1].status != "ok" or (gain is not None and gain < LEAST_GAIN)


def sizes_of(steps: Iterable[SearchStep]) -> list[int]:
    """Those that were tried and are to be measured."""
    return [step.batch_size for step in steps if step.status == "ok"]


def best_sizes(throughputs: Mapping[int, float]) -> tuple[int, int]:
    """Of images a second by batch size: the batch size with most, and the smallest that has 5 % less at most."""
    best = max(throughputs, key=lambda size: throughputs[size])
    return best, min(size for size, ips in throughputs.items() if ips >= (1 - LEAST_GAIN) * throughputs[best])


def scaling(batch_size: int, shares: Sequence[Share], alone: Windows) -> Scaling:
    """The throughput of ranks that ran at the same time, and their total as a fraction of so many ranks alone.

    `alone` are the windows of the first rank while the others waited.
    """
    each = [throughput_of(share.windows, batch_size) for share in shares]
    single = throughput_of(alone, batch_size)
    return Scaling(
        throughput_ips=each,
        total_throughput_ips=math.fsum(each),
        alone_throughput_ips=single,
        scaling_efficiency=math.fsum(each) / (len(each) * single),
        alone=alone,
    )


def gemm_tflops(products: Sequence[Product]) -> float:
    """1e12 operations a second over an encoder's matrix products.

    Each runs at the rate of its best window: the limit is what the device can do, not what it did while it was
    disturbed. They count by their share of the encoder's operations, `gflop`.
    """
    total = math.fsum(product.gflop for product in products)
    return total / math.fsum(product.gflop / _best_tflops(product) for product in products)


def _best_tflops(product: Product) -> float:
    rows, inner, columns = product.shape
    return 2 * rows * inner * columns * product.windows.calls / (min(product.windows.samples_ms) * 1e9)


def spread_of(limits: Sequence[Limit]) -> float:
    """How far the measurements of a limit lie apart, as a fraction of the fastest: those of the rounds, or the two
    before and after the sweep. 1 where it was measured once: nothing shows that it is steady.
    """
    rates = [rate for limit in limits for rate in _rates_of(limit)]
    return 1 - min(rates) / max(rates) if len(rates) > 1 else 1.0


def _rates_of(limit: Limit) -> list[float]:
    """The limit in each round alone in which every product was timed; one figure of a limit without rounds."""
    by_round = [windows_by_round(product) for product in limit.shapes]
    whole = [each for each in zip(*by_round, strict=True) if all(windows.samples_ms for windows in each)]
    return [
        gemm_tflops([replace(product, windows=windows) for product, windows in zip(limit.shapes, each, strict=True)])
        for each in whole
    ]


def windows_by_round(product: Product) -> list[Windows]:
    """The windows of each round; all of them as one where there are no rounds."""
    calls, samples_ms = product.windows.calls, iter(product.windows.samples_ms)
    counts = [len(product.windows.samples_ms)] if product.windows_a_round is None else product.windows_a_round
    return [Windows(calls=calls, samples_ms=list(islice(samples_ms, count))) for count in counts]


def beside_the_limit(images_a_second: float, gflop_per_image: float, limits_tflops: Sequence[float]) -> LimitFigures:
    """How near to the larger limit a throughput is; None without a limit."""
    if not limits_tflops:
        return LimitFigures(achieved_tflops=None, limit_tflops=None, percent_of_limit=None)
    achieved, limit = images_a_second * gflop_per_image / 1000, max(limits_tflops)
    return LimitFigures(achieved_tflops=achieved, limit_tflops=limit, percent_of_limit=achieved / limit)


def with_shares(
    kinds: Sequence[Kind],
    limits_tflops: Sequence[float],
    typical: Callable[[Sequence[float]], float] = statistics.median,
) -> list[Kind]:
    """The kinds of one batch size with the figures that follow from their samples and operations.

    One of them, by the name FORWARD, is the whole: the others' shares are of its time, and it has their remainder.
    `typical` chooses of the windows of a part.
    """
    times_ms = [kind_ms(kind.parts, typical) for kind in kinds]
    whole_ms = next(ms for kind, ms in zip(kinds, times_ms, strict=True) if kind.name == FORWARD)
    found = [
        replace(
            kind,
            count=sum(part.count for part in kind.parts),
            ms=ms,
            share=ms / whole_ms,
            percent_of_limit=of_limit(kind.gflop, ms, limits_tflops),
        )
        for kind, ms in zip(kinds, times_ms, strict=True)
    ]
    remainder = 1 - math.fsum(kind.share for kind in found if kind.name != FORWARD)
    return [replace(kind, remainder=remainder if kind.name == FORWARD else None) for kind in found]


def kind_ms(parts: Sequence[Part], typical: Callable[[Sequence[float]], float] = statistics.median) -> float:
    """The time in ms that a forward spends in a kind: a call of each part, as often as a forward has it."""
    return math.fsum(part.count * typical(part.windows.samples_ms) / part.windows.calls for part in parts)


def of_limit(gflop: float | None, ms: float, limits_tflops: Sequence[float]) -> float | None:
    """Operations in a time as a fraction of the larger limit; None without operations or without a limit."""
    return None if gflop is None or not limits_tflops else gflop / ms / max(limits_tflops)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the median with 95 % confidence, from two of the samples; of few samples, all of them.

    The count of samples below the median is binomial with p = 1/2; the ranks are those of its normal approximation.
    """
    ordered, n = sorted(samples), len(samples)
    deviations = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    rank = max(1, math.floor((n - deviations * math.sqrt(n)) / 2))
    return ordered[rank - 1], ordered[n - rank]


def compare_times(earlier: Sequence[float], later: Sequence[float], allowed: float) -> str:
    """SAME where the medians differ by at most the fraction `allowed`; AMBIGUOUS where they differ by more, but their
    intervals overlap; else FASTER or SLOWER.
    """
    ratio = statistics.median(later) / statistics.median(earlier)
    if 1 / (1 + allowed) <= ratio <= 1 + allowed:
        return "SAME"
    (low, high), (later_low, later_high) = median_interval(earlier), median_interval(later)
    if later_low <= high and low <= later_high:
        return "AMBIGUOUS"
    return "SLOWER" if ratio > 1 else "FASTER"


def probe_contradictions(probe: Probe, operators: Iterable[str], dtype: str) -> list[str]:
    """In words, where a numerics probe shows that `operators` compute less than `dtype`, or another GELU than asked.

    `operators` are those of a model: conv, matmul, attention, gelu (`approximate="none"`), gelu_tanh.
    """
    gelus = {"gelu": "erf", "gelu_tanh": "tanh"}
    faults = []
    for operator in operators:
        key = operator if operator in gelus else f"{operator}_mantissa_bits"
        found = getattr(probe, key)
        right = found == gelus[operator] if operator in gelus else LEAST_BITS[dtype] <= found <= MANTISSA_BITS[dtype]
        if not right:
            faults.append(f"{key} is {found}, not {gelus.get(operator, MANTISSA_BITS[dtype])}")
    return faults
