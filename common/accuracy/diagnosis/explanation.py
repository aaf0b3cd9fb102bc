"""Explaining a device's error on one image: by the known causes, and by the block where it arises."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from common.accuracy.diagnosis import blocks, causes, confirmation
from common.device import devices
from common.device.devices import Outputs
from common.log import conclusions, formulas
from common.log.figures import percent, share
from common.session import Session

SHOWN_BLOCKS = 12  # of a long chain, the blocks with the largest errors of their own


def explain(
    running: Session,
    reference: nn.Module,
    module: nn.Module,
    pixel_values: Tensor,
    outputs: Outputs,
    image: str,
    error: float | None,
) -> None:
    """Print and record which cause explains the error of `outputs`, and which block is to blame.

    `reference` is the encoder in float32 on the CPU, `module` the one on the session's device that gave `outputs` for
    pixel_values [1, 3, H, W] of the image named; `error` is the worst relative L2 of these.
    """
    running.log.line()
    running.log.line(f"Explanation of the error on {image}")
    _explain_by_cause(running, reference, module, pixel_values, outputs)
    _explain_by_block(running, reference, module, pixel_values, error)


def _explain_by_cause(
    running: Session, reference: nn.Module, module: nn.Module, pixel_values: Tensor, outputs: Outputs
) -> None:
    run = partial(devices.forward, reference, pixel_values)
    expected = run()
    found = causes.explain(
        run,
        expected,
        outputs,
        causes.hypotheses(running.dtype),
        attention_bits=running.numerics.probe.attention_mantissa_bits,
    )
    if len(found) > 1:
        found = confirmation.confirm(running, found, reference, module, pixel_values, outputs)
        error = float((causes.joined(outputs, expected) - causes.joined(expected, expected)).norm())
        running.log.line(f"  both outputs together err by {percent(error if math.isfinite(error) else None)}")
        running.log.line(f"  {'cause':<32} {'explained':>10} {'confirmed':>10}")
    for each in found:
        running.log.record(each)
        if len(found) > 1 and each.cause != conclusions.UNEXPLAINED:
            shares = f"{share(each.explained):>10} {share(each.confirmed):>10}"
            running.log.line(f"  {each.cause:<32} {shares}{'  <- best' if each.best else ''}")
    running.log.line(f"cause: {conclusions.conclude_causes(found).en}")
    advice = conclusions.advise(found, running.numerics.mode)
    if advice:
        running.log.line(f"advice: {advice.en}")


def _explain_by_block(
    running: Session, reference: nn.Module, module: nn.Module, pixel_values: Tensor, error: float | None
) -> None:
    try:
        layers = blocks.profile(reference, module, pixel_values)
    except ValueError as reason:  # a model that is no chain of blocks
        running.log.line(f"blocks: {reason}")
        return
    by_size = sorted(layers, key=lambda layer: -formulas.size_of(layer.isolated))
    shown = {layer.block for layer in by_size[:SHOWN_BLOCKS]}
    running.log.line(f"  {'block':>5} {'propagated':>12} {'isolated':>12}  name")
    for layer in layers:
        running.log.record(layer)
        if layer.block in shown:
            errors = f"{percent(layer.propagated):>12} {percent(layer.isolated):>12}"
            running.log.line(f"  {layer.block:>5} {errors}  {layer.name}{'  <- blamed' if layer.blamed else ''}")
    conclusion = conclusions.conclude_blocks(layers, devices.dtype_name(running.dtype), error)
    running.log.line(f"blocks: {conclusion.en}")
