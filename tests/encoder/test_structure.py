"""What a published page has of an encoder beside its weights: its sizes, and where its id is from."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from transformers import AutoModel, CLIPVisionConfig, CLIPVisionModelWithProjection, SwinConfig, ViTConfig

from common.cli.options import ModelChoice
from common.encoder import loading
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


def test_an_encoder_knows_the_hub_and_size_that_it_was_asked_for_by() -> None:
    encoder = loading.load_encoder(ModelChoice("timm/test_vit", "random", revision="v1", input_size=96))
    assert (encoder.hub, encoder.revision, encoder.asked_size) == ("modelscope", "v1", 96)
    assert encoder.structure["layers"] == 6
    encoder = loading.load_encoder(ModelChoice("demo"))
    assert (encoder.hub, encoder.revision, encoder.asked_size, encoder.structure) == (None, None, None, {})


def test_random_weights_have_no_class_names() -> None:
    trained, random = (loading.load_encoder(ModelChoice("demo", weights)) for weights in (None, "random"))
    assert trained.class_name is not None
    assert trained.class_name(400) == "academic gown, academic robe, judge's robe"
    assert random.label is not None
    assert random.class_name is None
