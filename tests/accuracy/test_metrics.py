"""The metrics: each formula against values computed by hand, and the properties that a verdict rests on."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from common.accuracy import metrics as own
from common.accuracy.metrics import (
    FINGERPRINT_SIZE,
    compare_each,
    count_nonfinite,
    count_nonfinite_each,
    fingerprint,
    top1_gap,
    top5_match,
    worst_token,
)
from common.log import formulas
from common.log.formulas import sqnr_db

RELATIVE = ("relative_error", "relative_l2", "nmse", "sqnr_db", "cosine_similarity", "one_minus_cosine", "top5_match")
NAN, INF = math.nan, math.inf


def compare(reference: Tensor, candidate: Tensor) -> dict[str, float | None]:
    """The metrics by their names, and the count of what is not finite."""
    found = formulas.values_of(own.compare(reference, candidate))
    return {**found, "nonfinite": count_nonfinite(reference, candidate)}


def vector(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


# ---------------------------------------------------------------------------------------------- formulas by hand
# r = (3, 4), y = (4, 3): d = (1, -1), ||d||^2 = 2, ||r|| = ||y|| = 5, r.y = 24.
# r = (1, -2, 2), y = (1, -2, 5): d = (0, 0, 3), ||r|| = 3, ||y|| = sqrt(30), r.y = 15.
# r = (1, 0), y = (-1, 0): opposite.  r = (2, 0), y = (0, 2): a right angle.
BY_HAND = {
    "max_abs_error": [1, 3, 2, 2],
    "mean_abs_error": [1, 1, 1, 2],
    "relative_error": [2 / 7, 3 / 5, 2, 2],
    "relative_l2": [math.sqrt(2) / 5, 1, 2, math.sqrt(2)],
    "nmse": [2 / 25, 1, 4, 2],
    "sqnr_db": [10.969100130080564, 0, -6.020599913279624, -3.010299956639812],
    "cosine_similarity": [24 / 25, 15 / (3 * math.sqrt(30)), -1, 0],
    "one_minus_cosine": [1 / 25, 1 - 15 / (3 * math.sqrt(30)), 2, 1],
    "top5_match": [1, 1, 1, 1],
    "top1_gap": [1, 0, 1, 1],
    "nonfinite": [0, 0, 0, 0],
}
PAIRS = [
    (vector(3, 4), vector(4, 3)),
    (vector(1, -2, 2), vector(1, -2, 5)),
    (vector(1, 0), vector(-1, 0)),
    (vector(2, 0), vector(0, 2)),
]


@pytest.mark.parametrize("pair", range(len(PAIRS)))
@pytest.mark.parametrize("metric", BY_HAND)
def test_the_formula_gives_the_value_computed_by_hand(metric: str, pair: int) -> None:
    assert compare(*PAIRS[pair])[metric] == pytest.approx(BY_HAND[metric][pair], rel=1e-14, abs=1e-15)


def test_the_metrics_are_those_that_the_summaries_know() -> None:
    assert set(compare(*PAIRS[0])) == {*formulas.METRICS, "nonfinite"} == set(BY_HAND)


def test_the_error_is_relative_to_the_reference_not_to_the_device() -> None:
    assert compare(vector(1, 1), vector(2, 2))["relative_l2"] == 1
    assert compare(vector(2, 2), vector(1, 1))["relative_l2"] == 0.5


def test_the_published_figures_are_mean_error_over_mean_reference() -> None:
    """A mean_abs_error of 0.008519 and a relative_error of 1.3408 % imply a mean |reference| of 0.6354."""
    mean_reference = 0.008519 / 0.013408
    assert round(mean_reference, 4) == 0.6354
    signs = vector(1, -1, 1, 1, -1, 1)
    reference = signs * vector(0.1, 0.4, 0.7, 1.0, 1.3, 0.5) * (mean_reference / (4.0 / 6))
    candidate = reference + signs.flip(0) * vector(0, 1, 2, 0, 1, 2) * 0.008519
    metrics = compare(reference, candidate)
    assert round(metrics["mean_abs_error"], 6) == 0.008519
    assert round(metrics["relative_error"] * 100, 4) == 1.3408
    assert round(metrics["relative_l2"] * 100, 4) != 1.3408


def test_any_shape_is_compared_as_one_vector() -> None:
    reference, candidate = torch.arange(24.0) - 7, torch.arange(24.0).roll(1)
    flat = compare(reference, candidate)
    assert compare(reference.reshape(1, 4, 6), candidate.reshape(1, 4, 6)) == flat
    assert compare(reference.reshape(4, 6).T, candidate.reshape(4, 6).T) == pytest.approx(flat, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_metrics_are_computed_in_float64_whatever_the_dtype(dtype: torch.dtype) -> None:
    """In its own dtype the squares of this vector would overflow or lose the difference."""
    reference = torch.full((4096,), 200.0, dtype=dtype)
    candidate = reference.clone()
    candidate[0] = 201.0
    metrics = compare(reference, candidate)
    assert metrics["mean_abs_error"] == 1 / 4096
    assert metrics["relative_l2"] == pytest.approx(1 / (200 * 64), rel=1e-14)


# ------------------------------------------------------------------------------------------------------ properties
@pytest.mark.parametrize("scale", [1e-6, 0.3, 7.0, 1e6, -2.0])
def test_the_relative_metrics_do_not_depend_on_the_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(64, generator=generator, dtype=torch.float64)
    candidate = reference + 0.01 * torch.randn(64, generator=generator, dtype=torch.float64)
    expected, found = compare(reference, candidate), compare(scale * reference, scale * candidate)
    relative = RELATIVE if scale > 0 else RELATIVE[:-1]  # the five largest of a negated vector are others
    assert {m: found[m] for m in relative} == pytest.approx({m: expected[m] for m in relative}, rel=1e-9)
    assert found["max_abs_error"] == pytest.approx(abs(scale) * expected["max_abs_error"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_inputs_have_no_error(dtype: torch.dtype) -> None:
    output = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    metrics = compare(output, output.clone())
    assert [metrics[metric] for metric in formulas.ERROR_METRICS] == [0] * len(formulas.ERROR_METRICS)
    assert (metrics["cosine_similarity"], metrics["top5_match"], metrics["sqnr_db"]) == (1, 1, None)


def test_the_smallest_difference_of_one_element_is_an_error() -> None:
    reference = torch.ones(1000, dtype=torch.float32)
    candidate = reference.clone()
    candidate[999] = torch.nextafter(candidate[999], torch.tensor(2.0))
    metrics = compare(reference, candidate)
    assert all(metrics[metric] > 0 for metric in ("max_abs_error", "mean_abs_error", "relative_error", "relative_l2"))
    assert metrics["sqnr_db"] is not None


def pairs_for_cosine() -> list[tuple[Tensor, Tensor]]:
    """Random, near-parallel, near-opposite and exactly (anti)parallel vectors of many sizes and scales."""
    generator = torch.Generator().manual_seed(2)
    pairs = []
    for turn in range(1000):
        size = 1 + turn % 97
        r, noise = torch.randn(2, size, generator=generator, dtype=torch.float64) * 10.0 ** (turn % 13 - 6)
        angle = 10.0 ** -(turn % 17)
        pairs += [(r, noise), (r, r + angle * noise), (r, -r + angle * noise), (r, r * 3.7), (r, r * -1.3)]
    return pairs


def test_cosine_never_leaves_its_range() -> None:
    for r, y in pairs_for_cosine():
        metrics = compare(r, y)
        assert -1 <= metrics["cosine_similarity"] <= 1
        assert 0 <= metrics["one_minus_cosine"] <= 2 + 1e-12
        assert metrics["cosine_similarity"] == max(-1.0, 1 - metrics["one_minus_cosine"])


def test_the_vectors_of_the_range_test_would_break_the_plain_formula() -> None:
    plain = [float(r.dot(y) / (r.norm() * y.norm())) for r, y in pairs_for_cosine()]
    assert max(plain) > 1
    assert min(plain) < -1


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9])
def test_one_minus_cosine_keeps_its_digits_where_the_difference_cancels(angle: float) -> None:
    """1 - cos of a small angle a is a^2 / 2; from the angle 1e-8 on, 1 - cos(a) is 0 in float64."""
    metrics = compare(vector(1, 0), vector(math.cos(angle), math.sin(angle)))
    assert metrics["one_minus_cosine"] == pytest.approx(angle**2 / 2, rel=1e-6)


def test_plain_one_minus_cosine_would_cancel_at_the_smallest_angle() -> None:
    assert 1 - math.cos(1e-9) == 0


@pytest.mark.parametrize(("nmse", "decibels"), [(1.0, 0), (0.01, 20), (1e-6, 60), (4.0, -6.020599913279624)])
def test_sqnr(nmse: float, decibels: float) -> None:
    assert sqnr_db(nmse) == pytest.approx(decibels, abs=1e-12)


def test_sqnr_is_none_exactly_without_error() -> None:
    assert sqnr_db(0.0) is None
    assert sqnr_db(sys.float_info.min) is not None


# ---------------------------------------------------------------------------------------------------- not finite
NOT_FINITE = {
    "NaN in the device's output": (vector(1, 2, 3), vector(1, NAN, 3), 1),
    "NaN in the reference": (vector(1, NAN, 3), vector(1, 2, 3), 1),
    "NaN in both at the same place": (vector(1, NAN, 3), vector(1, NAN, 3), 2),
    "infinity in the device's output": (vector(1, 2, 3), vector(1, INF, 3), 1),
    "infinity in the reference": (vector(1, -INF, 3), vector(1, 2, 3), 1),
    "the same infinity in both": (vector(1, INF, 3), vector(1, INF, 3), 2),
    "opposite infinities": (vector(1, INF, 3), vector(1, -INF, 3), 2),
    "NaN alone": (vector(NAN), vector(NAN), 2),
    "all NaN": (vector(1, 2, 3), vector(NAN, NAN, NAN), 3),
    "an overflow of float16": (vector(1, 2), torch.tensor([1.0, 70000.0]).half(), 1),
}


@pytest.mark.parametrize("case", NOT_FINITE)
def test_nan_and_infinity_are_counted(case: str) -> None:
    reference, candidate, count = NOT_FINITE[case]
    assert compare(reference, candidate)["nonfinite"] == count


@pytest.mark.parametrize("metric", [*formulas.ERROR_METRICS, "cosine_similarity", "sqnr_db"])
@pytest.mark.parametrize("case", NOT_FINITE)
def test_nan_and_infinity_are_never_equal_to_anything(case: str, metric: str) -> None:
    reference, candidate, _ = NOT_FINITE[case]
    assert compare(reference, candidate)[metric] is None


@pytest.mark.parametrize("case", NOT_FINITE)
def test_nan_and_infinity_never_pass_the_gate(case: str) -> None:
    reference, candidate, count = NOT_FINITE[case]
    assert not formulas.is_within(formulas.worst_metrics([own.compare(reference, candidate)]), count, 1e9, False)


@pytest.mark.parametrize("case", NOT_FINITE)
def test_no_metric_is_nan_or_infinite(case: str) -> None:
    reference, candidate, _ = NOT_FINITE[case]
    assert all(value is None or math.isfinite(value) for value in compare(reference, candidate).values())


@pytest.mark.parametrize("candidate", [vector(0, 0, 0), vector(0, 1, 0), vector(1e-300, 0, 0)])
@pytest.mark.parametrize("metric", ["relative_error", "relative_l2", "nmse", "cosine_similarity", "one_minus_cosine"])
def test_nothing_can_be_relative_to_a_reference_of_zeros(metric: str, candidate: Tensor) -> None:
    """Two dead encoders agree on zero: that is no evidence."""
    assert compare(vector(0, 0, 0), candidate)[metric] is None


@pytest.mark.parametrize("candidate", [vector(0, 0, 0), vector(0, 1, 0)])
def test_a_reference_of_zeros_never_passes_the_gate(candidate: Tensor) -> None:
    worst = formulas.worst_metrics([own.compare(vector(0, 0, 0), candidate)])
    assert not formulas.is_within(worst, 0, 1e9, False)


def test_a_dead_output_is_a_full_error() -> None:
    metrics = compare(vector(3, 4), vector(0, 0))
    assert (metrics["relative_l2"], metrics["relative_error"]) == (1, 1)
    assert metrics["cosine_similarity"] is None


def test_an_error_beyond_a_float_is_none_and_not_a_crash() -> None:
    metrics = compare(vector(1e-100), vector(1e100))
    assert metrics["nmse"] is None


@pytest.mark.parametrize("shapes", [((4,), (5,)), ((1, 4), (4,)), ((2, 3), (3, 2)), ((1, 4), (2, 4)), ((4,), (1,))])
def test_other_shapes_are_refused_not_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="shape"):
        compare(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize(
    ("output", "count"), [(vector(1, 2), 0), (vector(NAN, INF, -INF, 0), 3), (torch.full((2, 3), NAN).half(), 6)]
)
def test_count_nonfinite(output: Tensor, count: int) -> None:
    assert count_nonfinite(output) == count


# ------------------------------------------------------------------------------------------------------- top five
@pytest.mark.parametrize(
    ("candidate", "share"),
    [
        (vector(9, 8, 7, 6, 5, 0, 1), 1.0),
        (vector(5, 6, 7, 8, 9, 0, 1), 1.0),  # their order does not count
        (vector(9, 8, 7, 6, 0, 5, 1), 0.8),
        (vector(0, 1, 7, 6, 5, 9, 8), 0.6),
    ],
)
def test_top5_match_is_the_share_of_the_largest_five(candidate: Tensor, share: float) -> None:
    assert top5_match(vector(9, 8, 7, 6, 5, 0, 1)[None], candidate[None]).tolist() == [share]


@pytest.mark.parametrize(
    ("candidate", "gap"),
    [
        (vector(9, 8, 0, 0), 0.0),  # the same first class
        (vector(8, 9, 0, 0), 0.001),  # two classes that are as good as tied in the reference
        (vector(0, 0, 9, 8), 0.5),
        (vector(0, 0, 8, 9), 1.0),
    ],
)
def test_top1_gap_is_a_share_of_the_references_range(candidate: Tensor, gap: float) -> None:
    assert top1_gap(vector(10, 9.99, 5, 0)[None], candidate[None]).tolist() == pytest.approx([gap], abs=1e-12)


def test_top1_gap_of_a_constant_reference_is_a_tie() -> None:
    assert top1_gap(vector(1, 1, 1)[None], vector(0, 1, 2)[None]).tolist() == [0]


def test_top5_match_of_fewer_than_five_elements() -> None:
    assert top5_match(vector(1, 2, 3)[None], vector(3, 2, 1)[None]).tolist() == [1]


def test_top5_match_can_be_zero() -> None:
    assert top5_match(torch.arange(10.0)[None], -torch.arange(10.0)[None]).tolist() == [0]


# ------------------------------------------------------------------------------------------------- several samples
@pytest.mark.parametrize("shape", [(1, 10), (7, 33), (300, 5, 64), (3, 1408)])
def test_the_metrics_of_a_sample_are_the_same_to_the_bit_beside_others(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    references = torch.randn(shape, generator=generator)
    candidates = references + 0.01 * torch.randn(shape, generator=generator)
    candidates[-1] = math.nan
    found = compare_each(references, candidates)
    assert found == [own.compare(r, y) for r, y in zip(references, candidates, strict=True)]
    assert found[-1].relative_l2 is None
    counts = count_nonfinite_each(references, candidates)
    assert counts == [count_nonfinite(r, y) for r, y in zip(references, candidates, strict=True)]
    assert counts[-1] == references[-1].numel()


# ---------------------------------------------------------------------------------------------------- worst token
def test_the_worst_token_is_relative_to_its_own_norm() -> None:
    """Token 1 has the largest error, token 2 the largest for its size."""
    reference = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.3, 0.4]])
    candidate = reference + torch.tensor([[0.1, 0.0], [5.0, 0.0], [0.1, 0.0]])
    token, error = worst_token(reference, candidate)
    assert token == 2
    assert error == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
@pytest.mark.parametrize("token", [0, 1, 3])
def test_a_token_that_is_not_finite_is_the_worst(token: int, wrong: float) -> None:
    reference = torch.ones(4, 8)
    candidate = reference.clone()
    candidate[2] = 1e6
    candidate[token, 5] = wrong
    assert worst_token(reference, candidate) == (token, None)


def test_the_worst_token_of_equal_outputs_has_no_error() -> None:
    assert worst_token(torch.ones(4, 8), torch.ones(4, 8))[1] == 0


# ---------------------------------------------------------------------------------------------------- fingerprint
@pytest.mark.parametrize("error", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("size", [128, 1000, 1408])
def test_the_distance_of_two_fingerprints_is_that_of_the_embeddings(size: int, error: float) -> None:
    """Within 60 %, for errors in all directions alike: what passes for 1 % is less than 2.5 %."""
    generator = torch.Generator().manual_seed(size)
    for _ in range(50):
        embedding = torch.randn(size, generator=generator, dtype=torch.float64)
        direction = torch.randn(size, generator=generator, dtype=torch.float64)
        other = embedding + error * direction / direction.norm() * embedding.norm()
        a, b = fingerprint(embedding), fingerprint(other)
        assert math.dist(a, b) / math.hypot(*a) == pytest.approx(error, rel=0.6)


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_the_fingerprint_has_one_length(size: int) -> None:
    assert len(fingerprint(torch.randn(size))) == FINGERPRINT_SIZE


def test_the_fingerprint_is_that_of_the_values_not_of_the_dtype_or_shape() -> None:
    embedding = torch.randn(64, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert fingerprint(embedding) == fingerprint(embedding.double()) == fingerprint(embedding.reshape(1, 64))


def test_embeddings_of_different_images_have_different_fingerprints() -> None:
    first, second = torch.randn(2, 768, generator=torch.Generator().manual_seed(4))
    a, b = fingerprint(first), fingerprint(second)
    assert math.dist(a, b) > 0.05 * math.hypot(*a)
