"""Pooled features: what is before the last layer, as timm's `num_classes=0` and transformers' poolings give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import Finished, Runner
from helpers import logs
from helpers import transformers_families as families
from helpers.checkpoints import embed, load, pixels, save_class, save_timm_model, timm_model
from helpers.transformers_families import FAMILIES, STAGES, TOWERS, VIT, Family
from torch import Tensor

from common.cli.options import ModelChoice
from common.encoder import base, timm_models
from common.encoder.checkpoints import Checkpoint
from common.errors import UserError

# --------------------------------------------------------------------------------------------------------------- timm
SMALL = {"img_size": 160, "embed_dim": 48, "num_heads": 4}
# The architecture, what it is built with, and what its pooled features are.
TIMM: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": ("test_vit", {}, base.CLS),
    "ViT, averaged": ("test_vit", {"global_pool": "avg"}, base.MEAN_OF_PATCHES),
    "ViT, pooled by attention": ("test_vit3", {}, base.POOLED),
    "a convolution behind the pooling": ("mobilenetv3_small_050", {}, base.POOLED),
    "a convolution before it": ("test_efficientnet", {}, base.POOLED),
    "ResNet": ("test_resnet", {}, base.POOLED),
    "ResNet, the largest of each place": ("test_resnet", {"global_pool": "max"}, base.POOLED),
    "ConvNeXt": ("test_convnext", {}, base.POOLED),
    "ConvNeXt, with a hidden layer in its head": (
        "test_convnext",
        {"head_hidden_size": 40, "head_norm_first": False},
        base.POOLED,
    ),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 160, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 5},
        base.POOLED,
    ),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", {**SMALL, "depth": 2}, base.POOLED),
    "CaiT": ("cait_xxs24_224", {**SMALL, "depth": 2}, base.CLS),
    "PiT, distilled": ("pit_ti_distilled_224", {"img_size": 160}, base.POOLED),
    "LeViT": ("levit_128s", {"img_size": 160}, base.POOLED),
    "CLIP, before its projection": ("vit_medium_patch16_clip_224", {"img_size": 160, **SMALL, "depth": 2}, base.CLS),
}
DISTILLED = ("DeiT, distilled", "PiT, distilled", "LeViT")


def save(folder: Path, name: str, **more: Any) -> Any:
    architecture, options, _ = TIMM[name]
    model = timm_model(architecture, **options, **more)
    fixed = {"fixed_input_size": "img_size" in options or "vit" in architecture, "num_classes": model.num_classes}
    own = {"input_size": [3, 160, 160], "tag": "in1k", **fixed}
    save_timm_model(folder, model, architecture, model_args=options, pretrained_cfg=own)
    return model


@pytest.mark.parametrize("name", TIMM)
def test_pooled_features_are_those_of_timm_without_classes(name: str, tmp_path: Path) -> None:
    architecture, options, words = TIMM[name]
    model = save(tmp_path, name)
    encoder = load(tmp_path, pooled=True)
    headless = timm.create_model(architecture, num_classes=0, **options)
    state = model.state_dict()
    headless.load_state_dict({key: state[key] for key in headless.state_dict()}, strict=True)
    given = embed(encoder, pixels(encoder))
    with torch.inference_mode():
        torch.testing.assert_close(given, headless.eval()(pixels(encoder)))
        if name not in DISTILLED:  # whose two heads have a token each
            torch.testing.assert_close(model.get_classifier()(given), model(pixels(encoder)))
    assert encoder.embedding_is == words
    assert encoder.label is None
    assert encoder.keys.left_out == [key for key in state if key not in headless.state_dict()] != []
    assert encoder.notes == []
    assert embed(load(tmp_path), pixels(encoder)).shape == (1, model.num_classes)


def test_the_distilled_words_hold_without_classes_too(tmp_path: Path) -> None:
    """They are the mean of two tokens, and not the CLS token."""
    save(tmp_path, "DeiT, distilled", num_classes=0)
    encoder = load(tmp_path)
    embedding, tokens = encoder.module(pixels(encoder))
    torch.testing.assert_close(embedding, tokens[:, :2].mean(1))
    assert encoder.embedding_is == base.POOLED


def test_demo_and_random_weights_have_pooled_features() -> None:
    for weights in (None, "random"):
        encoder = load("demo", weights, pooled=True)
        whole = load("demo", weights).module.model
        with torch.inference_mode():
            expected = whole.forward_head(whole.forward_features(pixels(encoder)), pre_logits=True)
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
        assert encoder.label is None


def test_a_timm_model_without_a_head_gives_what_it_gives(tmp_path: Path) -> None:
    save(tmp_path, "ViT", num_classes=0)
    pooled, plain = load(tmp_path, pooled=True), load(tmp_path)
    assert torch.equal(embed(pooled, pixels(plain)), embed(plain, pixels(plain)))
    assert pooled.embedding_is == plain.embedding_is == base.CLS
    assert (pooled.notes, plain.notes) == ([base.POOLED_ALREADY], [])


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_a_model_without_a_pooling_has_none(architecture: str, classes: int, tmp_path: Path) -> None:
    """timm gives tokens or a map then. It is said before weights are looked for."""
    options = {"global_pool": ""}
    model = timm_model(architecture, num_classes=classes, **options)
    folder = save_timm_model(tmp_path, model, architecture, model_args=options)
    reason = r"has no pooled features: it was built without a pooling$"
    with pytest.raises(UserError, match=reason):
        load(folder, pooled=True)
    wanted = ModelChoice(str(folder), pooled=True)
    with pytest.raises(UserError, match=reason):
        timm_models.require_usable(str(folder), Checkpoint("timm", folder, [], "hub"), wanted)
    timm_models.require_usable(str(folder), Checkpoint("timm", folder, [], "hub"), ModelChoice(str(folder)))


# ------------------------------------------------------------------------------------------------------- transformers
CLASSIFIERS = {
    "ViTForImageClassification": ("vit", VIT, base.CLS),
    "ConvNextForImageClassification": ("convnext", {**STAGES, "image_size": 64}, base.POOLED),
    "BeitForImageClassification": ("beit", VIT, base.POOLED),
    "SwinForImageClassification": ("swin", families.SWIN, base.POOLED),
    "IJepaForImageClassification": ("ijepa", VIT, base.MEAN_OF_PATCHES),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_of_a_classifier_they_are_what_its_own_head_gets(name: str, tmp_path: Path) -> None:
    model_type, sizes, words = CLASSIFIERS[name]
    model = save_class(tmp_path, name, model_type, **sizes)
    encoder, plain = load(tmp_path, pooled=True), load(tmp_path)
    given = embed(encoder, pixels(encoder))
    with torch.inference_mode():
        torch.testing.assert_close(model.classifier(given), model(pixel_values=pixels(encoder)).logits)
    assert torch.equal(given, embed(plain, pixels(encoder)))
    assert encoder.embedding_is == words
    assert encoder.notes == [base.POOLED_ALREADY]


def before_projection(model: Any, pixel_values: Tensor) -> Tensor:
    """The pooled output of the vision tower, which transformers' classes give their projection."""
    pooled: Tensor = model.vision_model(pixel_values=pixel_values).pooler_output
    return pooled


@pytest.mark.parametrize("name", ["CLIPModel", "CLIPVisionModelWithProjection"])
def test_of_a_vision_tower_they_are_before_its_projection(name: str, tmp_path: Path) -> None:
    if name == "CLIPModel":
        model = save_class(tmp_path, name, "clip", **TOWERS)
    else:
        model = save_class(tmp_path, name, "clip_vision_model", **VIT, projection_dim=24)
    encoder, plain = load(tmp_path, pooled=True), load(tmp_path)
    given = embed(encoder, pixels(encoder))
    with torch.inference_mode():
        torch.testing.assert_close(given, before_projection(model, pixels(encoder)))
        torch.testing.assert_close(model.visual_projection(given), embed(plain, pixels(encoder)))
    assert given.shape == (1, 32)
    assert (encoder.embedding_is, plain.embedding_is) == (base.POOLED, base.PROJECTED)
    assert "visual_projection.weight" in encoder.keys.left_out
    assert encoder.notes == []
    assert load(tmp_path, "random", pooled=True).embedding_is == base.POOLED


PROJECTING = [each for each in FAMILIES if each.embed in (families.image_embeds, families.image_features)]


@pytest.mark.parametrize("family", PROJECTING, ids=lambda each: each.name)
def test_no_family_s_pooled_features_are_projected(family: Family, tmp_path: Path) -> None:
    """Of some the tower has no projection: then they are the embedding."""
    model = family.build()
    model.save_pretrained(tmp_path)
    encoder = load(tmp_path, pooled=True)
    assert encoder.embedding_is != base.PROJECTED
    given, projection = embed(encoder, pixels(encoder)), getattr(model, "visual_projection", None)
    with torch.inference_mode():
        expected = family.embed(model, pixels(encoder))
        torch.testing.assert_close(given if projection is None else projection(given), expected)
    assert encoder.notes == ([base.POOLED_ALREADY] if projection is None else [])


# ---------------------------------------------------------------------------------------------- printed and recorded
def lines_of(finished: Finished) -> list[str]:
    assert finished.code == 0, finished.stderr
    return finished.stdout.splitlines()


def test_the_log_says_what_they_are_and_names_no_class(run_script: Runner, tmp_path: Path) -> None:
    lines = lines_of(run_script("inference.py", "--model", "demo", "--device", "cpu", "--features", "pooled"))
    assert "Embedding: pooled output" in lines
    assert "Output shape: [1, 1280]" in lines
    assert "Left out: 2 weights of other parts (classifier.weight, classifier.bias)" in lines
    run = logs.read_run(tmp_path / "logs" / "inference.log")
    (model,), (image,) = run.events("model"), run.events("inference")
    assert (model["embedding_is"], model["classifier"], model["left_out_keys"]) == (base.POOLED, False, 2)
    assert image["output_shape"] == [1, 1280]
    assert [entry["label"] for entry in image["topk"]] == [None] * 5
    assert not any("label=" in line for line in lines)
    assert not any(line.startswith("Note: ") for line in lines)


def test_where_the_embedding_is_that_already_a_line_says_so(run_script: Runner, tiny_vit: Path) -> None:
    lines = lines_of(run_script("inference.py", "--model", tiny_vit, "--device", "cpu", "--features", "pooled"))
    assert "Embedding: CLS token" in lines
    assert f"Note: {base.POOLED_ALREADY}" in lines
