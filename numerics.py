"""How far the device's output is from the reference: the metrics and their formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FINGERPRINT_SIZE = 8


def compare(reference: Tensor, candidate: Tensor) -> dict[str, float | None]:
    """The metrics of one sample's output, both of the same shape, computed in float64.

    With reference r, candidate y and d = y - r: `max_abs_error` = max|d|, `mean_abs_error` = mean|d|,
    `relative_error` = mean|d| / mean|r|, `relative_l2` = ||d|| / ||r||, `nmse` = relative_l2^2,
    `sqnr_db` = -10 log10 nmse (None without any error), `one_minus_cosine` = ||y/||y|| - r/||r||||^2 / 2, which keeps
    its digits where 1 - cos cancels, `cosine_similarity` = 1 - one_minus_cosine, which stays within [-1, 1].
    `top5_match` is the share of the reference's five largest elements that are among the candidate's five largest.
    `nonfinite` counts the NaN and infinite elements of both.

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
    metrics: dict[str, float | None] = {
        "max_abs_error": float(d.abs().max()),
        "mean_abs_error": float(d.abs().mean()),
        "relative_error": float(d.abs().mean() / r.abs().mean()),
        "relative_l2": relative_l2,
        "nmse": nmse,
        "sqnr_db": sqnr_db(nmse),
        "cosine_similarity": max(1 - one_minus_cosine, -1.0),  # max keeps a NaN only as its first argument
        "one_minus_cosine": one_minus_cosine,
        "top5_match": top5_match(r, y),
    }
    nonfinite = count_nonfinite(r) + count_nonfinite(y)
    if nonfinite:
        metrics["top5_match"] = None
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()}
    return {**finite, "nonfinite": nonfinite}


def sqnr_db(nmse: float) -> float | None:
    """Signal to quantisation noise in dB; None where there is no noise."""
    return -10 * math.log10(nmse) if nmse > 0 else None


def top5_match(r: Tensor, y: Tensor) -> float:
    """The share of the five largest elements of r [N] that are among the five largest of y [N]."""
    count = min(5, r.numel())
    return len(set(r.topk(count).indices.tolist()) & set(y.topk(count).indices.tolist())) / count


def worst_token(reference: Tensor, candidate: Tensor) -> tuple[int, float | None]:
    """The token [T, C] with the largest relative L2 error, and that error; None is a NaN's, and the largest."""
    r, y = reference.double(), candidate.double()
    error = (y - r).norm(dim=-1) / r.norm(dim=-1)
    token = int(error.nan_to_num(nan=torch.inf).argmax())
    return token, float(error[token]) if error[token].isfinite() else None


def fingerprint(embedding: Tensor) -> list[float]:
    """A few numbers of an embedding [D] by which it is recognised within tolerance: its norm and spread elements."""
    values = embedding.double().flatten()
    spread = torch.linspace(0, values.numel() - 1, FINGERPRINT_SIZE).long()
    return [float(values.norm()), *values[spread].tolist()]


def count_nonfinite(output: Tensor) -> int:
    return int((~torch.isfinite(output)).sum())
