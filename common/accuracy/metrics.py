"""How far the device's output is from the reference: the metrics and their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from common.log.events import Metrics

FINGERPRINT_SIZE = 64


def compare(reference: Tensor, candidate: Tensor) -> Metrics:
    """The metrics of one sample's output, both of the same shape, computed in float64.

    With reference r, candidate y and d = y - r: `max_abs_error` = max|d|, `mean_abs_error` = mean|d|,
    `relative_error` = mean|d| / mean|r|, `relative_l2` = ||d|| / ||r||, `nmse` = relative_l2^2,
    `sqnr_db` = -10 log10 nmse (None without any error), `one_minus_cosine` = ||y/||y|| - r/||r||||^2 / 2, which keeps
    its digits where 1 - cos cancels, `cosine_similarity` = 1 - one_minus_cosine, which stays within [-1, 1].
    `top5_match` is the share of the reference's five largest elements that are among the candidate's five largest.
    `top1_gap` is how far the reference's value at the candidate's largest element lies below the reference's largest,
    as a share of the reference's range: 0 where both have the same largest element, tiny where two are all but tied.

    A NaN or infinity never equals anything, itself included: the metrics that it reaches are None.
    Raises ValueError for different shapes.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"the output has shape {list(candidate.shape)}, the reference {list(reference.shape)}")
    r, y = reference.double().flatten(), candidate.double().flatten()
    d = y - r
    relative_l2 = float(d.norm() / r.norm())
    nmse = relative_l2 * relative_l2  # unlike **, this overflows to infinity
    one_minus_cosine = float((y / y.norm() - r / r.norm()).square().sum() / 2)
    finite = count_nonfinite(r, y) == 0
    values = {
        "max_abs_error": float(d.abs().max()),
        "mean_abs_error": float(d.abs().mean()),
        "relative_error": float(d.abs().mean() / r.abs().mean()),
        "relative_l2": relative_l2,
        "nmse": nmse,
        "sqnr_db": sqnr_db(nmse),
        "cosine_similarity": max(1 - one_minus_cosine, -1.0),  # max keeps a NaN only as its first argument
        "one_minus_cosine": one_minus_cosine,
        "top5_match": top5_match(r, y) if finite else None,
        "top1_gap": top1_gap(r, y) if finite else None,
    }
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    return Metrics(**{name: known.get(name) for name in values})


def worst_relative_l2(references: Iterable[Tensor], candidates: Iterable[Tensor]) -> float | None:
    """The largest relative_l2 of the pairs; None where one is not finite."""
    errors = [compare(r, y).relative_l2 for r, y in zip(references, candidates, strict=True)]
    return None if None in errors else max(error for error in errors if error is not None)


def sqnr_db(nmse: float) -> float | None:
    """Signal to quantisation noise in dB; None where there is no noise."""
    return -10 * math.log10(nmse) if nmse > 0 else None


def top5(values: Tensor) -> dict[int, float]:
    """The five largest elements of [N] by their index, the largest first."""
    largest = values.topk(min(5, values.numel()))
    return dict(zip(largest.indices.tolist(), largest.values.tolist(), strict=True))


def top5_match(r: Tensor, y: Tensor) -> float:
    """The share of the five largest elements of r [N] that are among the five largest of y [N]."""
    largest = top5(r)
    return len(largest.keys() & top5(y).keys()) / len(largest)


def top1_gap(r: Tensor, y: Tensor) -> float:
    """(max r - r[argmax y]) / (max r - min r) of r, y [N]; 0 for a constant r, where all are tied.

    Of several largest elements of y it takes the one that `top5` has first.
    """
    extent = r.max() - r.min()
    return float((r.max() - r[next(iter(top5(y)))]) / extent) if extent != 0 else 0.0


def worst_token(reference: Tensor, candidate: Tensor) -> tuple[int, float | None]:
    """The token [T, C] with the largest relative L2 error, and that error; None is a NaN's, and the largest."""
    r, y = reference.double(), candidate.double()
    error = (y - r).norm(dim=-1) / r.norm(dim=-1)
    token = int(error.nan_to_num(nan=torch.inf).argmax())
    return token, float(error[token]) if error[token].isfinite() else None


def fingerprint(embedding: Tensor) -> list[float | None]:
    """A few numbers of an embedding [D] by which it is recognised within tolerance.

    They are its products with seeded vectors of random signs. Such projections keep distances: the relative L2
    difference of two fingerprints is that of the embeddings within about 1/sqrt(FINGERPRINT_SIZE) of its value
    (Achlioptas, 2003, "Database-friendly random projections").
    """
    values = embedding.cpu().double().flatten()  # an NPU has no float64
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (FINGERPRINT_SIZE, values.numel()), generator=generator).double() * 2 - 1
    products: list[float | None] = (signs @ values / math.sqrt(FINGERPRINT_SIZE)).tolist()
    return products


def count_nonfinite(*outputs: Tensor) -> int:
    return sum(int((~torch.isfinite(output)).sum()) for output in outputs)
