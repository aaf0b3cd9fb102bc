"""What the embedding is: what the model's authors give for an image, by the documentation of their classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import PERF_QUICK, Runner
from helpers import transformers_families as families
from helpers.checkpoints import embed, load, pixels, save_class, save_timm_model, timm_model
from helpers.transformers_families import FAMILIES, VIT, Family
from torch import Tensor

from common.encoder import base

# In words, what each way of a documentation gives.
WORDS = {
    families.pooled: base.POOLED,
    families.cls_token: base.CLS,
    families.cls_token_value: base.CLS,
    families.mean_of_tokens: base.MEAN_OF_PATCHES,
    families.mean_without_cls: base.MEAN_OF_PATCHES,
    families.mean_of_map: base.MEAN_OF_MAP,
    families.image_embeds: base.PROJECTED,
    families.summary: base.SUMMARY,
}
# Those for which something else than the pooled output of AutoModel's class is right.
TOLD = [each for each in FAMILIES if each.embed in WORDS and each.embed is not families.pooled]


@pytest.mark.parametrize("family", TOLD, ids=lambda each: f"{each.name} {each.embed.__name__}")
def test_a_family_is_embedded_as_it_is_documented(family: Family, tmp_path: Path) -> None:
    own = family.build()
    own.save_pretrained(tmp_path)
    encoder = load(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), family.embed(own, pixels(encoder)))
    assert encoder.embedding_is == WORDS[family.embed]


def test_the_ways_to_embed_are_not_the_same_thing(tmp_path: Path) -> None:
    """Else the table above could not fail: on one model, its CLS token, mean, and pooled output are apart."""
    model = save_class(tmp_path, "ViTModel", "vit", **VIT)
    encoder = load(tmp_path)
    ways = [families.pooled, families.cls_token, families.mean_of_tokens, families.mean_without_cls]
    with torch.inference_mode():
        found = [way(model, pixels(encoder)) for way in ways]
    torch.testing.assert_close(embed(encoder, pixels(encoder)), found[0])
    for at, one in enumerate(found):
        assert all((one - other).norm() > 0.05 * one.norm() for other in found[:at])


def test_the_trained_pooling_of_a_classifier_is_kept(tmp_path: Path) -> None:
    """Data2VecVisionForImageClassification builds its encoder with a pooler, which AutoModel's class leaves away."""
    model = save_class(tmp_path, "Data2VecVisionForImageClassification", "data2vec-vision", **VIT)
    encoder = load(tmp_path)
    with torch.inference_mode():
        expected = model.data2vec_vision(pixels(encoder)).pooler_output
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
    assert encoder.embedding_is == base.POOLED


@pytest.mark.parametrize("name", ["OwlViTForObjectDetection", "CLIPSegForImageSegmentation"])
def test_a_projection_inside_a_task_model_projects(name: str, tmp_path: Path) -> None:
    model_type, part = {"O": ("owlvit", "owlvit"), "C": ("clipseg", "clip")}[name[0]]
    sizes = {**families.TOWERS, "extract_layers": [1], "reduce_dim": 16} if model_type == "clipseg" else families.TOWERS
    model = save_class(tmp_path, name, model_type, **sizes)
    encoder = load(tmp_path)
    with torch.inference_mode():
        expected = families.image_features(model.get_submodule(part), pixels(encoder))
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
    assert encoder.embedding_is == base.PROJECTED


# --------------------------------------------------------------------------------------------------------------- timm
def own_output(model: Any, pixel_values: Tensor) -> Tensor:
    output: Tensor = model(pixel_values)
    return output


def as_pooled_by(pooling: str) -> Callable[[Any, Tensor], Tensor]:
    """timm's own pooling, of the same weights in a model that was built with it."""

    def expected(model: Any, pixel_values: Tensor) -> Tensor:
        pooled: Tensor = timm.layers.global_pool_nlc(
            model.forward_features(pixel_values), pool_type=pooling, num_prefix_tokens=model.num_prefix_tokens
        )
        return pooled

    return expected


HEADLESS = {"num_classes": 0}
REGISTERS = {"reg_tokens": 4, "class_token": False, "global_pool": "", **HEADLESS}
TIMM: dict[str, tuple[str, dict[str, Any], Callable[[Any, Tensor], Tensor], str]] = {
    "CLS": ("test_vit", HEADLESS, own_output, base.CLS),
    "average": ("test_vit", {"global_pool": "avg", **HEADLESS}, own_output, base.MEAN_OF_PATCHES),
    "no pooling, with a CLS token": ("test_vit", {"global_pool": "", **HEADLESS}, as_pooled_by("token"), base.CLS),
    "no pooling, with registers alone": ("test_vit", REGISTERS, as_pooled_by("avg"), base.MEAN_OF_PATCHES),
    "attention": ("test_vit3", HEADLESS, own_output, base.POOLED),
    "a map": ("test_resnet", HEADLESS, own_output, base.POOLED),
    "a map without pooling": (
        "test_resnet",
        {"global_pool": "", **HEADLESS},
        lambda model, pixel_values: model(pixel_values).mean((2, 3)),
        base.MEAN_OF_MAP,
    ),
    "a head without names": ("test_vit", {"num_classes": 24}, own_output, base.HEAD),
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_model_is_embedded_as_timm_pools(name: str, tmp_path: Path) -> None:
    architecture, options, expected, words = TIMM[name]
    model = timm_model(architecture, **options)
    args = {key: value for key, value in options.items() if key != "num_classes"}
    encoder = load(save_timm_model(tmp_path, model, architecture, model_args=args))
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected(model, pixels(encoder)))
    assert encoder.embedding_is == words


def test_a_clip_of_timm_projects_unless_its_head_was_trained_for_classes() -> None:
    """timm converts `proj` of OpenAI's and open_clip's image towers to the head of these models."""
    expected = {"vit_tiny_patch16_224": base.LOGITS, "vit_medium_patch16_clip_224": base.PROJECTED}
    assert {name: load(f"timm/{name}", "random").embedding_is for name in expected} == expected


# ---------------------------------------------------------------------------------------------- printed and recorded
SCRIPTS = {
    "inference.py": (),
    "accuracy_run.py": ("--samples", 1),
    "accuracy_run_perf.py": PERF_QUICK,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_what_the_embedding_is(script: str, run_script: Runner, tmp_path: Path) -> None:
    save_class(tmp_path / "model", "IJepaModel", "ijepa", **VIT)
    done = run_script(script, "--model", tmp_path / "model", "--device", "cpu", *SCRIPTS[script])
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Embedding: mean of the patch tokens" in lines
    records = [json.loads(line.partition("@record ")[2]) for line in lines if line.startswith("@record ")]
    (model,) = [record for record in records if record["event"] == "model"]
    assert model["embedding_is"] == "mean of the patch tokens"
