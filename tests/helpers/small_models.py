"""The models that the tests of the explanations share: a ViT of twelve blocks, and `demo`, with a real photo each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cli.options import ModelChoice
from common.device import devices
from common.device.devices import Outputs
from common.encoder import loading, random_weights, timm_models, weights
from common.images import decoding

VIT, DEMO = "vit", "demo"
VIT_SIZE = 96  # pixels a side: 37 tokens


@dataclass(frozen=True)
class Model:
    """An encoder in float32 on the CPU, one image, and its outputs."""

    module: nn.Module
    pixel_values: Tensor
    reference: Outputs

    def run(self) -> Outputs:
        return devices.forward(self.module, self.pixel_values)


@cache
def load(name: str) -> Model:
    """`vit` has the dimensions of timm's vit_tiny_patch16_224 but for the image's, and seeded random weights."""
    torch.set_num_threads(1)
    encoder = loading.load_encoder(ModelChoice(DEMO))
    pixel_values = encoder.preprocess(decoding.find_samples(None)[0].load()).unsqueeze(0)
    module = encoder.module
    if name == VIT:
        vit = weights.build_on_meta(lambda: timm.create_model("vit_tiny_patch16_224", img_size=VIT_SIZE))
        weights.assign_state(vit, random_weights.make_state(vit, 0))
        module = timm_models.TimmModule(vit).eval()
        pixel_values = F.interpolate(pixel_values, VIT_SIZE, mode="area")
    return Model(module, pixel_values, devices.forward(module, pixel_values))
