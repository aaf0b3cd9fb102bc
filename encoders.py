"""Encoders: a timm or transformers vision model with its weights and its own preprocessing, from an id or a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

import checkpoints
import weights
from common import dtype_name
from options import UserError, collector_paused, import_errors


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
    weights_sha256: Callable[[], str]  # costs seconds for gigabytes: called where it is needed
    loading: weights.LoadingReport
    label: Callable[[int], str] | None = None

    @property
    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def input_size(self) -> list[int]:
        """What `preprocess` gives of any image: [3, H, W]."""
        return list(self.preprocess(Image.new("RGB", (64, 64))).shape)

    def record(self, weights_sha256: str | None) -> dict[str, Any]:
        """The fields of the `model` record."""
        return {
            "model": self.model,
            "library": self.library,
            "architecture": self.architecture,
            "params": self.params,
            "classifier": self.label is not None,
            "weights_source": self.weights_source,
            "weights_sha256": weights_sha256,
            "missing_keys": len(self.loading.missing),
            "unexpected_keys": len(self.loading.unexpected),
            "left_out_keys": len(self.loading.left_out),
            "dtype": dtype_name(next(self.module.parameters()).dtype),
            "input_size": self.input_size,
            "preprocess": self.preprocessing,
        }


@collector_paused()
def load_encoder(
    model: str, weights_path: str | None, hub: str | None, revision: str | None, seed: int, hashed: bool = False
) -> Encoder:
    """The encoder that --model and --weights name, in evaluation mode. Raises UserError for what can't be had.

    `hashed`: the caller will ask for `weights_sha256`, so it is made in a thread while the library is imported.
    """
    local = Path(model).is_dir()
    if (hub or revision) and (local or model == "demo"):
        raise UserError(f"--hub and --revision are for ids on a hub, not for {model}")
    with import_errors():
        if model == "demo":
            import timm_encoders

            encoder = timm_encoders.load_demo(weights_path, seed)
        else:
            library = checkpoints.find_library(model)
            checkpoint = checkpoints.find_checkpoint(model, library, weights_path, hub, revision)
            encoder = _load(model, library, checkpoint, seed, hashed)
    if local:
        encoder.model = Path(model).resolve().name  # where somebody's home is does not belong in a log
    encoder.module.eval()
    return encoder


def _load(model: str, library: str, checkpoint: checkpoints.Checkpoint, seed: int, hashed: bool) -> Encoder:
    """Only the library that the model needs is imported: each takes seconds, in which a thread reads the weights."""
    sha256 = weights.sha256_ahead(checkpoint.files) if hashed and checkpoint.files else None
    if sha256 is None:
        weights.read_ahead(checkpoint.files)
    if library == "timm":
        import timm_encoders

        encoder = timm_encoders.load(model, checkpoint, seed)
    else:
        import transformers_encoders

        encoder = transformers_encoders.load(model, checkpoint, seed)
    encoder.weights_sha256 = sha256 or encoder.weights_sha256
    return encoder


def as_tokens(features: Tensor, channels_last: bool) -> Tensor:
    """Features [B, C, H, W] (or [B, H, W, C] with `channels_last`), [B, T, C] or [B, C] as tokens [B, T, C]."""
    if features.ndim == 4:
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features.unsqueeze(1) if features.ndim == 2 else features
