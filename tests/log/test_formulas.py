"""Summaries of raw samples: the percentiles, the worst of the samples, the accuracy gate, the throughput."""

from __future__ import annotations

import math
import random

import pytest
from helpers.events import example, metrics

from common.log import formulas
from common.log.events import (
    METRICS,
    Figures,
    LatencyFigures,
    Limit,
    LimitFigures,
    Metrics,
    Probe,
    Product,
    Share,
    Windows,
)
from common.log.formulas import (
    images_per_second,
    is_within,
    percentile,
    smallest_count,
    summarize_latency,
    worst_metrics,
)

SIMILARITY_METRICS = [metric for metric in formulas.METRICS if metric not in formulas.ERROR_METRICS]

# How many samples make each percentile: 1 - p^n reaches 95 %.
COUNTS = {50: 5, 90: 29, 95: 59, 99: 299}


# --------------------------------------------------------------------------------------------------- percentiles
@pytest.mark.parametrize(("percent", "count"), COUNTS.items())
def test_a_percentile_needs_its_number_of_samples(percent: int, count: int) -> None:
    assert smallest_count(percent) == count
    assert percentile([1.0] * (count - 1), percent) is None
    assert percentile([1.0] * count, percent) == 1.0


@pytest.mark.parametrize(("percent", "count"), COUNTS.items())
def test_the_count_is_the_smallest_that_bounds_the_percentile(percent: int, count: int) -> None:
    """The largest of n samples lies above the percentile with probability 1 - (p/100)^n."""
    assert 1 - (percent / 100) ** count >= 0.95 > 1 - (percent / 100) ** (count - 1)


@pytest.mark.parametrize(
    ("count", "percent", "rank"),
    [
        (5, 50, 3),  # 2.5 rounds up
        (6, 50, 3),
        (7, 50, 4),
        (29, 90, 27),  # 26.1
        (30, 90, 27),
        (31, 90, 28),  # 27.9
        (59, 95, 57),  # 56.05
        (60, 95, 57),
        (61, 95, 58),  # 57.95
        (100, 95, 95),
        (299, 99, 297),  # 296.01
        (300, 99, 297),
        (301, 99, 298),  # 297.99
        (1000, 99, 990),
    ],
)
def test_a_percentile_is_the_nearest_rank(count: int, percent: int, rank: int) -> None:
    assert percentile([float(value) for value in range(1, count + 1)], percent) == rank


@pytest.mark.parametrize("percent", COUNTS)
def test_the_rank_is_exact_for_every_count(percent: int) -> None:
    """p/100 is no binary fraction: its rounding must not move a rank."""
    for count in range(COUNTS[percent], 2000):
        assert percentile(range(1, count + 1), percent) == -(-percent * count // 100)


def test_a_percentile_is_one_of_the_samples_in_whatever_order() -> None:
    samples = [3.5, 9.0, 1.25, 7.0, 2.0]
    assert percentile(samples, 50) == 3.5
    assert samples == [3.5, 9.0, 1.25, 7.0, 2.0]


def test_one_slow_call_of_a_hundred_moves_the_maximum_but_not_the_p95() -> None:
    summary = summarize_latency([10.0] * 99 + [500.0])
    assert (summary.p95_latency_ms, summary.max_latency_ms) == (10.0, 500.0)


# ------------------------------------------------------------------------------------------------------- latency
def test_the_latency_keys_of_a_few_samples() -> None:
    assert summarize_latency([4.0, 2.0, 9.0, 3.0, 2.0]) == LatencyFigures(
        n=5,
        avg_latency_ms=4.0,
        min_latency_ms=2.0,
        max_latency_ms=9.0,
        p50_latency_ms=3.0,
        p90_latency_ms=None,
        p95_latency_ms=None,
        p99_latency_ms=None,
        iqr_latency_ms=2.0,
        stable=False,
    )


@pytest.mark.parametrize(
    ("samples_ms", "stable"),
    [
        ([10.0] * 5, True),
        ([10.0] * 4, False),  # too few to show it
        ([10.0, 10.4, 10.2, 10.1, 10.3, 50.0], True),  # one outlier is no scatter
        ([9.0, 11.0] * 10, False),  # scatter
        ([10.0] * 20 + [11.5] * 20, False),  # drift: the second half is slower
        ([10.0] * 10 + [10.5] * 10, True),
    ],
)
def test_times_are_stable_where_they_neither_scatter_nor_drift(samples_ms: list[float], stable: bool) -> None:
    assert summarize_latency(samples_ms).stable is stable


def test_fewer_than_five_samples_have_no_interquartile_range() -> None:
    assert summarize_latency([1.0, 2.0, 3.0, 4.0]).iqr_latency_ms is None
    assert summarize_latency([1.0, 2.0, 3.0, 4.0, 5.0]).iqr_latency_ms == 2.0


# ------------------------------------------------------------------------------------------- two runs, one slower
@pytest.mark.parametrize(
    ("count", "ranks"), [(1, (1, 1)), (2, (1, 2)), (5, (1, 5)), (6, (1, 6)), (20, (5, 16)), (100, (40, 61))]
)
def test_the_interval_of_a_median(count: int, ranks: tuple[int, int]) -> None:
    """With the ranks that the binomial distribution gives; 40 and 61 of 100 are in every table."""
    values = [float(value) for value in range(1, count + 1)]
    random.Random(0).shuffle(values)
    assert formulas.median_interval(values) == ranks


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    chooser = random.Random(1)
    held = 0
    for _ in range(2000):
        low, high = formulas.median_interval([chooser.random() for _ in range(40)])
        held += low <= 0.5 <= high
    assert 0.94 <= held / 2000 <= 0.99


@pytest.mark.parametrize(
    ("later", "word"),
    [
        ([10.0, 10.1, 10.2, 10.3, 10.4, 10.5] * 5, "SAME"),
        ([10.6] * 30, "SAME"),  # 3.4 %, though the intervals are apart
        ([12.0] * 30, "SLOWER"),
        ([8.0] * 30, "FASTER"),
        ([9.0, 13.0, 14.0, 9.5, 13.0], "AMBIGUOUS"),
        ([6.0, 7.0, 11.0, 7.5, 7.0], "AMBIGUOUS"),
    ],
)
def test_two_runs_are_compared_by_their_medians(later: list[float], word: str) -> None:
    earlier = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5] * 5
    assert formulas.compare_times(earlier, later, 0.05) == word
    assert formulas.compare_times(earlier, later, 10.0) == "SAME"


# ------------------------------------------------------------------------------------------------ beside the limit
def test_the_limit_is_each_shapes_best_window_by_its_share() -> None:
    """1 GFLOP at 2 TFLOP/s and 3 GFLOP at 1 TFLOP/s take 3.5 ms: 8/7 TFLOP/s. Slower windows count nothing."""
    shape = [1000, 1000, 500]
    products = [
        Product(shape=shape, gflop=1.0, windows=Windows(calls=2, samples_ms=[1.0, 7.0])),
        Product(shape=shape, gflop=3.0, windows=Windows(calls=1, samples_ms=[5.0, 1.0])),
    ]
    assert formulas.gemm_tflops(products) == pytest.approx(8 / 7)


def limit_of(phase: str, *by_round: list[float]) -> Limit:
    """Of one product of 1 GFLOP, 1 TFLOP/s in a window of 1 ms."""
    windows = Windows(calls=1, samples_ms=[sample for each in by_round for sample in each])
    counts = list(map(len, by_round)) if phase == "during" else None
    product = Product(gflop=1.0, shape=[1000, 1000, 500], windows=windows, windows_a_round=counts)
    tflops = formulas.gemm_tflops([product])
    return Limit(phase=phase, dtype="float32", gemm_tflops=tflops, shapes=[product])


@pytest.mark.parametrize(
    ("limits", "spread"),
    [
        ([limit_of("during", [1.0, 7.0], [2.0, 1.25], [1.0])], 0.2),  # the best of each round
        ([limit_of("during", [1.0], [], [4.0])], 0.75),
        ([limit_of("during", [1.0], [])], 1.0),  # once: nothing shows that it is steady
        ([limit_of("before", [2.0, 9.0]), limit_of("after", [1.0])], 0.5),
        ([limit_of("before", [1.0]), limit_of("after", [1.0])], 0.0),
    ],
)
def test_the_measurements_of_a_limit_lie_apart(limits: list[Limit], spread: float) -> None:
    assert formulas.spread_of(limits) == pytest.approx(spread)


def test_a_round_without_windows_of_every_product_is_none() -> None:
    whole, half = limit_of("during", [1.0], [2.0]).shapes[0], limit_of("during", [1.0], []).shapes[0]
    limit = Limit(phase="during", dtype="float32", gemm_tflops=1.0, shapes=[whole, half])
    assert formulas.spread_of([limit]) == 1.0


def test_the_fastest_pass_beside_the_limit() -> None:
    assert formulas.fastest_of_limit(200.0, 10.0, 4.0) == 0.5


def test_a_throughput_beside_the_larger_limit() -> None:
    found = formulas.beside_the_limit(200.0, 10.0, [2.0, 4.0])
    assert found == LimitFigures(achieved_tflops=2.0, limit_tflops=4.0, percent_of_limit=0.5)


def test_nothing_stands_beside_a_limit_that_was_not_measured() -> None:
    found = formulas.beside_the_limit(200.0, 10.0, [])
    assert found == LimitFigures(achieved_tflops=None, limit_tflops=None, percent_of_limit=None)


def test_every_percentile_is_given_from_299_samples_on() -> None:
    summary = summarize_latency([float(value) for value in range(1, 300)])
    assert [getattr(summary, key) for key in formulas.PERCENTILES] == [150.0, 270.0, 285.0, 297.0]


def test_the_average_keeps_small_times_beside_a_large_one() -> None:
    assert summarize_latency([1e16, 1.0, 1.0]).avg_latency_ms == (1e16 + 2) / 3


# ---------------------------------------------------------------------------------------------------- throughput
@pytest.mark.parametrize(
    ("windows_ms", "images", "ips"),
    [
        ([1000.0], 1, 1.0),
        ([500.0], 8, 16.0),
        ([100.0, 300.0], 4, 20.0),  # over the whole time, not the mean of 40 and 13.3
        ([250.0] * 4, 16, 64.0),
    ],
)
def test_throughput_is_images_over_the_time_of_all_windows(windows_ms: list[float], images: int, ips: float) -> None:
    assert images_per_second(windows_ms, images) == ips


def test_throughput_takes_any_iterable() -> None:
    assert images_per_second(iter([500.0, 500.0]), 1) == 2.0


# --------------------------------------------------------------------------------------------- worst of samples
def test_every_metric_has_a_direction() -> None:
    assert tuple(formulas.METRICS) == METRICS
    assert list(formulas.values_of(metrics(nmse=0.5)).items())[4] == ("nmse", 0.5)
    assert set(formulas.GATED_METRICS) <= set(formulas.ERROR_METRICS)


@pytest.mark.parametrize("metric", formulas.ERROR_METRICS)
def test_the_worst_error_is_the_largest(metric: str) -> None:
    samples = [metrics(**{metric: value}) for value in (0.2, 0.7, 0.5)]
    assert getattr(worst_metrics(samples), metric) == 0.7


@pytest.mark.parametrize("metric", SIMILARITY_METRICS)
def test_the_worst_similarity_is_the_smallest(metric: str) -> None:
    samples = [metrics(**{metric: value}) for value in (0.7, 0.2, 0.5)]
    assert getattr(worst_metrics(samples), metric) == 0.2


def test_each_metric_has_its_own_worst_sample() -> None:
    worst = worst_metrics([metrics(max_abs_error=5.0), metrics(relative_l2=0.5), metrics(cosine_similarity=-1.0)])
    assert (worst.max_abs_error, worst.relative_l2, worst.cosine_similarity) == (5.0, 0.5, -1.0)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("metric", formulas.METRICS)
def test_a_metric_that_is_not_finite_is_the_worst_wherever_it_stands(metric: str, position: int) -> None:
    samples = [metrics() for _ in range(3)]
    samples[position] = metrics(**{metric: None})
    assert getattr(worst_metrics(samples), metric) is None


def test_sqnr_of_a_sample_without_error_is_no_worst() -> None:
    exact = metrics(nmse=0.0, relative_l2=0.0, sqnr_db=None)
    assert worst_metrics([exact, metrics(sqnr_db=60.0), exact]).sqnr_db == 60.0


def test_sqnr_is_none_where_no_sample_has_an_error() -> None:
    worst = worst_metrics([metrics(nmse=0.0, relative_l2=0.0, sqnr_db=None)])
    assert (worst.sqnr_db, worst.nmse) == (None, 0.0)


def test_sqnr_of_a_sample_that_is_not_finite_is_the_worst() -> None:
    assert worst_metrics([metrics(nmse=None, sqnr_db=None), metrics()]).sqnr_db is None


def test_the_worst_is_never_better_than_any_sample() -> None:
    chooser = random.Random(0)
    samples = [metrics(**{metric: chooser.random() for metric in formulas.METRICS}) for _ in range(50)]
    worst = worst_metrics(samples)
    for sample in samples:
        assert all(getattr(sample, metric) <= getattr(worst, metric) for metric in formulas.ERROR_METRICS)
        assert all(getattr(sample, metric) >= getattr(worst, metric) for metric in SIMILARITY_METRICS)


# ------------------------------------------------------------------------------------------------------- the gate
@pytest.mark.parametrize("metric", formulas.GATED_METRICS)
def test_the_gate_takes_an_error_up_to_the_threshold(metric: str) -> None:
    assert is_within(metrics(**{metric: 0.01}), 0, 0.01, False)


OUTSIDE: dict[str, tuple[Metrics, int]] = {
    "relative_error above": (metrics(relative_error=math.nextafter(0.01, 1)), 0),
    "relative_l2 above": (metrics(relative_l2=math.nextafter(0.01, 1)), 0),
    "relative_error not finite": (metrics(relative_error=None), 0),
    "relative_l2 not finite": (metrics(relative_l2=None), 0),
    "relative_error NaN": (metrics(relative_error=math.nan), 0),
    "relative_l2 NaN": (metrics(relative_l2=math.nan), 0),
    "relative_l2 infinite": (metrics(relative_l2=math.inf), 0),
    "one element not finite": (metrics(), 1),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_the_gate_refuses(case: str) -> None:
    worst, nonfinite = OUTSIDE[case]
    assert not is_within(worst, nonfinite, 0.01, False)


def test_a_first_class_that_changed_counts_for_classifiers_unless_it_was_a_tie() -> None:
    assert is_within(metrics(top1_gap=0.009), 0, 0.01, True)
    assert not is_within(metrics(top1_gap=0.011), 0, 0.01, True)
    assert not is_within(metrics(top1_gap=None), 0, 0.01, True)
    assert is_within(metrics(top1_gap=0.011), 0, 0.01, False)


@pytest.mark.parametrize(
    ("dtype", "expected", "allowed"),
    [
        ("float32", 0.5, 0.01),
        ("float16", 0.5, 0.01),
        ("bfloat16", 0.012, 0.024),
        ("bfloat16", 0.002, 0.004),
        ("bfloat16", 0.06, 0.1),
        ("bfloat16", None, 0.01),
    ],
)
def test_bfloat16_is_held_to_twice_its_expected_error(dtype: str, expected: float | None, allowed: float) -> None:
    assert formulas.allowed_error(dtype, 0.01, expected) == allowed


def test_a_small_nmse_and_a_cosine_near_one_do_not_pass_for_a_large_error() -> None:
    """NMSE 0.9 % is a relative error of 9.5 %; cosine 0.9955 belongs to it."""
    worst = metrics(nmse=0.009, relative_l2=0.0949, relative_error=0.0949, cosine_similarity=0.9955, sqnr_db=20.5)
    assert not is_within(worst, 0, 0.01, False)


@pytest.mark.parametrize(
    ("throughput_ips", "end_to_end_ips", "avg_latency_ms", "fastest"),
    [(300.0, 100.0, 20.0, 300.0), (150.0, 250.0, 20.0, 250.0), (150.0, 100.0, 10.0, 400.0)],
)
def test_the_fastest_pass_is_the_one_that_is_held_to_the_limit(
    throughput_ips: float, end_to_end_ips: float, avg_latency_ms: float, fastest: float
) -> None:
    passes = {"throughput_ips": throughput_ips, "end_to_end_ips": end_to_end_ips}
    assert formulas.fastest_ips(4, example(Figures, avg_latency_ms=avg_latency_ms, **passes)) == fastest


def test_the_figures_of_a_batch_size_are_those_of_its_three_passes() -> None:
    """Batches of 4: calls of 4, 2 and 6 ms; windows of 5 calls in 10 ms; one image after the other in 8 ms."""
    limit = LimitFigures(achieved_tflops=1.0, limit_tflops=2.0, percent_of_limit=0.5)
    found = formulas.summarize_passes(
        4,
        Windows(calls=1, samples_ms=[4.0, 2.0, 6.0]),
        Windows(calls=5, samples_ms=[10.0, 10.0]),
        Windows(calls=1, samples_ms=[8.0]),
        limit,
    )
    assert (found.latency.n, found.latency.avg_latency_ms, found.latency.p50_latency_ms) == (3, 4.0, None)
    assert (found.throughput_ips, found.end_to_end_ips) == (2000.0, 500.0)
    assert found.limit == limit


def test_the_figures_of_a_batch_size_without_a_limit() -> None:
    once = Windows(calls=1, samples_ms=[1.0])
    assert formulas.summarize_passes(1, once, once, once).limit == formulas.beside_the_limit(1.0, 1.0, [])


def test_ranks_together_and_alone() -> None:
    """Two ranks with 4 images in 10 ms and in 20 ms: 400 and 200 a second; alone the first had 500."""
    shares = [example(Share, calls=2, samples_ms=[20.0, 20.0]), example(Share, calls=1, samples_ms=[20.0])]
    alone = Windows(calls=1, samples_ms=[8.0])
    found = formulas.scaling(4, shares, alone)
    assert found.throughput_ips == [400.0, 200.0]
    assert (found.total_throughput_ips, found.alone_throughput_ips) == (600.0, 500.0)
    assert found.scaling_efficiency == pytest.approx(0.6)
    assert found.alone is alone


# ----------------------------------------------------------------------------------------------------- the probe
EXACT = {"conv_mantissa_bits": 23, "matmul_mantissa_bits": 23, "attention_mantissa_bits": 23}
EXACT_PROBE = Probe(**EXACT, gelu="erf", gelu_tanh="tanh")
EVERY_OPERATOR = ("conv", "matmul", "attention", "gelu", "gelu_tanh")


@pytest.mark.parametrize("operators", [(), ("conv",), EVERY_OPERATOR])
def test_an_exact_device_contradicts_nothing(operators: tuple[str, ...]) -> None:
    assert formulas.probe_contradictions(EXACT_PROBE, operators, "float32") == []


@pytest.mark.parametrize(
    ("operators", "dtype", "words"),
    [
        (("conv",), "float32", ["conv_mantissa_bits is 11, not 23"]),
        (("matmul", "attention"), "float32", []),
        (("gelu",), "float32", ["gelu is tanh, not erf"]),
        (("gelu_tanh",), "float32", []),
        (EVERY_OPERATOR, "float32", ["conv_mantissa_bits is 11, not 23", "gelu is tanh, not erf"]),
        (("conv",), "float16", ["conv_mantissa_bits is 11, not 10"]),
        (("matmul",), "bfloat16", ["matmul_mantissa_bits is 23, not 7"]),
    ],
)
def test_a_probe_contradicts_over_operators_of_the_model_alone(
    operators: tuple[str, ...], dtype: str, words: list[str]
) -> None:
    probe = Probe(**{**EXACT, "conv_mantissa_bits": 11}, gelu="tanh", gelu_tanh="tanh")
    assert formulas.probe_contradictions(probe, operators, dtype) == words


# -------------------------------------------------------------------------------------------- what bounds a latency
@pytest.mark.parametrize(
    ("issued", "whole", "issue_ms", "bound"),
    [
        ([9.0], [10.0], 9.0, "host"),
        ([8.9], [10.0], 8.9, "both"),
        ([5.0], [10.0], 5.0, "both"),
        ([4.9], [10.0], 4.9, "device"),
        ([1.0, 4.0, 9.5], [10.0, 10.0, 10.0], 4.0, "device"),
        ([9.0, 9.5], [10.0, 12.0], 9.0, "host"),  # of two the lower, as p50_latency_ms
    ],
)
def test_the_host_bounds_a_latency_that_is_issuing(
    issued: list[float], whole: list[float], issue_ms: float, bound: str
) -> None:
    found = formulas.issue_figures(Windows(calls=1, samples_ms=issued), Windows(calls=1, samples_ms=whole))
    assert (found.issue_ms, found.bound) == (issue_ms, bound)


def test_without_a_queue_nothing_is_issued() -> None:
    found = formulas.issue_figures(None, Windows(calls=1, samples_ms=[10.0]))
    assert (found.issue_ms, found.bound) == (None, None)
