"""The sizes of a transformer, as its published page has them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from transformers import AutoModel, CLIPVisionConfig, CLIPVisionModelWithProjection, SwinConfig, ViTConfig

from common.encoder.structure import sizes_of

GIANT = {"patch_size": 14, "layers": 40, "hidden_size": 1408, "intermediate_size": 6144, "attention_heads": 16}
HUGE = {"patch_size": 14, "layers": 32, "hidden_size": 1280, "intermediate_size": 5120, "attention_heads": 16}
CLIP = {"patch_size": 32, "layers": 12, "hidden_size": 768, "intermediate_size": 3072, "attention_heads": 12}


def of_config(sizes: dict[str, int]) -> Any:
    return ViTConfig(**{SAID.get(name, name): size for name, size in sizes.items()})


SAID = {"layers": "num_hidden_layers", "attention_heads": "num_attention_heads"}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_giant_patch14_clip_224", GIANT),
        ("deit3_small_patch16_224", dict(zip(GIANT, (16, 12, 384, 1536, 6), strict=True))),
        ("eva02_tiny_patch14_224", dict(zip(GIANT, (14, 12, 192, 512, 3), strict=True))),
        ("tf_efficientnet_lite0", {}),
        ("hiera_tiny_224", {}),
        ("swin_tiny_patch4_window7_224", {}),
    ],
)
def test_timm_models(name: str, sizes: dict[str, int]) -> None:
    with torch.device("meta"):
        assert sizes_of(timm.create_model(name)) == sizes


def test_transformers_models() -> None:
    with torch.device("meta"):
        assert sizes_of(AutoModel.from_config(of_config(HUGE))) == HUGE
        assert sizes_of(CLIPVisionModelWithProjection(CLIPVisionConfig())) == CLIP
        assert sizes_of(AutoModel.from_config(SwinConfig())) == {}
