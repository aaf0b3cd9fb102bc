"""Checkpoints as people have them: a class of transformers that has saved itself, a timm model with its config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from conftest import TINY_PREPROCESSING
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.cli.options import ModelChoice
from common.encoder import loading, random_weights
from common.encoder.base import Encoder

WEIGHTS = "model.safetensors"
TIMM_SIZE = 160  # of timm's smallest models

State = dict[str, Tensor]


def load(model: object, weights: object = None, input_size: int | None = None, pooled: bool = False) -> Encoder:
    path = None if weights is None else str(weights)
    return loading.load_encoder(ModelChoice(str(model), path, input_size=input_size, pooled=pooled))


def pixels(encoder: Encoder, seed: int = 0) -> Tensor:
    """Seeded pixel values [1, 3, H, W] of the size that the encoder takes."""
    return torch.randn(1, *encoder.input_size, generator=torch.Generator().manual_seed(seed))


def embed(encoder: Encoder, pixel_values: Tensor) -> Tensor:
    with torch.inference_mode():
        embedding: Tensor = encoder.module(pixel_values)[0]
    return embedding


def filled(model: Any) -> Any:
    """With weights that make every part count."""
    model.load_state_dict(random_weights.make_state(model, 0), strict=True)
    return model.eval().requires_grad_(False)


def save_class(folder: Path, name: str, model_type: str, preprocessing: Any = None, **sizes: Any) -> Any:
    """A checkpoint that a class of transformers has saved, and the model that was saved."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = filled(getattr(transformers, name)._from_config(config))
    model.save_pretrained(folder)
    if preprocessing is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return model


def preprocessing(side: int, **more: Any) -> dict[str, Any]:
    return {**TINY_PREPROCESSING, "size": {"height": side, "width": side}, **more}


def timm_model(architecture: str = "test_vit", **options: Any) -> Any:
    return filled(timm.create_model(architecture, **options))


def save_timm_model(folder: Path, model: Any, architecture: str = "test_vit", **config: Any) -> Path:
    """A snapshot folder of a timm model; `config` are keys of its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / WEIGHTS, model.state_dict())
    classes = model.num_classes
    own = {"input_size": [3, TIMM_SIZE, TIMM_SIZE], "fixed_input_size": "vit" in architecture, "num_classes": classes}
    made = {"architecture": architecture, "num_classes": classes, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps({**made, **config}))
    return folder


def save_state(file: Path, state: State) -> Path:
    save_file({key: value.clone().contiguous() for key, value in state.items()}, file, {"format": "pt"})
    return file


def rewrite(folder: Path, changed: dict[str, Tensor | None] | None = None, prefix: str = "") -> Path:
    """The folder with some weights added, replaced or, for None, taken away, and a prefix before all names."""
    file = folder / WEIGHTS
    state = {**load_file(file), **(changed or {})}
    return save_state(file, {prefix + key: value for key, value in state.items() if value is not None})


def edit_config(folder: Path, **changed: Any) -> None:
    """Replace keys of config.json, or for None take them away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def inner(model: nn.Module, name: str) -> Any:
    return model.get_submodule(name) if name else model
