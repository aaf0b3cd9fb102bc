"""What belongs to another part than the encoder is known by the class that the checkpoint was saved from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from helpers.checkpoints import (
    WEIGHTS,
    edit_config,
    embed,
    load,
    pixels,
    rewrite,
    save_class,
    save_state,
    save_timm_model,
    timm_model,
)
from helpers.events import records_in
from helpers.transformers_families import STAGES, SWIN, TOWERS, VIT
from torch import Tensor

from common.errors import UserError

STRIDES = {**VIT, "encoder_stride": 8}
HIERA = {"embed_dim": 8, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
MAE = {
    **VIT,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}
MOBILE = {
    "hidden_sizes": [16, 24, 32],
    "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 64],
    "image_size": 64,
    "aspp_out_channels": 8,
    "num_labels": 3,
}


def pooled(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).pooler_output.flatten(1)


def cls(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).last_hidden_state[:, 0]


def mean(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).last_hidden_state.mean(1)


def mean_of_map(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values).last_hidden_state.mean((2, 3))


# The class that saved, its type and sizes, the encoder's name in it, how that embeds, and what is no part of it.
PARTS: tuple[tuple[str, str, dict[str, Any], str, Callable[[Any, Tensor], Tensor], tuple[str, ...]], ...] = (
    ("SwinForMaskedImageModeling", "swin", SWIN, "swin", mean, ("mask_token", "decoder")),
    ("Swinv2ForMaskedImageModeling", "swinv2", SWIN, "swinv2", mean, ("mask_token", "decoder")),
    ("ViTForMaskedImageModeling", "vit", STRIDES, "vit", cls, ("mask_token", "decoder")),
    ("DeiTForMaskedImageModeling", "deit", STRIDES, "deit", cls, ("mask_token", "decoder")),
    ("ViTMAEForPreTraining", "vit_mae", MAE, "", lambda model, pixel_values: None, ("decoder",)),
    ("BeitForMaskedImageModeling", "beit", {**VIT, "use_mean_pooling": False}, "beit", cls, ("lm_head", "layernorm")),
    ("SegformerForSemanticSegmentation", "segformer", STAGES | {"num_attention_heads": [1, 2, 2, 2]}, "segformer",
     mean_of_map, ("decode_head",)),
    ("MobileViTForSemanticSegmentation", "mobilevit", MOBILE, "mobilevit", mean_of_map, ("segmentation_head",)),
    ("YolosForObjectDetection", "yolos", VIT | {"image_size": [32, 32]}, "vit", cls,
     ("class_labels", "bbox_predictor")),
    ("LevitForImageClassificationWithTeacher", "levit", {"image_size": 64, "hidden_sizes": [16, 24, 32],
     "num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8], "depths": [1, 1, 1]}, "levit", pooled, ("classifier",)),
    ("HieraForImageClassification", "hiera", HIERA, "hiera", pooled, ("classifier",)),
    ("IJepaForImageClassification", "ijepa", VIT, "ijepa", mean, ("classifier",)),
    ("CLIPForImageClassification", "clip", TOWERS, "vision_model", pooled, ("classifier",)),
)  # fmt: skip


@pytest.mark.parametrize("row", PARTS, ids=lambda row: row[0])
def test_what_the_class_has_beside_the_encoder_is_left_out_and_counted(row: Any, tmp_path: Path) -> None:
    name, model_type, sizes, part, way, others = row
    model = save_class(tmp_path, name, model_type, **sizes)
    encoder = load(tmp_path)
    left_out = encoder.keys.left_out
    assert all(any(other in key for key in left_out) for other in others), left_out
    assert all(any(other in key for other in others) for key in left_out), left_out
    if part:
        with torch.inference_mode():
            expected = way(model.get_submodule(part), pixels(encoder))
            torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)


@pytest.mark.parametrize("row", PARTS[:4] + PARTS[-2:], ids=lambda row: row[0])
def test_what_no_class_knows_is_refused_wherever_it_stands(row: Any, tmp_path: Path) -> None:
    """Under the encoder's prefix, beside a head, or with neither."""
    name, model_type, sizes, part, *_ = row
    save_class(tmp_path, name, model_type, **sizes)
    for key in (f"{part}.surplus.weight", "classifier.surplus.weight", "surplus.weight"):
        rewrite(tmp_path, {key: torch.zeros(2)})
        with pytest.raises(UserError, match=r"1 unexpected: .*surplus\.weight") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
        rewrite(tmp_path, {key: None})
    load(tmp_path)


def test_without_a_class_in_the_config_any_class_of_that_type_tells(tmp_path: Path) -> None:
    save_class(tmp_path, "ViTForImageClassification", "vit", **VIT)
    edit_config(tmp_path, architectures=None)
    assert load(tmp_path).keys.left_out == ["classifier.bias", "classifier.weight"]
    rewrite(tmp_path, {"adapter.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"1 unexpected: adapter\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_efficientnet"])
def test_the_head_of_a_wrapped_timm_model_is_left_out(architecture: str, tmp_path: Path) -> None:
    """It has the encoder's prefix. transformers' TimmWrapperModel pools as timm does before the head."""
    size = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.2] * 3, "crop_pct": 0.9}
    config = transformers.TimmWrapperConfig.from_dict(
        {"architecture": architecture, "num_classes": 3, "label_names": ["a", "b", "c"], "pretrained_cfg": size}
    )
    model = transformers.TimmWrapperForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    encoder = load(tmp_path)
    assert len(encoder.keys.left_out) == 2
    assert encoder.label is None
    assert encoder.preprocessing["source"] == "config.json"
    assert encoder.input_size == [3, 160, 160]
    with torch.inference_mode():
        timm_own = model.timm_model
        expected = timm_own.forward_head(timm_own.forward_features(pixels(encoder)), pre_logits=True)
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
    rewrite(tmp_path, {"timm_model.surplus.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"unexpected: timm_model\.surplus\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_convnext"])
def test_a_timm_model_without_classes_leaves_the_head_of_its_weights_out(architecture: str, tmp_path: Path) -> None:
    """timm loads such a checkpoint with `num_classes=0` the same."""
    whole = timm_model(architecture, num_classes=7)
    folder = save_timm_model(tmp_path, whole, architecture, num_classes=0)
    encoder = load(folder)
    headless = timm.create_model(architecture, num_classes=0)
    headless.load_state_dict({key: value for key, value in whole.state_dict().items() if key in headless.state_dict()})
    assert set(encoder.keys.left_out) == set(whole.state_dict()) - set(headless.state_dict())
    assert encoder.keys.left_out
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), headless.eval()(pixels(encoder)))
    rewrite(folder, {"surplus.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"unexpected: .*surplus\.weight"):
        load(folder)


def test_tokens_of_the_training_and_a_second_classifier_are_left_out_of_timm_models(tmp_path: Path) -> None:
    folder = save_timm_model(tmp_path / "vit", timm_model())
    rewrite(folder, {"mask_token": torch.zeros(1, 1, 64)})
    assert load(folder).keys.left_out == ["mask_token"]
    two = timm.create_model("inception_v3", aux_logits=True)
    weights = save_state(tmp_path / WEIGHTS, two.state_dict())
    left_out = load("timm/inception_v3", weights).keys.left_out
    assert sorted(left_out) == sorted(key for key in two.state_dict() if key.startswith("AuxLogits."))


def test_what_is_left_out_is_counted_in_the_log(run_script: Any, tmp_path: Path) -> None:
    save_class(tmp_path / "model", "SwinForMaskedImageModeling", "swin", **SWIN)
    done = run_script("inference.py", "--model", tmp_path / "model", "--device", "cpu")
    assert re.search(r"^Left out: 3 weights of other parts \(.*mask_token.*\)$", done.stdout, re.MULTILINE)
    (model,) = [record for record in records_in(done.stdout.encode().splitlines()) if record["event"] == "model"]
    assert model["left_out_keys"] == 3
