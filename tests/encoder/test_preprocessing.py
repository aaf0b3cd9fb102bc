"""A checkpoint's own preprocessing: it gives every image one size, or it is told in one line before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PERF_QUICK, Runner
from helpers.checkpoints import load, pixels, preprocessing, save_class
from helpers.transformers_families import VIT
from PIL import Image

from common.encoder import base
from common.encoder.base import Preprocessor
from common.errors import UserError

MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

# What a preprocessor_config.json says, and what is told of it.
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "the edges in proportion": (
        {"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 90}, **MEAN},
        r"images of different sizes: \[3, 32, 32\] of 64 x 64 pixels, \[3, 32, 48\] of 97 x 61; --input-size N",
    ),
    "the shortest edge, and no crop": (
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": False, **MEAN},
        "images of different sizes",
    ),
    "as large as the image": (preprocessing(32, do_resize=False), "images of different sizes"),
    "up to a multiple": (
        {"image_processor_type": "Swin2SRImageProcessor", "do_pad": True, "size_divisor": 8},
        "images of different sizes",
    ),
    "patches instead of an image": (
        {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 8, **MEAN},
        r"gives \[\d+\] of an image, not \[3, height, width\]",
    ),
    "a size that is unknown": (preprocessing(32) | {"size": {"longest_edge": 32}}, "preprocessing .* fails"),
    "a mean of two channels": (preprocessing(32, image_mean=[0.5] * 2, image_std=[0.5] * 2), "preprocessing .* fails"),
    "no spread": (preprocessing(32, image_std=[0.0, 0.5, 0.5]), "gives NaN or infinite values|fails"),
    "another size than the model's": (preprocessing(64), r"ViTModel.*64"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_preprocessing_is_one_line(name: str, tmp_path: Path) -> None:
    settings, told = UNFIT[name]
    save_class(tmp_path, "ViTModel", "vit", settings, **VIT)
    with pytest.raises(UserError, match=told) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


FIT: dict[str, dict[str, Any]] = {
    "a square": preprocessing(32),
    "the longest edge, filled up": {
        "image_processor_type": "SamImageProcessor",
        "size": {"longest_edge": 32},
        "pad_size": {"height": 32, "width": 32},
        "mask_size": {"longest_edge": 8},
        "mask_pad_size": {"height": 8, "width": 8},
        **MEAN,
    },
    "a crop": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        **MEAN,
    },
}


@pytest.mark.parametrize("name", FIT)
def test_a_preprocessing_to_one_size_is_taken(name: str, tmp_path: Path) -> None:
    save_class(tmp_path, "ViTModel", "vit", FIT[name], **VIT)
    encoder = load(tmp_path)
    assert encoder.input_size == [3, 32, 32]
    for size in ((50, 20), (20, 500)):
        assert encoder.preprocess(Image.new("RGB", size)).shape == (3, 32, 32)


def test_the_way_out_that_is_named_is_one(tmp_path: Path) -> None:
    """--input-size makes a model of any size run on images of one, here as its own library does on the same pixels."""
    settings = UNFIT["the edges in proportion"][0]
    model = save_class(tmp_path, "YolosForObjectDetection", "yolos", settings, **VIT | {"image_size": [32, 48]})
    encoder = load(tmp_path, input_size=40)
    assert encoder.input_size == [3, 40, 40]
    with torch.inference_mode():
        expected = model.vit(pixels(encoder)).last_hidden_state
        torch.testing.assert_close(encoder.module(pixels(encoder))[1], expected)


SCRIPTS = {
    "inference.py": ("--batch-size", 2),
    "accuracy_run.py": ("--samples", 2),
    "accuracy_run_perf.py": PERF_QUICK,
}


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("inference.py", "the edges in proportion"),
        ("accuracy_run.py", "the edges in proportion"),
        ("accuracy_run_perf.py", "the edges in proportion"),
        ("accuracy_run.py", "a mean of two channels"),
    ],
)
def test_every_script_tells_it_before_it_runs(script: str, name: str, run_script: Runner, tmp_path: Path) -> None:
    save_class(tmp_path / "model", "ViTModel", "vit", UNFIT[name][0], **VIT)
    done = run_script(script, "--model", tmp_path / "model", "--device", "cpu", *SCRIPTS[script])
    assert done.code == 2
    assert done.stderr.splitlines()[-1].startswith("error: the preprocessing of ViTModel")
    assert "Traceback" not in done.stderr


def test_an_image_that_the_probes_did_not_foresee_is_an_error_of_that_image() -> None:
    def own(image: Image.Image) -> torch.Tensor:
        if image.width == 1000:
            raise ValueError("too wide\nfor words")
        return torch.zeros(3, 8, 9 if image.height == 1000 else 8)

    preprocess = Preprocessor("some model", own)
    assert preprocess.input_size == [3, 8, 8]
    with pytest.raises(UserError, match=r"^the preprocessing of some model fails: too wide$"):
        preprocess(Image.new("RGB", (1000, 1)))
    with pytest.raises(UserError, match=re.escape("gives [3, 8, 9] of an image of 1 x 1000 pixels, not [3, 8, 8]")):
        preprocess(Image.new("RGB", (1, 1000)))


def test_the_probes_differ_in_size_and_shape() -> None:
    ratios = {width / height for width, height in base.PROBED}
    assert len(ratios) >= 4
    assert min(ratios) < 1 < max(ratios)
    assert len({width * height for width, height in base.PROBED}) >= 4
