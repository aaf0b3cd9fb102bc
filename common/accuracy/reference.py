"""The reference: what an encoder gives on the CPU, which a device's outputs are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.accuracy import metrics
from common.accuracy.diagnosis import emulation
from common.device import devices, float64
from common.device.devices import Outputs
from common.encoder.base import Encoder
from common.images.decoding import Decoded
from common.log.events import OUTPUTS
from common.log.writer import RunLog
from common.session import Session

EXPECTED_DTYPES = ("float16", "bfloat16")
EXPECTED_IMAGES = 2  # whose rounding to 16 bits is emulated


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
    expected_relative_l2: dict[str, dict[str, float | None]]

    def with_float32(self, outputs: Sequence[Outputs]) -> Reference:
        """Together with the outputs of every image that a float32 run on the CPU gave: that run was held to float64."""
        return replace(self, outputs={"float32": join(outputs), **self.outputs})


def choose_precisions(running: Session, golden: bool) -> tuple[str, ...]:
    """What a run is compared with: float32 on the CPU, and with `golden` float64.

    Comparing a thing with itself proves nothing: float32 on the CPU is held to float64 alone.
    """
    if (running.device, running.dtype) == (torch.device("cpu"), torch.float32):
        return ("float64",)
    return ("float32", "float64") if golden else ("float32",)


def compute(
    log: RunLog, encoder: Encoder, decoded: Decoded, precisions: Sequence[str], rounded: Iterable[str]
) -> Reference:
    """What the encoder gives on the CPU for these images, in float32, float64 or both.

    `rounded` are the 16-bit dtypes whose error is emulated, to know what to expect of a device that computes in them.
    """
    log.line(f"Reference: {', '.join(precisions)}, computed on the CPU")
    pixel_values = torch.stack([encoder.preprocess(image) for image in decoded.images])
    outputs = {}
    if "float32" in precisions:
        singles = devices.encode_singly(encoder.module, pixel_values, torch.device("cpu"), torch.float32)
        outputs["float32"] = join(list(singles))
    if "float64" in precisions:
        outputs["float64"] = forward_in_float64(encoder.module, pixel_values)
    plain = outputs[precisions[0]]
    expected = {dtype: expect_errors(encoder.module, pixel_values, plain, dtype) for dtype in rounded}
    names, hashes = [sample.name for sample in decoded.samples], [sample.sha256() for sample in decoded.samples]
    return Reference(pixel_values, names, hashes, outputs, expected)


def join(outputs: Sequence[Outputs]) -> Outputs:
    """The outputs of single images, [1, D] and [1, T, C] each, as [N, D] and [N, T, C]."""
    embeddings, hidden_states = zip(*outputs, strict=True)
    return torch.cat(embeddings), torch.cat(hidden_states)


def expect_errors(module: nn.Module, pixel_values: Tensor, plain: Outputs, dtype: str) -> dict[str, float | None]:
    """The relative_l2 of each output that rounding to a 16-bit dtype costs, emulated on the CPU for the first images.

    `plain` are the outputs of pixel_values [N, 3, H, W] without that rounding.
    """
    few = pixel_values[:EXPECTED_IMAGES, None]  # one at a time: each takes memory for its activations
    outputs = join([emulation.emulate(partial(devices.forward, module, pixels), dtype) for pixels in few])
    pairs = zip(OUTPUTS, plain, outputs, strict=True)
    return {name: metrics.worst_relative_l2(r[: len(few)], y) for name, r, y in pairs}


def forward_in_float64(module: nn.Module, pixel_values: Tensor) -> Outputs:
    """The embedding [N, D] and hidden_state [N, T, C], in float64, of pixel_values [N, 3, H, W] on the CPU.

    One image at a time: together they would share the widening of the weights, a sixth of the time, but each takes
    memory for its activations (of the ViT-giant 100 MB). The module is left as it was, in float32. Raises UserError for
    a model that leaves float64.
    """
    own = float64.sharing_weights(module)
    outputs: list[Outputs] = []
    for pixels in tqdm(pixel_values[:, None], desc="cpu float64", unit="image", disable=None):
        with float64.in_float64():
            outputs.append(own(pixels.double()))
    embeddings, hidden_states = zip(*outputs, strict=True)
    return torch.cat(embeddings), torch.cat(hidden_states)
