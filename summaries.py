"""Summaries of raw samples. Standard library only: the run scripts write them, the checker computes them again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

Number = int | float

# What an encoder gives, in the order in which its module gives them.
OUTPUTS = ("embedding", "hidden_state")

# The worst of several samples is the largest error, but the smallest similarity.
ERROR_METRICS = (
    *("max_abs_error", "mean_abs_error", "relative_error", "relative_l2", "nmse", "one_minus_cosine"),
    "top1_gap",
)
SIMILARITY_METRICS = ("cosine_similarity", "sqnr_db", "top5_match")
GATED_METRICS = ("relative_error", "relative_l2")
EXPECTED_FACTOR = 2
FLOAT32_NOISE_FLOOR = 1.2e-6  # relative L2 of float32 against float64, measured on a ViT-S of 12 blocks
FAR_ABOVE_NOISE = 100
LARGEST_ALLOWED = 0.1
METRICS = ERROR_METRICS + SIMILARITY_METRICS

# What float32, float16 and bfloat16 keep of a mantissa; HF32 keeps 11 bits, TF32 10.
MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}

PERCENTILES = {"p50_latency_ms": 50, "p90_latency_ms": 90, "p95_latency_ms": 95, "p99_latency_ms": 99}
CONFIDENCE = 0.95


def worst_metrics(samples: Sequence[Mapping[str, Number | None]]) -> dict[str, Number | None]:
    """Each metric's own worst over `samples`, of which there is at least one.

    None (not a finite number) is worse than any number, with one exception: `sqnr_db` is None where the error is
    exactly zero, the best there is.
    """
    worst: dict[str, Number | None] = {}
    for metric in METRICS:
        values = [sample[metric] for sample in samples if not (metric == "sqnr_db" and sample["nmse"] == 0)]
        finite = [value for value in values if value is not None]
        if not finite or len(finite) < len(values):
            worst[metric] = None
        else:
            worst[metric] = min(finite) if metric in SIMILARITY_METRICS else max(finite)
    return worst


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


def is_far_above_noise(relative_l2: Number | None, noise_floor: Number | None) -> bool:
    """Whether an error of strict float32 is more than rounding can be: something else is different."""
    floor = FLOAT32_NOISE_FLOOR if noise_floor is None else noise_floor
    return relative_l2 is not None and relative_l2 > FAR_ABOVE_NOISE * floor


def is_within(worst: Mapping[str, Number | None], nonfinite: int, allowed: float, classifier: bool) -> bool:
    """The accuracy gate: all finite, and every gated metric at most `allowed`."""
    gated = [worst[metric] for metric in gated_metrics(classifier)]
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


def summarize_latency(samples_ms: Sequence[float]) -> dict[str, Number | None]:
    """The latency keys of a `perf` record from one synchronised time a call, in milliseconds."""
    return {
        "n": len(samples_ms),
        "avg_latency_ms": math.fsum(samples_ms) / len(samples_ms),
        "min_latency_ms": min(samples_ms),
        "max_latency_ms": max(samples_ms),
        **{key: percentile(samples_ms, percent) for key, percent in PERCENTILES.items()},
    }


def throughput_ips(samples_ms: Iterable[float], images_per_sample: int) -> float:
    """Images a second over all windows of the throughput pass; each sample is the time of one window."""
    times = list(samples_ms)
    return images_per_sample * len(times) / (math.fsum(times) / 1000)


def probe_contradictions(probe: Mapping[str, object], operators: Iterable[str], dtype: str) -> list[str]:
    """In words, where a numerics probe shows that `operators` compute less than `dtype`, or another GELU than asked.

    `operators` are those of a model: conv, matmul, attention, gelu (`approximate="none"`), gelu_tanh.
    """
    wanted = {
        "conv": ("conv_mantissa_bits", MANTISSA_BITS[dtype]),
        "matmul": ("matmul_mantissa_bits", MANTISSA_BITS[dtype]),
        "attention": ("attention_mantissa_bits", MANTISSA_BITS[dtype]),
        "gelu": ("gelu", "erf"),
        "gelu_tanh": ("gelu_tanh", "tanh"),
    }
    asked = [wanted[operator] for operator in operators]
    return [f"{key} is {probe.get(key)}, not {value}" for key, value in asked if probe.get(key) != value]
