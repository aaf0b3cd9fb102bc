"""Causes: naming the one whose emulation on the CPU explains a device's error.

Rounding repeats from one device to the next only in part: another order of accumulation moves a few values over a
rounding boundary, they differ by a whole step then, and after some blocks every activation is rounded another way.
(Measured on a ViT of 12 blocks: two bfloat16 runs have errors of one size that correlate by 0.5.) So where an error is
not explained digit by digit, it is compared with what the same emulation, repeated with the last bits of float32
disturbed, has in common with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from common.accuracy.diagnosis.emulation import DTYPES, HF32_BITS, Run, emulate
from common.device.devices import Outputs
from common.log.conclusions import UNEXPLAINED
from common.log.events import Cause
from common.log.formulas import rounding_of

EXPLAINS = 0.9  # the share of the error that a cause has to explain
NEAR = 3.0  # residuals within this factor of the smallest are as good as the smallest
SAME_SIZE = 1.25  # rounding in another way makes an error of the same size, within this factor
REPETITIONS = 3  # of an emulation, to see how far its rounding repeats
REPETITION_SLACK = 1.2  # three repetitions differ by so much from one another
CORRELATED = 0.2  # an error that resembles the emulation's less than this may do so by chance

Emulated = Callable[..., Tensor]  # (cause, seed) -> the joined outputs


def hypotheses(dtype: torch.dtype) -> tuple[str, ...]:
    """The causes worth trying for a run in `dtype`, and the pairs of them that occur together, joined by `+`."""
    if dtype in DTYPES.values():
        return ("float16", "bfloat16", "gelu_tanh", "float16+gelu_tanh", "bfloat16+gelu_tanh")
    alone = ("conv_hf32", "matmul_hf32", "gelu_tanh", "float16", "bfloat16")
    pairs = ("conv_hf32+matmul_hf32", "conv_hf32+gelu_tanh", "gelu_tanh+matmul_hf32")
    return (*alone, *pairs, "conv_hf32+gelu_tanh+matmul_hf32")


def repeats(found: Cause) -> bool:
    """Whether the cause explains the error as far as it explains its own, once rounded in another way.

    What it leaves unexplained may be a fifth more than there, and the 0.1 that every cause may leave.
    """
    if found.explained is None or found.repeatable is None:
        return False
    return 1 - found.explained <= (1 - EXPLAINS) + REPETITION_SLACK * (1 - found.repeatable)


def explain(
    run: Run,
    reference: Outputs,
    device_output: Outputs,
    causes: Iterable[str],
    attention_bits: int = HF32_BITS,
) -> list[Cause]:
    """Which of `causes` explains the difference between two outputs (embedding, hidden_state) of one image.

    `run` computes the outputs with the float32 module on the CPU, as `partial(common.forward, module, pixel_values)`:
    once without and once with each cause, and three times more where rounding may not repeat. `attention_bits` are what
    the device's probe found. Exactly one explanation is the best: `unexplained`, which comes last, where no cause
    explains enough. Without any error there is nothing to explain: []. A cause that changes nothing, since the model
    lacks its operators, is left out.
    """
    emulated = partial(_emulate_joined, run, reference, attention_bits)
    r, y = joined(reference, reference), joined(device_output, reference)
    if torch.equal(r, y):
        return []
    finite = bool(y.isfinite().all())
    error = float((y - r).norm())
    if error <= rounding_of("float32"):  # nothing is left for a cause
        return [Cause(cause=UNEXPLAINED, explained=0.0, residual=error, best=True)]
    found = []
    for cause, y_k in _distinct(emulated, joined(run(), reference), causes):
        if not finite:
            found.append(Cause(cause=cause, best=not y_k.isfinite().all()))
        else:
            found.append(_with_repetitions(_compare(cause, r, y, y_k), emulated, r, y_k))
    return _with_one_best(found, error if finite else None)


def _emulate_joined(run: Run, reference: Outputs, attention_bits: int, cause: str, seed: int | None = None) -> Tensor:
    return joined(emulate(run, cause, seed, attention_bits), reference)


def _distinct(emulated: Emulated, plain: Tensor, causes: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The joined outputs under each cause that changes them, the single causes first."""
    known = [plain]
    for cause in sorted(causes, key=_count):
        y_k = emulated(cause)
        if not any(torch.equal(y_k, other) for other in known):
            known.append(y_k)
            yield cause, y_k


def _count(cause: str) -> int:
    return cause.count("+") + 1


def joined(outputs: Outputs, reference: Outputs) -> Tensor:
    """All outputs as one vector in float64, each divided by its reference's norm: embedding and tokens count alike."""
    parts = []
    for output, scale in zip(outputs, reference, strict=True):
        norm = scale.double().norm() * math.sqrt(len(outputs))
        parts.append(output.cpu().double().flatten() / (norm.cpu() if norm > 0 else 1))
    return torch.cat(parts)


def _compare(cause: str, r: Tensor, y: Tensor, y_k: Tensor) -> Cause:
    error, emulated = y - r, y_k - r
    residual = float((y - y_k).norm())
    if not math.isfinite(residual):
        return Cause(cause=cause)
    return Cause(
        cause=cause,
        explained=1 - (residual / float(error.norm())) ** 2,
        residual=residual,
        correlation=_correlation(error, emulated),
        size=float(error.norm() / emulated.norm()),
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(a.dot(b) / (a.norm() * b.norm()))


def _with_repetitions(found: Cause, emulated: Emulated, r: Tensor, y_k: Tensor) -> Cause:
    """With other emulations, where the error is of the cause's size and resembles it, but not digit by digit."""
    if found.explained is None or found.correlation is None or found.size is None or found.explained >= EXPLAINS:
        return found
    if found.correlation < CORRELATED or not 1 / SAME_SIZE <= found.size <= SAME_SIZE:
        return found
    others = (emulated(found.cause, seed) for seed in range(REPETITIONS))
    shares = [_compare(found.cause, r, other, y_k).explained for other in others]
    return replace(found, repeatable=min((share for share in shares if share is not None), default=None))


def _with_one_best(found: Sequence[Cause], error: float | None) -> list[Cause]:
    """Mark the best: of those that account for the error, the one with the fewest causes, then the nearest.

    `error` is ||y - r||, None where it is not finite. Accounting for it is to explain 0.9 with a residual within 3
    times the smallest, or to repeat as well as the cause's own emulation does. Repetitions vary: their residuals are
    equal within a factor of 1.25.
    """
    if error is None:
        candidates = [each for each in found if each.best]  # marked already: it overflows on the CPU too
    else:
        near = NEAR * _smallest_residual(found)
        near_repeating = SAME_SIZE * _smallest_residual([each for each in found if repeats(each)])
        candidates = [
            each
            for each in found
            if _explains(each, near) or (repeats(each) and (each.residual or 0.0) <= near_repeating)
        ]
    best = min(candidates, key=lambda each: (_count(each.cause), each.residual or 0.0), default=None)
    marked = [replace(each, best=each is best) for each in found]
    if best is None:
        share = None if error is None else 0.0
        marked.append(Cause(cause=UNEXPLAINED, explained=share, residual=error, best=True))
    return marked


def with_the_devices_best(found: Sequence[Cause], error: float) -> list[Cause]:
    """Mark the best anew where the device was asked: of those that it confirms, the fewest causes, then the nearest.

    `error` is that of the device. A best that the device denies is none: then the error is unexplained. What the device
    could not be asked keeps its mark.
    """
    asked = [each for each in found if each.confirmed is not None and each.without is not None]
    near = NEAR * min((each.without or 0.0 for each in asked), default=0.0)
    candidates = [each for each in asked if (each.confirmed or 0.0) >= EXPLAINS and (each.without or 0.0) <= near]
    best = min(candidates, key=lambda each: (_count(each.cause), each.without or 0.0), default=None)
    marked_before = next((each for each in found if each.best), None)
    if best is None and (marked_before is None or marked_before.confirmed is None):
        return list(found)
    marked = [replace(each, best=each is best) for each in found if each.cause != UNEXPLAINED]
    return marked if best else [*marked, Cause(cause=UNEXPLAINED, explained=0.0, residual=error, best=True)]


def _smallest_residual(found: Iterable[Cause]) -> float:
    return min((each.residual for each in found if each.residual is not None), default=0.0)


def _explains(each: Cause, near: float) -> bool:
    if each.explained is None or each.residual is None:
        return False
    return each.explained >= EXPLAINS and each.residual <= near
