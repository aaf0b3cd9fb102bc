"""An encoder: a timm or transformers vision model with its weights and its own preprocessing, as all scripts use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor, nn

from common.encoder import weights


@dataclass
class Encoder:
    """A vision encoder ready to run, in float32 on the CPU.

    `module` maps pixel_values [B, 3, H, W] to (embedding [B, D], hidden_state [B, T, C]); `preprocess` maps an RGB
    image to pixel_values [3, H, W]; `label` names a class by its index, where the model is a classifier with names.
    """

    model: str
    library: str
    architecture: str
    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    preprocessing: dict[str, Any]
    weights_source: str
    hash_weights: Callable[[], str]  # costs seconds for gigabytes
    keys: weights.KeyReport
    label: Callable[[int], str] | None = None

    @property
    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def input_size(self) -> list[int]:
        """What `preprocess` gives of any image: [3, H, W]."""
        return list(self.preprocess(Image.new("RGB", (64, 64))).shape)

    @cached_property
    def weights_sha256(self) -> str:
        return self.hash_weights()


def as_tokens(features: Tensor, channels_last: bool) -> Tensor:
    """Features [B, C, H, W] (or [B, H, W, C] with `channels_last`), [B, T, C] or [B, C] as tokens [B, T, C]."""
    if features.ndim == 4:
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features.unsqueeze(1) if features.ndim == 2 else features
