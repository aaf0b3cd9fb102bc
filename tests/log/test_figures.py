"""Figures as people read them: one way for each kind."""

from __future__ import annotations

import pytest

from common.log.figures import format_figure, format_metric, percent, rate
from common.log.formulas import METRICS


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.013408, "1.3408%"),
        (0.0, "0%"),
        (1.0, "100.0000%"),
        (1e-4, "0.0100%"),
        (1.2e-8, "1.2e-06%"),
        (-0.01, "-1.0000%"),
        (None, "not finite"),
    ],
)
def test_percent_for_people(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("relative_error", 0.013408, "1.3408%"),
        ("relative_l2", None, "not finite"),
        ("max_abs_error", 0.041234567, "0.041235"),
        ("mean_abs_error", 1.23456e-7, "1.23e-07"),
        ("mean_abs_error", 0.0, "0.000000"),
        ("cosine_similarity", None, "not finite"),
        ("top5_match", 0.8, "80%"),
        ("sqnr_db", 58.17, "58.2"),
        ("sqnr_db", None, "no error"),
    ],
)
def test_a_metric_for_people(metric: str, value: float | None, text: str) -> None:
    assert metric in METRICS
    assert format_metric(metric, value) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("p50_latency_ms", 12.34567, "12.346"),
        ("first_call_ms", 1379.6, "1380"),
        ("end_to_end_ips", 76.918, "76.92"),
        ("peak_memory_mb", 2.6, "3"),
        ("gemm_tflops", 0.0596, "0.0596"),
        ("gemm_tflops", 0.00004321, "4.32e-05"),
        ("limit_tflops", 312.4, "312"),
        ("gflop_per_image", 1234.5, "1234"),
        ("threshold", 0.01, "1.0%"),
        ("threshold", 0.02137062167, "2.1371%"),
        ("explained", 0.9987, "99.9%"),
        ("explained", -5253.502, "0.0%"),
        ("confirmed", -0.0003, "0.0%"),
        ("without", 0.0, "0%"),
        ("percent_of_limit", 0.1574, "15.7%"),
        ("expected_relative_l2", 0.00321, "0.3210%"),
        ("params", 86_567_656, "86.6M"),
        ("batch_size", 64, "64"),
    ],
)
def test_a_figure_by_its_key(key: str, value: float, text: str) -> None:
    assert format_figure(key, value) == text


@pytest.mark.parametrize(
    ("tflops", "text"),
    [
        (0.0000385, "0.0385 GFLOP/s"),
        (0.0385, "38.5 GFLOP/s"),
        (0.0953, "95.3 GFLOP/s"),
        (0.178, "0.178 TFLOP/s"),
        (312.4, "312 TFLOP/s"),
    ],
)
def test_small_rates_have_the_smaller_unit(tflops: float, text: str) -> None:
    assert rate(tflops) == text
