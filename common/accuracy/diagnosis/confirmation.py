"""Confirmation: what a device itself gives for an image once a cause is switched off on it.

Emulation says what the cause of an error is likely to be. Where the device has a switch for it, one more forward tells.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.accuracy.diagnosis import causes, emulation
from common.device import devices, numerics
from common.device.devices import Outputs
from common.errors import DeviceError
from common.log.conclusions import ATTENTION, UNEXPLAINED
from common.log.events import Cause
from common.session import Session

Switch = Callable[[], AbstractContextManager[Any]]


class AttentionByFormula(TorchFunctionMode):
    """Compute attention as two products with a softmax between them, instead of by a fused kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "scaled_dot_product_attention":
            return func(*args, **(kwargs or {}))
        return emulation.attention(*args, **(kwargs or {}), rounded=lambda x: x)


def switches(running: Session) -> dict[str, Switch]:
    """What takes a cause out on the session's device, for those that are in force there; none on the CPU."""
    device, found = running.device, running.numerics
    known: dict[str, Switch] = {}
    if device.type == "cpu":
        return known
    for kind in ("conv", "matmul"):
        if numerics.allows_reduced_precision(device, kind):
            known[f"{kind}_hf32"] = lambda kind=kind: numerics.full_precision(device, kind)  # type: ignore[misc]
    if found.probe.gelu != "erf":
        exact = numerics.npu_gelu if device.type == "npu" else numerics.gelu_by_formula
        known["gelu_tanh"] = lambda: numerics.gelu_by(exact, device.type)
    if "attention" in found.operators:
        known[ATTENTION] = AttentionByFormula
    return known


def confirm(
    running: Session,
    found: Sequence[Cause],
    reference: nn.Module,
    module: nn.Module,
    pixel_values: Tensor,
    outputs: Outputs,
) -> list[Cause]:
    """`found` with what the device gives for pixel_values [1, 3, H, W] without each of the causes, and the best anew.

    `reference` is the encoder in float32 on the CPU, `module` the one on the device, which gave `outputs`. Where the
    device contradicts the emulation, it wins. A cause that the device has no switch for is left as it is.
    """
    known = switches(running)
    expected = devices.forward(reference, pixel_values)
    r, y = causes.joined(expected, expected), causes.joined(outputs, expected)
    error = float((y - r).norm())
    if not known and running.dtype == torch.float32:
        return list(found)
    tried = [*(each for each in found if each.cause != UNEXPLAINED), Cause(cause=ATTENTION)]
    confirmed = []
    for each in tried:
        without = _forward_without(running, each.cause, known, reference, module, pixel_values)
        if without is not None and error > 0:
            left = float((causes.joined(without, expected) - r).norm())
            each = replace(each, confirmed=1 - (left / error) ** 2, without=left)
        if each.cause != ATTENTION or each.confirmed is not None:
            confirmed.append(each)
    return causes.with_the_devices_best([*confirmed, *(each for each in found if each.cause == UNEXPLAINED)], error)


def _forward_without(
    running: Session,
    cause: str,
    known: dict[str, Switch],
    reference: nn.Module,
    module: nn.Module,
    pixel_values: Tensor,
) -> Outputs | None:
    """What the device gives without a cause, or several joined by `+`; None where a part of it has no switch."""
    parts = set(cause.split("+"))
    widened = parts & {devices.dtype_name(running.dtype)} - {"float32"}
    if not parts - widened <= known.keys():
        return None
    dtype = torch.float32 if widened else running.dtype
    try:
        with ExitStack() as stack, devices.failures_of(running.device, f"without {cause}"):
            used = copy.deepcopy(reference).to(running.device) if widened else module
            for part in sorted(parts - widened):
                stack.enter_context(known[part]())
            embedding, hidden_state = devices.encode(used, pixel_values.to(running.device, dtype))
            return embedding.cpu(), hidden_state.cpu()
    except DeviceError as error:
        if devices.is_out_of_memory(error):  # two copies of the weights
            return None
        raise
