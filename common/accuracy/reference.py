"""The reference: what an encoder gives on the CPU, which a device's outputs are compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from common.accuracy import metrics
from common.accuracy.diagnosis import emulation
from common.device import devices, float64
from common.device.devices import Outputs
from common.errors import UserError
from common.images.batching import Batch
from common.log.events import OUTPUTS
from common.session import Session

EXPECTED_DTYPES = ("float16", "bfloat16")
EXPECTED_IMAGES = 2  # whose rounding to 16 bits is emulated

# By precision, what is known of a batch: the embedding [B, D] and, but of a feature file, the hidden_state [B, T, C].
References = dict[str, tuple[Tensor, ...]]
# Of 16-bit dtypes, what rounding to them is expected to cost each output, as relative_l2.
Expected = dict[str, dict[str, float | None]]


class Known(Protocol):
    """The reference's side of the images, batch by batch."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What each output is compared with, as the log calls it."""

    def of(self, batch: Batch) -> References: ...

    def expect(self, pixel_values: Tensor, plain: Sequence[Tensor]) -> Expected:
        """What 16 bits are expected to cost: for the first images [N, 3, H, W] and their first references."""


@dataclass(frozen=True)
class Reference:
    """N preprocessed images and what the CPU makes of them.

    `outputs` holds the embedding [N, D] and hidden_state [N, T, C] of each precision, by the dtype's name.
    `expected_relative_l2` holds, for 16-bit dtypes, what rounding to them is expected to cost each output.
    """

    pixel_values: Tensor  # [N, 3, H, W], float32
    images: list[str]
    image_sha256: list[str]
    outputs: dict[str, Outputs]
    expected_relative_l2: Expected

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(self.outputs)

    def of(self, batch: Batch) -> References:
        """Raises UserError for an image that is not among its own."""
        try:
            rows = [self.images.index(name) for name in batch.names]
        except ValueError as error:
            raise UserError(f"the saved reference lacks an image: {error}") from error
        return {precision: tuple(output[rows] for output in outputs) for precision, outputs in self.outputs.items()}

    def expect(self, pixel_values: Tensor, plain: Sequence[Tensor]) -> Expected:
        return self.expected_relative_l2


@dataclass(frozen=True)
class OnCpu:
    """The encoder on the CPU, in these precisions; what it is expected to lose in these 16-bit dtypes is emulated."""

    module: nn.Module
    precisions: tuple[str, ...]
    rounded: Collection[str]

    def of(self, batch: Batch) -> References:
        found: References = {}
        for precision in self.precisions:
            wide = precision == "float64"
            forward = partial(_singly_in_float64, self._own) if wide else partial(devices.encode, self.module)
            found[precision] = forward(batch.pixel_values)
        return found

    @cached_property
    def _own(self) -> nn.Module:
        return float64.sharing_weights(self.module)

    def expect(self, pixel_values: Tensor, plain: Sequence[Tensor]) -> Expected:
        return {dtype: expect_errors(self.module, pixel_values, plain, dtype) for dtype in self.rounded}


def choose_precisions(running: Session, golden: bool) -> tuple[str, ...]:
    """What a run is compared with: float32 on the CPU, and with `golden` float64.

    Comparing a thing with itself proves nothing: float32 on the CPU is held to float64 alone.
    """
    if (running.device, running.dtype) == (torch.device("cpu"), torch.float32):
        return ("float64",)
    return ("float32", "float64") if golden else ("float32",)


def join(outputs: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The outputs of batches, [B, D] and [B, T, C] each, as [N, D] and [N, T, C]."""
    return tuple(torch.cat(each) for each in zip(*outputs, strict=True))


def expect_errors(
    module: nn.Module, pixel_values: Tensor, plain: Sequence[Tensor], dtype: str
) -> dict[str, float | None]:
    """The relative_l2 of each output that rounding to a 16-bit dtype costs, emulated on the CPU for the first images.

    `plain` are the outputs of pixel_values [N, 3, H, W] without that rounding, those that are known.
    """
    few = pixel_values[:EXPECTED_IMAGES, None]  # one at a time: each takes memory for its activations
    outputs = join([emulation.emulate(partial(devices.forward, module, pixels), dtype) for pixels in few])
    pairs = zip(OUTPUTS, plain, outputs, strict=False)
    return {name: metrics.worst_relative_l2(r[: len(few)], y) for name, r, y in pairs}


def forward_in_float64(module: nn.Module, pixel_values: Tensor) -> Outputs:
    """The embedding [N, D] and hidden_state [N, T, C], in float64, of pixel_values [N, 3, H, W] on the CPU.

    The module is left as it was, in float32. Raises UserError for a model that leaves float64.
    """
    return _singly_in_float64(float64.sharing_weights(module), pixel_values)


def _singly_in_float64(own: nn.Module, pixel_values: Tensor) -> Outputs:
    """One image at a time: together they would share the widening of the weights, a sixth of the time, but each takes
    memory for its activations (of the ViT-giant 100 MB).
    """
    outputs: list[Outputs] = []
    for pixels in pixel_values[:, None]:
        with float64.in_float64():
            outputs.append(own(pixels.double()))
    embedding, hidden_state = join(outputs)
    return embedding, hidden_state
