"""--input-size: each library's own way to run a model at another size, with its preprocessing, or one line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import PERF_QUICK, Runner
from helpers.checkpoints import embed, load, pixels, preprocessing, save_class, save_timm_model, timm_model
from helpers.transformers_families import FAMILIES, SWIN, TEXT, VIT, Family
from PIL import Image
from torch import Tensor

from common.errors import UserError

# By the class that saves it: a family whose positions are interpolated, computed, or none; and one that has a size.
ANY_SIZE = (
    *("ViTModel", "DeiTModel", "BeitModel", "Dinov2WithRegistersModel", "DINOv3ViTModel", "CLIPModel", "SiglipModel"),
    *("SwinModel", "IJepaModel", "ViTMSNModel", "HieraModel", "YolosForObjectDetection", "InternVLVisionModel"),
    *("ResNetModel", "CLIPVisionModelWithProjection"),
)
ONE_SIZE = ("Aimv2VisionModel", "LevitModel", "GroupViTModel", "SamVisionModel")


def families(names: tuple[str, ...]) -> list[Family]:
    return [next(each for each in FAMILIES if each.saved_as == name) for name in names if name in known]


known = {each.saved_as for each in FAMILIES}


@pytest.mark.parametrize("family", families(ANY_SIZE), ids=lambda each: each.name)
def test_a_transformers_model_runs_at_another_size_as_its_class_does(family: Family, tmp_path: Path) -> None:
    own = family.build()
    own.save_pretrained(tmp_path)
    side = 2 * load(tmp_path).input_size[1]
    encoder = load(tmp_path, input_size=side)
    assert encoder.input_size == [3, side, side]
    with torch.inference_mode():
        expected = family.embed(Interpolating(own), pixels(encoder))
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)


class Interpolating:
    """A model of transformers, each of whose forwards is asked to interpolate positions, where it knows the word."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Tensor) -> Any:
        return self.ask(self.model.forward, inputs)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        if name == "get_image_features":
            return lambda **inputs: self.ask(found, inputs)
        return Interpolating(found) if isinstance(found, torch.nn.Module) else found

    @staticmethod
    def ask(forward: Any, inputs: dict[str, Any]) -> Any:
        word = "interpolate_pos_encoding"
        return forward(**inputs, **({word: True} if word in inspect.signature(forward).parameters else {}))


@pytest.mark.parametrize("family", families(ONE_SIZE), ids=lambda each: each.name)
def test_a_transformers_model_of_one_size_says_so(family: Family, tmp_path: Path) -> None:
    family.build().save_pretrained(tmp_path)
    side = 2 * load(tmp_path).input_size[1]
    with pytest.raises(UserError, match=rf"^--input-size {side}: .*{family.saved_as[:5]}") as caught:
        load(tmp_path, input_size=side)
    assert "\n" not in str(caught.value)


UNIT = {"resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# A preprocessing for images of 32 pixels, and what of it says how it makes them 48.
RESIZED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a square": (preprocessing(32), {"size": {"height": 48, "width": 48}}),
    "a crop of the shortest edge": (
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": True,
         "crop_size": {"height": 32, "width": 32}, **UNIT},
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}},
    ),
    "a crop of a square": (
        {"image_processor_type": "DeiTImageProcessor", "size": {"height": 36, "width": 36}, "do_center_crop": True,
         "crop_size": {"height": 32, "width": 32}, **UNIT},
        {"size": {"height": 54, "width": 54}, "crop_size": {"height": 48, "width": 48}},
    ),
    "a share of the edge": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875, **UNIT},
        {"size": {"shortest_edge": 48}, "crop_pct": 0.875},
    ),
    "the shortest edge, and no crop": (
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": False, **UNIT},
        {"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
    ),
    "none, and a default": ({}, {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIZED)
def test_the_preprocessing_follows(name: str, tmp_path: Path) -> None:
    """In proportion, so that the same part of an image is seen; recorded as it is."""
    settings, expected = RESIZED[name]
    save_class(tmp_path, "ViTModel", "vit", settings or None, **VIT)
    encoder = load(tmp_path, input_size=48)
    assert encoder.input_size == [3, 48, 48]
    recorded = json.loads(json.dumps(encoder.preprocessing))
    found = {key: recorded.get(key) for key in expected}
    assert {key: _without_none(value) for key, value in found.items()} == expected
    assert encoder.preprocess(Image.new("RGB", (90, 50))).shape == (3, 48, 48)


def _without_none(value: Any) -> Any:
    return {key: each for key, each in value.items() if each} if isinstance(value, dict) else value


def test_an_input_size_that_a_preprocessing_cannot_give_is_refused(tmp_path: Path) -> None:
    settings = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 8, **UNIT}
    save_class(tmp_path, "ViTModel", "vit", settings, **VIT)
    with pytest.raises(UserError, match="--input-size 48: the preprocessing of ViTModel can't give that size"):
        load(tmp_path, input_size=48)


def test_a_text_tower_is_not_asked_for_a_size(tmp_path: Path) -> None:
    sizes = {"vision_config": VIT, "text_config": TEXT, "projection_dim": 24}
    model = save_class(tmp_path, "CLIPModel", "clip", **sizes)
    encoder = load(tmp_path, input_size=64)
    with torch.inference_mode():
        vision = model.vision_model(pixels(encoder), interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(embed(encoder, pixels(encoder)), model.visual_projection(vision))


DINOV2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "image_size": 32}
SOME_LEFT = {**VIT, "image_size": 38}
# A class with its type and sizes, the size that is asked for, and how many rows and columns are left over.
LEFT_OVER: dict[str, tuple[str, str, dict[str, Any], int | None, int]] = {
    "a size that patches fill": ("Dinov2Model", "dinov2", DINOV2, 40, 0),
    "a size that they do not": ("Dinov2Model", "dinov2", DINOV2, 36, 4),
    "the model's own": ("ViTModel", "vit", SOME_LEFT, None, 6),
    "a tower's own": (
        "CLIPModel", "clip", {"vision_config": SOME_LEFT, "text_config": TEXT, "projection_dim": 24}, None, 6),
    "a convolutional stem": ("ConvNextModel", "convnext", CONVNEXT, 67, 3),
    "filled up": ("SwinModel", "swin", SWIN, 66, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_patches_leave_over_of_an_image_is_told(name: str, tmp_path: Path) -> None:
    """It makes no difference to the embedding, and all else does."""
    class_name, model_type, sizes, asked, left = LEFT_OVER[name]
    save_class(tmp_path, class_name, model_type, preprocessing(38 if asked is None else 32), **sizes)
    encoder = load(tmp_path, input_size=asked)
    told = [note for note in encoder.notes if "do not fill" in note]
    assert [f"the last {left} rows and {left} columns are not seen" in note for note in told] == [True] * bool(left)
    whole = pixels(encoder)
    for lost, same in ((left, True), (left + 1, False)):
        cut = whole.clone()
        cut[:, :, whole.shape[2] - lost :] = cut[:, :, :, whole.shape[3] - lost :] = 0
        assert torch.equal(embed(encoder, cut), embed(encoder, whole)) is same


# --------------------------------------------------------------------------------------------------------------- timm
@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        *(("test_resnet", 96), ("test_efficientnet", 224), ("swin_tiny_patch4_window7_224", 256)),
        *(("xcit_nano_12_p16_224", 160), ("pvt_v2_b0", 96), ("vit_relpos_small_patch16_224", 96)),
    ],
)
def test_a_timm_model_runs_at_another_size_as_timm_builds_it(architecture: str, side: int, tmp_path: Path) -> None:
    """Here without resampling: what that gives is in the tests of the weights."""
    own = timm_model(architecture)
    fixed = own.pretrained_cfg.get("fixed_input_size")
    own_size = [3, 160, 160] if architecture.startswith("test_") else own.pretrained_cfg["input_size"]
    config = {"input_size": own_size, "fixed_input_size": fixed, "num_classes": own.num_classes, "crop_pct": 0.9}
    folder = save_timm_model(tmp_path, own, architecture, pretrained_cfg=config)
    encoder = load(folder, input_size=side)
    built = timm.create_model(architecture, **({"img_size": side} if fixed else {}))
    built.load_state_dict(own.state_dict(), strict=True)
    with torch.inference_mode():
        expected = built.eval()(pixels(encoder))
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
    assert encoder.keys.changes == []
    assert encoder.preprocessing["input_size"] == (3, side, side)
    assert encoder.preprocessing["crop_pct"] == 0.9
    assert encoder.preprocess(Image.new("RGB", (90, 50))).shape == (3, side, side)


@pytest.mark.parametrize("architecture", ["levit_128s", "mixer_s32_224", "cait_xxs24_224", "visformer_tiny"])
def test_a_timm_model_whose_weights_have_one_size_says_so(architecture: str, tmp_path: Path) -> None:
    own = timm.create_model(architecture)
    size = {"input_size": [3, 224, 224], "fixed_input_size": True, "num_classes": own.num_classes}
    folder = save_timm_model(tmp_path, own, architecture, pretrained_cfg=size)
    with pytest.raises(UserError, match=rf"does not hold the weights of {architecture} at 256 x 256 \(\d+ misshapen"):
        load(folder, input_size=256)


@pytest.mark.parametrize(
    ("architecture", "told"), [("nest_tiny", "^--input-size 12: "), ("test_vit", "^--input-size 12: ")]
)
def test_a_size_that_timm_cannot_build_or_run_is_refused(architecture: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        load(f"timm/{architecture}", "random", input_size=12)
    assert "\n" not in str(caught.value)


def test_the_models_own_size_changes_nothing(tmp_path: Path) -> None:
    folder = save_timm_model(tmp_path / "timm", timm_model())
    save_class(tmp_path / "transformers", "SwinModel", "swin", **SWIN)
    for model, side in ((folder, 160), (tmp_path / "transformers", 64), ("demo", 224)):
        plain, asked = load(model), load(model, input_size=side)
        torch.testing.assert_close(embed(asked, pixels(plain)), embed(plain, pixels(plain)))
        assert asked.input_size == plain.input_size
        assert asked.keys.changes == plain.keys.changes == []


# -------------------------------------------------------------------------------------------------------- the scripts
SCRIPTS = {"inference.py": (), "accuracy_run.py": ("--samples", 1), "accuracy_run_perf.py": PERF_QUICK}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_at_the_size_and_records_it(script: str, run_script: Runner) -> None:
    done = run_script(script, "--model", "demo", "--input-size", 96, "--device", "cpu", *SCRIPTS[script])
    assert done.code == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if '"event":"model"' in line]
    model = json.loads(line.partition("@record ")[2])
    assert model["input_size"] == [3, 96, 96]
    assert model["preprocess"]["input_size"] == [3, 96, 96]


@pytest.mark.parametrize("text", ["0", "-1", "224x224", "1.5", "large"])
def test_a_size_that_is_none_is_a_usage_error(text: str, run_script: Runner) -> None:
    done = run_script("inference.py", "--model", "demo", f"--input-size={text}")
    assert done.code == 2
    assert "--input-size" in done.stderr.splitlines()[-1]
