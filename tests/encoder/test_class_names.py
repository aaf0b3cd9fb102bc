"""Class names are the checkpoint's own, or ImageNet's where its config says so; what has no head is no classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from helpers.checkpoints import load, save_class, save_timm_model, timm_model
from helpers.transformers_families import VIT
from timm.data import ImageNetInfo

from common.encoder import base

PLANTS = [f"plant {index}" for index in range(1000)]
ABC = ["a", "b", "c"]
IN1K = {"input_size": [3, 160, 160], "fixed_input_size": True, "num_classes": 1000, "tag": "r160_in1k"}


def tagged(tag: str | None, **more: Any) -> dict[str, Any]:
    return {"pretrained_cfg": {**IN1K, "tag": tag, **more}}


# The classes, keys of the config.json, and the names of some classes by their index.
NAMED: dict[str, tuple[int, dict[str, Any], dict[int, str | None]]] = {
    "a list": (3, {"label_names": ABC}, {0: "a", 2: "c"}),
    "a list of as many as ImageNet's": (1000, {"label_names": PLANTS}, {0: "plant 0", 999: "plant 999"}),
    "a list, beside a tag of ImageNet's": (1000, {**tagged("a1_in1k"), "label_names": PLANTS}, {400: "plant 400"}),
    "an object with gaps": (9, {"label_names": {"1": "a", "7": "b"}}, {0: None, 1: "a", 7: "b", 8: None}),
    "descriptions": (
        3,
        {"label_names": ["n01", "n02", "n03"], "label_descriptions": {"n01": "tench", "n03": "shark"}},
        {0: "tench", 1: "n02", 2: "shark"},
    ),
    "id2label": (3, {"id2label": {"0": "a", "1": "b", "2": "c"}}, {1: "b"}),
    "in the pretrained_cfg": (3, tagged(None, num_classes=3, label_names=ABC), {2: "c"}),
    "labels, as timm called them first": (3, {"labels": ABC}, {0: "a"}),
    "a tag of ImageNet's": (1000, tagged("a1_in1k"), {}),
    "a tag of ImageNet's after another data set": (1000, tagged("in21k_ft_in1k"), {}),
}
IMAGENET = ("a tag of ImageNet's", "a tag of ImageNet's after another data set")


@pytest.mark.parametrize("name", NAMED)
def test_a_classifier_has_the_names_of_its_config(name: str, tmp_path: Path) -> None:
    classes, config, expected = NAMED[name]
    encoder = load(save_timm_model(tmp_path, timm_model(num_classes=classes), **config))
    if name in IMAGENET:
        expected = {index: ImageNetInfo("imagenet-1k").index_to_description(index) for index in (0, 400, 999)}
    assert encoder.label is not None
    assert {index: encoder.label(index) for index in expected} == expected
    assert encoder.embedding_is == base.LOGITS


UNNAMED: dict[str, tuple[int, dict[str, Any]]] = {
    "as many classes as ImageNet has, and no word of it": (1000, {}),
    "as many as ImageNet-21k": (21843, {}),
    "fine-tuned from ImageNet to something else": (1000, tagged("in1k_ft_plants")),
    "no head": (0, {"label_names": PLANTS}),
    "no head, in a config of ImageNet's": (0, {**tagged("r160_in1k"), "model_args": {"num_classes": 0}}),
    "a list that does not fit": (3, {"label_names": PLANTS}),
    "an object that does not fit": (3, {"id2label": {"0": "a", "1000": "b"}}),
    "names that are none": (3, {"label_names": [1, 2, 3]}),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_nothing_else_names_a_class(name: str, tmp_path: Path) -> None:
    classes, config = UNNAMED[name]
    encoder = load(save_timm_model(tmp_path, timm_model(num_classes=classes), **config))
    assert encoder.label is None
    assert encoder.embedding_is != base.LOGITS
    assert bool(encoder.notes) == ("fit" in name or "none" in name)


def test_a_model_of_the_registry_has_the_names_that_its_tag_says() -> None:
    encoder = load("timm/test_vit", "random")
    assert encoder.label is not None
    assert encoder.label(967) == ImageNetInfo("imagenet-1k").index_to_description(967)


def test_the_features_of_a_transformers_classifier_get_no_names(run_script: Runner, tmp_path: Path) -> None:
    """Its encoder is embedded, without the head whose classes they are."""
    labels = {"id2label": {index: f"plant {index}" for index in range(32)}, "label2id": None}
    save_class(tmp_path / "model", "ViTForImageClassification", "vit", **VIT, **labels)
    assert load(tmp_path / "model").label is None
    done = run_script("inference.py", "--model", tmp_path / "model", "--device", "cpu")
    assert done.code == 0
    assert "label=" not in done.stdout
    assert '"classifier":false' in done.stdout


def test_the_names_are_printed_and_recorded(run_script: Runner, tmp_path: Path) -> None:
    save_timm_model(tmp_path / "model", timm_model(num_classes=3), label_names=ABC)
    done = run_script("inference.py", "--model", tmp_path / "model", "--device", "cpu", "--topk", 3)
    lines = [line for line in done.stdout.splitlines() if "index=" in line]
    assert sorted(line.rpartition("label=")[2] for line in lines) == ABC
    assert '"classifier":true' in done.stdout
