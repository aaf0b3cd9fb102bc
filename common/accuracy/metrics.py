"""How far the device's output is from the reference: the metrics and their formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from common.log import formulas
from common.log.events import Metrics

FINGERPRINT_SIZE = 64


def compare(reference: Tensor, candidate: Tensor) -> Metrics:
    """As `compare_each`, of one sample's output, both of the same shape."""
    return compare_each(reference.unsqueeze(0), candidate.unsqueeze(0))[0]


def compare_each(references: Tensor, candidates: Tensor) -> list[Metrics]:
    """The metrics of N samples' outputs [N, ...], both of the same shape, computed in float64.

    With reference r, candidate y and d = y - r: `max_abs_error` = max|d|, `mean_abs_error` = mean|d|,
    `relative_error` = mean|d| / mean|r|, `relative_l2` = ||d|| / ||r||, `one_minus_cosine` =
    ||y/||y|| - r/||r||||^2 / 2, which keeps its digits where 1 - cos cancels; what follows from these is in
    `formulas.complete`. `top5_match` is the share of the reference's five largest elements that are among the
    candidate's five largest. `top1_gap` is how far the reference's value at the candidate's largest element lies below
    the reference's largest, as a share of the reference's range: 0 where both have the same largest element, tiny
    where two are all but tied.

    A NaN or infinity never equals anything, itself included: the metrics that it reaches are None. Of an image they
    are the same to the last bit beside whatever others. Raises ValueError for different shapes.
    """
    if references.shape != candidates.shape:
        shapes = list(candidates.shape[1:]), list(references.shape[1:])
        raise ValueError(f"the output has shape {shapes[0]}, the reference {shapes[1]}")
    tensors = [each.double().flatten(1).contiguous() for each in (references, candidates)]
    r, y = (tensor.numpy() for tensor in tensors)
    with np.errstate(all="ignore"):  # what overflows or is divided by zero is not finite, and so None
        d = np.abs(y - r)
        mean = d.mean(axis=1)
        norms = [np.sqrt((values * values).sum(axis=1)) for values in (d, r, y)]
        between = y / norms[2][:, None] - r / norms[1][:, None]
        columns = {
            "max_abs_error": d.max(axis=1),
            "mean_abs_error": mean,
            "relative_error": mean / np.abs(r).mean(axis=1),
            "relative_l2": norms[0] / norms[1],
            "one_minus_cosine": (between * between).sum(axis=1) / 2,
        }
    finite = np.isfinite(r).all(axis=1) & np.isfinite(y).all(axis=1)
    for name, of_pair in (("top5_match", top5_match), ("top1_gap", top1_gap)):
        columns[name] = np.where(finite, of_pair(*tensors).numpy(), np.nan)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [formulas.complete(dict(zip(columns, row, strict=True))) for row in rows]


def worst_relative_l2(references: Iterable[Tensor], candidates: Iterable[Tensor]) -> float | None:
    """The largest relative_l2 of the pairs; None where one is not finite."""
    errors = [compare(r, y).relative_l2 for r, y in zip(references, candidates, strict=True)]
    return None if None in errors else max(error for error in errors if error is not None)


def top5_match(r: Tensor, y: Tensor) -> Tensor:
    """Of each of N rows the share of the five largest elements of r [N, D] that are among the five largest of y."""
    count = min(5, r.shape[1])
    largest = [each.topk(count).indices for each in (r, y)]
    return (largest[0][:, :, None] == largest[1][:, None, :]).any(dim=2).double().mean(dim=1)


def top5(values: Tensor) -> dict[int, float]:
    """The five largest elements of [N] by their index, the largest first."""
    largest = values.topk(min(5, values.numel()))
    return dict(zip(largest.indices.tolist(), largest.values.tolist(), strict=True))


def top1_gap(r: Tensor, y: Tensor) -> Tensor:
    """(max r - r[argmax y]) / (max r - min r) of each row of r, y [N, D]; 0 for a constant r, where all are tied.

    Of several largest elements of y it takes the one that `top5` has first.
    """
    largest = r.amax(dim=1)
    extent = largest - r.amin(dim=1)
    gap = (largest - r.gather(1, y.topk(min(5, y.shape[1])).indices[:, :1]).squeeze(1)) / extent
    return torch.where(extent == 0, 0.0, gap)


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
    products: list[float | None] = (_signs(values.numel()) @ values / math.sqrt(FINGERPRINT_SIZE)).tolist()
    return products


@cache
def _signs(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (FINGERPRINT_SIZE, size), generator=generator).double() * 2 - 1


def count_nonfinite(*outputs: Tensor) -> int:
    return sum(int((~torch.isfinite(output)).sum()) for output in outputs)


def count_nonfinite_each(*outputs: Tensor) -> list[int]:
    """Of N samples' outputs [N, ...], those of each sample together."""
    counts = [(~torch.isfinite(output)).flatten(1).sum(dim=1) for output in outputs]
    each: list[int] = torch.stack(counts).sum(dim=0).tolist()
    return each
