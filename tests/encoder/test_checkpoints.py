"""What --model names, which files of a folder are read, what lies in their place, and what torch.save wrote."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from conftest import ROOT, TINY_PREPROCESSING, TINY_TIMM, save_timm, save_transformers
from helpers.transformers_families import FAMILIES, TOWERS, Family
from PIL import Image
from safetensors.torch import load_file, save_file

from common.cli.options import ModelChoice
from common.encoder import base, checkpoints, hubs, loading, weights
from common.errors import UserError

State = dict[str, torch.Tensor]
WHOLE, INDEX, BIN, BIN_INDEX = hubs.SINGLE_FILE, hubs.INDEX, hubs.PICKLE, hubs.PICKLE_INDEX


def load(model: object, weights_path: object = None) -> base.Encoder:
    return loading.load_encoder(ModelChoice(str(model), None if weights_path is None else str(weights_path)))


def refusal(model: object, weights_path: object = None) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(UserError) as caught:
        load(model, weights_path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def outputs(encoder: base.Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Of an image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    with torch.inference_mode():
        embedding, hidden_state = encoder.module(encoder.preprocess(Image.fromarray(noise)).unsqueeze(0))
    return embedding, hidden_state


def require_same(encoder: base.Encoder, expected: base.Encoder) -> None:
    """Equal but for the kernels: mapped weights are aligned differently."""
    for found, wanted in zip(outputs(encoder), outputs(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------- what --model names
IDS = {
    "timm/test_vit": ("timm/test_vit", "modelscope", None),
    "someone/encoder": ("someone/encoder", "huggingface", None),
    "hf-hub:timm/test_vit.r160_in1k": ("timm/test_vit.r160_in1k", "huggingface", None),
    "hf_hub:someone/encoder": ("someone/encoder", "huggingface", None),
    "HF-Hub:someone/encoder": ("someone/encoder", "huggingface", None),
    "hf-hub:someone/encoder@v1.0": ("someone/encoder", "huggingface", "v1.0"),  # as timm pins a revision
    "hf-hub:someone/encoder@refs/pr/2": ("someone/encoder", "huggingface", "refs/pr/2"),
    "timm/tinynet_b___in1k": ("timm/tinynet_b.in1k", "modelscope", None),
    "Qwen/Qwen3___5-0___8B": ("Qwen/Qwen3.5-0.8B", "modelscope", None),
}


@pytest.mark.parametrize(("text", "expected"), IDS.items(), ids=IDS)
def test_an_id_is_recorded_without_its_prefix_and_with_its_dots(text: str, expected: tuple[str, str, str]) -> None:
    found = checkpoints.find_model(ModelChoice(text))
    assert (found.model, found.hub, found.revision) == expected
    assert found.folder is None


def test_the_flags_go_before_a_prefix() -> None:
    found = checkpoints.find_model(ModelChoice("hf-hub:timm/test_vit", hub="modelscope", revision="v2"))
    assert (found.hub, found.revision) == ("modelscope", "v2")
    with pytest.raises(UserError, match="another revision"):
        checkpoints.find_model(ModelChoice("hf-hub:timm/test_vit@v1", revision="v2"))


NO_IDS = {
    "resnet50": "timm has it: --model timm/resnet50",
    "vit_base_patch16_224.augreg_in21k": "timm has it: --model timm/vit_base_patch16_224.augreg_in21k",
    "vit_base_patch16_224_in21k": "timm has it: --model timm/vit_base_patch16_224_in21k",  # as it was called until 0.8
    "hf-hub:resnet50": "timm has it: --model timm/resnet50",
    "resnet": "neither a folder",
    "hf-hub:": "neither a folder",
    "a/b/c": "neither a folder",
    "/someone": "neither a folder",
    "./someone/encoder": "neither a folder",
    "https://huggingface.co/someone/encoder": "neither a folder",
    "s3:bucket/encoder": "neither a folder",
}


@pytest.mark.parametrize(("text", "told"), NO_IDS.items(), ids=NO_IDS)
def test_what_is_no_id_is_refused_with_the_name_that_may_be_meant(text: str, told: str) -> None:
    said = refusal(text)
    assert told in said
    assert ("timm has it" in said) == ("timm has it" in told)


def test_the_hint_is_what_timm_says() -> None:
    names = timm.list_models()[::40]
    assert all(checkpoints._timm_has(name) for name in names)
    assert not any(checkpoints._timm_has(f"{name}_x") for name in names)


def test_the_hint_imports_nothing() -> None:
    code = (
        "import sys; from common.encoder import checkpoints as c; print(c._timm_has('resnet50'), 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


FOLDERS = {
    "cache/models/timm/tinynet_b___in1k": "timm/tinynet_b.in1k",
    "model_weights_cache/Qwen/Qwen3___5-0___8B": "Qwen/Qwen3.5-0.8B",
    "modelscope/models/timm--tinynet_b.in1k/snapshots/master": "timm/tinynet_b.in1k",
    "huggingface/hub/models--facebook--dinov2-base/snapshots/f9e44c81": "facebook/dinov2-base",
    "models/tinynet_b___in1k": "tinynet_b.in1k",
    "home/tinynet_b___in1k": "tinynet_b.in1k",  # somebody's
    "someone/my_encoder": "my_encoder",
    "someone/run.3": "run.3",
}


@pytest.mark.parametrize(("place", "recorded"), FOLDERS.items(), ids=FOLDERS)
def test_a_folder_of_a_hubs_cache_is_recorded_by_its_id(
    place: str, recorded: str, tmp_path: Path, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_timm, place)
    for given in (place, tmp_path / place, f"local-dir:{place}"):
        encoder = load(given)
        assert (encoder.model, encoder.weights_source) == (recorded, recorded)
    assert load("timm/test_vit", place).weights_source == recorded


def test_a_folder_below_timms_name_may_hold_any_architecture(
    tmp_path: Path, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timm/run___1` is a path here, and no name in timm's registry."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_timm, "timm/run___1")
    assert load("timm/run___1").architecture == "test_vit"


def test_the_one_snapshot_of_a_cached_model_is_its_folder(tmp_path: Path, tiny_timm: Path) -> None:
    model = tmp_path / "models--someone--encoder"
    shutil.copytree(tiny_timm, model / "snapshots" / "0123")
    assert load(model).model == "someone/encoder"
    shutil.copytree(tiny_timm, model / "snapshots" / "4567")
    assert "has 2 snapshots" in refusal(model)


# ------------------------------------------------------------------------------------------- the library, the folder
@pytest.mark.parametrize("prefix", ["", "someone/", "hf-hub:someone/"])
def test_the_library_is_that_of_the_config_whatever_the_id(prefix: str, tiny_timm: Path, tiny_vit: Path) -> None:
    for folder, library in ((tiny_timm, "timm"), (tiny_vit, "transformers")):
        if prefix:
            encoder = load(f"{prefix}encoder", folder)
            assert encoder.model == "someone/encoder"
        else:
            encoder = load(folder)
        assert encoder.library == library


PATHS = ["run#3", "run?step=3", "run 3", "run\t3", "run%233", "run;3", "läuft"]


@pytest.mark.parametrize("name", PATHS)
def test_a_folder_of_timm_may_have_any_name(name: str, tmp_path: Path, tiny_timm: Path) -> None:
    """timm 1.0.17 takes `run`, which holds another model, for `run#3`."""
    save_timm(tmp_path / "run", {**TINY_TIMM, "architecture": "test_vit2"})
    shutil.copytree(tiny_timm, tmp_path / name)
    encoder = load(tmp_path / name)
    assert (encoder.architecture, encoder.model) == ("test_vit", name)
    require_same(encoder, load(tiny_timm))


@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_an_architecture_may_have_its_old_name_in_the_config_and_in_the_id(tmp_path: Path) -> None:
    """As timm called it until 0.8; timm says which it is today."""
    config = {**TINY_TIMM, "architecture": "vit_tiny_patch16_224_in21k", "pretrained_cfg": {"num_classes": 10}}
    save_timm(tmp_path / "old", config)
    old, today = "timm/vit_tiny_patch16_224_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"
    for model in (tmp_path / "old", old, today):
        assert load(model, tmp_path / "old").architecture == "vit_tiny_patch16_224"
    for other in ("timm/vit_small_patch16_224", "timm/vit_small_patch16_224_in21k", "timm/nosuch"):
        assert "holds vit_tiny_patch16_224, not the " in refusal(other, tmp_path / "old")


# -------------------------------------------------------------------------------------------- which files of a folder
def index_of(*names: str) -> str:
    return json.dumps({"weight_map": {f"t{at}": name for at, name in enumerate(names)}})


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BIN_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
ADAPTER = "adapter_config.json"
LEFT_OVER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt")
CHOICES: dict[str, tuple[dict[str, str], list[str]]] = {
    "the whole file": ({WHOLE: ""}, [WHOLE]),
    "safetensors before pickles": ({WHOLE: "", BIN: ""}, [WHOLE]),
    "of any name": ({"weights.safetensors": "", BIN: ""}, ["weights.safetensors"]),
    "shards": ({INDEX: index_of(*SHARDS), **dict.fromkeys(SHARDS, "")}, list(SHARDS)),
    "shards before pickles": ({INDEX: index_of(*SHARDS), **dict.fromkeys(SHARDS, ""), BIN: ""}, list(SHARDS)),
    "stale index": ({WHOLE: "", INDEX: index_of(*SHARDS)}, [WHOLE]),
    "stale index, whole file of another name": ({"w.safetensors": "", INDEX: index_of(*SHARDS)}, ["w.safetensors"]),
    "stale index, whole pickle": ({BIN: "", INDEX: index_of(*SHARDS)}, [BIN]),
    "a whole file beside all shards": ({WHOLE: "", INDEX: index_of(*SHARDS), **dict.fromkeys(SHARDS, "")}, [WHOLE]),
    "broken index": ({WHOLE: "", INDEX: "{"}, [WHOLE]),
    "a pickle": ({BIN: ""}, [BIN]),
    "a pickle of any name": ({"dino_vitbase8_pretrain.pth": ""}, ["dino_vitbase8_pretrain.pth"]),
    "a pickle that lightning wrote": ({"last.ckpt": ""}, ["last.ckpt"]),
    "a pickle that timm's training wrote": ({"model_best.pth.tar": ""}, ["model_best.pth.tar"]),
    "a pickle beside what is left of training": ({BIN: "", **dict.fromkeys(LEFT_OVER, "")}, [BIN]),
    "another beside what is left of training": ({"vit.pt": "", **dict.fromkeys(LEFT_OVER, "")}, ["vit.pt"]),
    "shards of pickles": ({BIN_INDEX: index_of(*BIN_SHARDS), **dict.fromkeys(BIN_SHARDS, "")}, list(BIN_SHARDS)),
    "stale index of pickles": ({BIN: "", BIN_INDEX: index_of(*BIN_SHARDS)}, [BIN]),
    "one of many names": ({BIN: "", "a.pth": "", "b.pth": ""}, [BIN]),
    "variants and a pickle": ({"model.fp16.safetensors": "", "model.int8.safetensors": "", BIN: ""}, [BIN]),
    "OpenCLIP's beside it": ({BIN: "", "open_clip_model.safetensors": "", "open_clip_pytorch_model.bin": ""}, [BIN]),
    "OpenCLIP's alone": ({"open_clip_pytorch_model.bin": ""}, ["open_clip_pytorch_model.bin"]),
    "an adapter beside it": ({BIN: "", "adapter_model.safetensors": ""}, [BIN]),
}


@pytest.mark.parametrize(("files", "expected"), CHOICES.values(), ids=CHOICES)
def test_which_files_are_read(files: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert hubs.choose_weights(list(files), tmp_path, "here") == expected


NO_CHOICES: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({"config.json": ""}, "has no weights in safetensors or PyTorch's format"),
    "TensorFlow's": ({"tf_model.h5": ""}, "(it has tf_model.h5, which is not read)"),
    "Flax's": ({"flax_model.msgpack": ""}, "(it has flax_model.msgpack, which is not read)"),
    "NumPy's": ({"vit_base.npz": ""}, "(it has vit_base.npz, which is not read)"),
    "PEFT's": ({ADAPTER: "{}", "adapter_model.safetensors": ""}, "and not the weights that it changes: merge it"),
    "several": ({"a.safetensors": "", "b.safetensors": ""}, "has 2 files of weights (a.safetensors, b.safetensors)"),
    "several pickles": ({"a.pth": "", "b.pt": ""}, "--weights FILE names one"),
    "what is left of training": (dict.fromkeys(LEFT_OVER, ""), "has no weights"),
    "a shard is lost": ({INDEX: index_of(*SHARDS), SHARDS[0]: ""}, f"lacks {SHARDS[1]}, a shard that its {INDEX}"),
    "a shard of another name is lost": (
        {INDEX: index_of("a.safetensors", "b.safetensors"), "a.safetensors": ""},
        "lacks b.safetensors",
    ),
    "a shard of pickles is lost": ({BIN_INDEX: index_of(*BIN_SHARDS), BIN_SHARDS[1]: ""}, f"lacks {BIN_SHARDS[0]}"),
    "the index is lost": (dict.fromkeys(SHARDS, ""), f"has {SHARDS[0]}, a shard, but no index of the shards"),
    "an index that leaves its folder": ({INDEX: index_of("../a.safetensors")}, "file of its own folder"),
    "an index of pickles that leaves its folder": ({BIN_INDEX: index_of("/a.bin")}, "file of its own folder"),
    "an index of another format": ({INDEX: index_of("a.bin"), "a.bin": "", "b.bin": ""}, "is no .safetensors file"),
}


@pytest.mark.parametrize(("files", "told"), NO_CHOICES.values(), ids=NO_CHOICES)
def test_where_it_can_t_be_told_the_line_says_what_there_is(
    files: dict[str, str], told: str, tmp_path: Path, tiny_timm: Path
) -> None:
    shutil.copy(tiny_timm / "config.json", tmp_path)
    for name, content in files.items():
        if name != "config.json":
            (tmp_path / name).write_text(content)
    said = refusal(tmp_path)
    assert told in said
    assert str(tmp_path) in said


@pytest.mark.parametrize("index", [index_of(*SHARDS), index_of("../a.safetensors"), "{", "<html>"])
def test_an_index_beside_a_whole_file_is_passed_over_with_a_line(
    index: str, tmp_path: Path, tiny_timm: Path, tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tiny_timm, tiny_vit):
        model = shutil.copytree(folder, tmp_path / folder.name)
        (model / INDEX).write_text(index)
        require_same(load(model), load(folder))
        told = f"warning: {WHOLE} is read, which is whole; {INDEX} beside it is passed over\n"
        assert capsys.readouterr().err == told


def test_an_adapter_is_never_passed_over_without_a_line(
    tmp_path: Path, tiny_timm: Path, tiny_vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lies beside weights that it changes, or that it has been merged into: nothing in the folder says which."""
    for folder in (tiny_timm, tiny_vit):
        model = shutil.copytree(folder, tmp_path / folder.name)
        (model / ADAPTER).write_text('{"peft_type": "LORA"}')
        (model / "adapter_model.safetensors").write_bytes(b"")
        require_same(load(model), load(folder))
        told = capsys.readouterr().err
        assert told.startswith(f"warning: {WHOLE} is read without the adapter beside it; ")
        assert told.count("\n") == 1
        (model / "config.json").unlink()
        assert f"holds an adapter ({ADAPTER}) and no model: merge it" in refusal(model)


def test_an_index_that_is_used_or_of_no_concern_is_no_matter_for_a_line(
    tmp_path: Path, tiny_timm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny_timm, tmp_path / "one shard")
    (model / WHOLE).rename(model / "only.safetensors")
    (model / INDEX).write_text(index_of("only.safetensors"))
    (model / BIN_INDEX).write_text(index_of(*BIN_SHARDS))
    load(model)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------ what lies in a file's place
def lfs_pointer(version: str = "https://git-lfs.github.com/spec/v1") -> bytes:
    return f"version {version}\noid sha256:{'0' * 64}\nsize 4050000000\n".encode()


LFS, PAGE = "is a git-lfs pointer, not the file itself: run `git lfs", "is a page of HTML or XML, not the file itself"
STAND_INS = {
    "git-lfs pointer": (lfs_pointer(), LFS),
    "git-lfs pointer of its first days": (lfs_pointer("https://hawser.github.com/spec/v1"), LFS),
    "HTML": (b"<!DOCTYPE html><html><body>Forbidden</body></html>", PAGE),
    "HTML after white space": (b"\n\n  <HTML>\n<title>504 Gateway Time-out</title>" + b" " * 5000, PAGE),
    "HTML with a BOM": (b"\xef\xbb\xbf<!doctype html><p>Anmelden</p>", PAGE),
    "XML of a bucket": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', PAGE),
    "nothing": (b"", "is empty: "),
}
TEXTS = {
    "a hub's word": (b"Entry not found", "is a text (Entry not found), not the file itself"),
    "a hub's JSON": (b'{"error":"Repository not found"}', 'is a text ({"error":"Repository not found"})'),
}


def place(content: bytes, name: str, folder: Path, target: Path) -> Path:
    """A copy of a checkpoint that has this content as a file of this name, and no other weights if that is one."""
    shutil.copytree(folder, target)
    if name != "config.json":
        (target / WHOLE).unlink()
    (target / name).unlink(missing_ok=True)
    (target / name).write_bytes(content)
    return target


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("name", [WHOLE, BIN, "vit.pth", INDEX, "config.json"])
@pytest.mark.parametrize(("content", "told"), STAND_INS.values(), ids=STAND_INS)
def test_what_lies_in_a_files_place_is_named(
    content: bytes, told: str, name: str, library: str, tmp_path: Path, tiny_timm: Path, tiny_vit: Path
) -> None:
    said = refusal(place(content, name, tiny_timm if library == "timm" else tiny_vit, tmp_path / "model"))
    assert f"{tmp_path / 'model' / name} {told}" in said


@pytest.mark.parametrize("name", [WHOLE, BIN])
@pytest.mark.parametrize(("content", "told"), TEXTS.values(), ids=TEXTS)
def test_a_text_in_the_place_of_weights_is_shown(
    content: bytes, told: str, name: str, tmp_path: Path, tiny_timm: Path
) -> None:
    assert told in refusal(place(content, name, tiny_timm, tmp_path / "model"))


def test_a_shard_and_a_preprocessing_can_be_pointers_too(tmp_path: Path, tiny_vit: Path) -> None:
    sharded = place(b"", SHARDS[0], tiny_vit, tmp_path / "sharded")
    (sharded / SHARDS[0]).unlink()
    shutil.copy(tiny_vit / WHOLE, sharded / SHARDS[0])
    (sharded / SHARDS[1]).write_bytes(lfs_pointer())
    (sharded / INDEX).write_text(index_of(*SHARDS))
    assert f"{SHARDS[1]} {LFS}" in refusal(sharded)
    preprocessed = shutil.copytree(tiny_vit, tmp_path / "preprocessed")
    (preprocessed / "preprocessor_config.json").write_bytes(lfs_pointer())
    assert f"preprocessor_config.json {LFS}" in refusal(preprocessed)


@pytest.mark.parametrize(("content", "told"), STAND_INS.values(), ids=STAND_INS)
def test_a_saved_reference_can_be_one_too(content: bytes, told: str, tmp_path: Path) -> None:
    """A published reference lies in git-lfs as weights do."""
    from common.accuracy import saved_reference

    (tmp_path / "reference.safetensors").write_bytes(content)
    with pytest.raises(UserError) as caught:
        saved_reference._read(tmp_path / "reference.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'reference.safetensors'} {told}")


def test_weights_under_the_name_of_the_other_format_are_told(tmp_path: Path, tiny_timm: Path) -> None:
    content = (tiny_timm / WHOLE).read_bytes()
    assert "rename it to end in .safetensors" in refusal(place(content, BIN, tiny_timm, tmp_path / "a"))
    torch.save(load_file(tiny_timm / WHOLE), tmp_path / "saved")
    content = (tmp_path / "saved").read_bytes()
    assert "rename it to end in .bin" in refusal(place(content, WHOLE, tiny_timm, tmp_path / "b"))


# -------------------------------------------------------------------------------------------- old names, and messages
def saved_preprocessing(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    content = {key: value for key, value in {**TINY_PREPROCESSING, **changes}.items() if value is not None}
    (target / "preprocessor_config.json").write_text(json.dumps(content))
    return target


# What transformers 4.26 and newer call it, by transformers' own change of names.
OLD_NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "image_processor_type": ({"image_processor_type": "ViTFeatureExtractor"}, "ViTImageProcessor"),
    "feature_extractor_type": (
        {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
        "ViTImageProcessor",
    ),
    "both": (
        {"image_processor_type": "ViTFeatureExtractor", "feature_extractor_type": "ViTFeatureExtractor"},
        "ViTImageProcessor",
    ),
    "another family's": (
        {"image_processor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "do_center_crop": True},
        "CLIPImageProcessor",
    ),
    "ConvNeXT's": (
        {"image_processor_type": "ConvNextFeatureExtractor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
        "ConvNextImageProcessor",
    ),
    "that of today beside another's": (
        {"image_processor_type": "ViTImageProcessor", "feature_extractor_type": "WhisperFeatureExtractor"},
        "ViTImageProcessor",
    ),
    "with Fast": ({"image_processor_type": "ViTImageProcessorFast"}, "ViTImageProcessor"),
}


@pytest.mark.parametrize(("changes", "today"), OLD_NAMES.values(), ids=OLD_NAMES)
def test_an_old_name_is_that_of_today(changes: dict[str, Any], today: str, tmp_path: Path, tiny_vit: Path) -> None:
    """The pixels are those of transformers' own class of today's name."""
    found = load(saved_preprocessing(tiny_vit, tmp_path / "model", **changes))
    settings = {key: value for key, value in {**TINY_PREPROCESSING, **changes}.items() if not key.endswith("_type")}
    of_today = getattr(transformers, today if hasattr(transformers, f"{today}Pil") else f"{today}Fast")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    expected = of_today(**settings)(images=noise, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(found.preprocess(noise), expected)
    assert found.preprocessing["source"] == "preprocessor_config.json"


FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an unknown preprocessing": ({}, {"image_processor_type": "EvaImageProcessor"}, "EvaImageProcessor"),
    "an unknown old preprocessing": ({}, {"image_processor_type": "EvaFeatureExtractor"}, "EvaImageProcessor"),
    "a preprocessing of nonsense": ({}, {"size": "large"}, "ViTImageProcessor"),
    "an unknown type": ({"model_type": "evaclip"}, {}, "evaclip"),
    "a size of nonsense": ({"hidden_size": "large"}, {}, "transformers can't load"),
    "code that comes with it": ({"model_type": "evaclip", "auto_map": {"AutoModel": "m.M"}}, {}, "auto_map"),
}


@pytest.mark.parametrize("random", [False, True], ids=["weights", "random"])
@pytest.mark.parametrize(("config", "preprocessing", "told"), FAILURES.values(), ids=FAILURES)
def test_no_temporary_folder_is_in_a_message(
    config: dict[str, Any],
    preprocessing: dict[str, Any],
    told: str,
    random: bool,
    tmp_path: Path,
    tiny_vit: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = saved_preprocessing(tiny_vit, tmp_path / "model", **preprocessing)
    own = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**own, **config}))
    (tmp_path / "STAGING").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "STAGING"))
    said = refusal(model, "random" if random else None)
    assert told in said
    assert "STAGING" not in said


# ---------------------------------------------------------------------------------------------- what torch.save wrote
def as_pickle(folder: Path, target: Path, name: str, content: Callable[[State], object], **how: Any) -> Path:
    """A copy of a checkpoint whose weights torch.save wrote."""
    shutil.copytree(folder, target)
    state = load_file(target / WHOLE)
    (target / WHOLE).unlink()
    torch.save(content(state), target / name, **how)
    return target


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def as_parameters(state: State) -> dict[str, torch.Tensor]:
    return {
        key: torch.nn.Parameter(value) if value.is_floating_point() else value.clone() for key, value in state.items()
    }


def turned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, in memory in another order."""
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
SAVED: dict[str, tuple[str, Callable[[State], object]]] = {
    "alone": (BIN, lambda state: state),
    "of another name": ("dino_vitbase8_pretrain.pth", lambda state: state),
    "parameters": (BIN, as_parameters),
    "MAE's and DeiT's": ("vit.pth", lambda state: {"model": state}),
    "a training's": ("checkpoint.pt", lambda s: {"epoch": 3, "state_dict": s, "optimizer": OPTIMIZER, "best": 0.8}),
    "lightning's": ("last.ckpt", lambda state: {"state_dict": state, "callbacks": {}, "loops": {"n": torch.zeros(1)}}),
    "of timm's training": ("best.pth.tar", lambda s: {"arch": "vit", "state_dict": zeros(s), "state_dict_ema": s}),
    "ConvNeXt's": ("convnext.pth", lambda state: {"model": zeros(state), "model_ema": state}),
    "under a name of its own": ("ijepa.pth.tar", lambda state: {"target_encoder": state, "epoch": 300}),
    "transposed and back": (BIN, lambda state: {key: turned(value) for key, value in state.items()}),
    "in float64": (BIN, lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()}),
}


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("zipped", [True, False], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(("name", "content"), SAVED.values(), ids=SAVED)
def test_what_torch_saved_is_what_safetensors_hold(
    name: str,
    content: Callable[[State], object],
    zipped: bool,
    library: str,
    tmp_path: Path,
    tiny_timm: Path,
    tiny_vit: Path,
) -> None:
    """As a snapshot folder, and as a file beside its config."""
    source = tiny_timm if library == "timm" else tiny_vit
    model = as_pickle(source, tmp_path / "model", name, content, _use_new_zipfile_serialization=zipped)
    expected = load(source)
    for encoder in (load(model), load(model, model / name)):
        assert encoder.library == library
        assert {parameter.dtype for parameter in encoder.module.parameters()} == {torch.float32}
        assert encoder.weights_sha256 == weights.files_sha256([model / name])
        require_same(encoder, expected)
    if library == "timm":
        require_same(load(tiny_timm, model / name), expected)


def test_which_weights_of_several_are_read_is_said(
    tmp_path: Path, tiny_timm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(as_pickle(tiny_timm, tmp_path / "model", "a.pth", lambda state: {"model": zeros(state), "model_ema": state}))
    assert capsys.readouterr().err == "warning: a.pth holds model_ema, model: model_ema is read, as timm does\n"


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_shards_of_pickles_are_read_by_their_index(
    library: str, tmp_path: Path, tiny_timm: Path, tiny_vit: Path
) -> None:
    source = tiny_timm if library == "timm" else tiny_vit
    model = shutil.copytree(source, tmp_path / "model")
    state = load_file(model / WHOLE)
    (model / WHOLE).unlink()
    names = {key: BIN_SHARDS[at % 2] for at, key in enumerate(sorted(state))}
    for shard in BIN_SHARDS:
        torch.save({key: state[key].clone() for key, name in names.items() if name == shard}, model / shard)
    (model / BIN_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    encoder = load(model)
    assert encoder.weights_sha256 == weights.files_sha256([model / shard for shard in BIN_SHARDS])
    require_same(encoder, load(source))
    torch.save({key: state[key] for key in list(names)[1::2]}, model / BIN_SHARDS[0])  # without the other half
    assert "missing: " in refusal(model)


@pytest.mark.parametrize("saved_as", ["CLIPModel", "ViTMAEForPreTraining", "SwinForImageClassification"])
def test_other_parts_of_a_pickle_are_left_out_as_of_safetensors(saved_as: str, tmp_path: Path) -> None:
    family = next(each for each in FAMILIES if each.saved_as == saved_as)
    family.build().save_pretrained(tmp_path / "safe")
    pickled = load(as_pickle(tmp_path / "safe", tmp_path / "pickled", BIN, lambda state: state))
    safe = load(tmp_path / "safe")
    assert pickled.keys == safe.keys
    assert pickled.keys.left_out
    require_same(pickled, safe)


def test_what_old_versions_of_clip_saved_too_is_no_matter(tmp_path: Path) -> None:
    """The numbers of the positions, which are computed today."""
    model: Any = Family("clip", "CLIPModel", dict(TOWERS), lambda model, pixel_values: pixel_values).build()
    model.save_pretrained(tmp_path / "safe")
    numbers = {f"{tower}.embeddings.position_ids": torch.arange(5)[None] for tower in ("vision_model", "text_model")}
    pickled = as_pickle(tmp_path / "safe", tmp_path / "pickled", BIN, lambda state: {**state, **numbers})
    require_same(load(pickled), load(tmp_path / "safe"))


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_weights_that_torch_saved_stay_the_mapped_file(
    library: str, tmp_path: Path, tiny_timm: Path, tiny_vit: Path
) -> None:
    source = tiny_timm if library == "timm" else tiny_vit
    module = load(as_pickle(source, tmp_path / "mapped_pickle", BIN, lambda state: state)).module
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "mapped_pickle" in line]
    ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in maps]
    for name, parameter in module.named_parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges), name


class Program:
    """What runs a command when a pickle with it is loaded as Python does it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch was_run",)


def scripted(path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


CODE = "weights_only"
UNREADABLE: dict[str, tuple[object, str]] = {
    "a program": ({"a": Program()}, "system, which weights_only=True does not make"),
    "arguments of a training": (
        {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)},
        "argparse.Namespace",
    ),
    "a whole module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "NumPy's arrays": ({"a": np.zeros(2)}, "numpy"),
    "a tensor without a name": (torch.zeros(2), "holds Tensor, no weights by name"),
    "a list": ([torch.zeros(2)], "holds list, no weights by name"),
    "no tensor": ({"epoch": 3}, "holds dict, no weights by name"),
    "teacher and student": ({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.ones(1)}}, "(student, teacher)"),
    "tensors without data": ({"a": torch.zeros(2, device="meta")}, "sparse or without their data: a"),
    "sparse tensors": ({"a": torch.eye(2).to_sparse()}, "sparse or without their data: a"),
    "integers": ({"a.weight": torch.zeros(2, dtype=torch.int8)}, "quantised weights, which are not read (a.weight"),
    "float8": ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "quantised weights, which are not read (a torch.float8"),
}


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("zipped", [True, False], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(("content", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_pickle_of_more_than_weights_is_refused_with_what_helps(
    content: object,
    told: str,
    zipped: bool,
    library: str,
    tmp_path: Path,
    tiny_timm: Path,
    tiny_vit: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tiny_timm if library == "timm" else tiny_vit
    if "float8" in told and not zipped:
        pytest.skip("torch itself can't read it back")
    try:
        model = as_pickle(source, tmp_path / "m", BIN, lambda _: content, _use_new_zipfile_serialization=zipped)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        pytest.skip(f"the old format does not hold it: {error}")
    said = refusal(model)
    assert str(model / BIN) in said
    assert told in said
    if "namely" in said or "by name" in said:
        assert "safetensors.torch.save_file" in said
    assert not (tmp_path / "was_run").exists()


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-900]), "is no whole file of torch.save"),
    "its first half": (lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]), "is no whole file"),
    "noise": (lambda file: file.write_bytes(np.random.default_rng(0).bytes(9000)), "is no whole file of torch.save"),
    "a TorchScript program": (scripted, "is a TorchScript program"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["", "before torch 1.6"])
@pytest.mark.parametrize(("damage", "told"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_pickle_is_told(
    damage: Callable[[Path], object], told: str, zipped: bool, tmp_path: Path, tiny_timm: Path
) -> None:
    model = as_pickle(tiny_timm, tmp_path / "m", BIN, lambda state: state, _use_new_zipfile_serialization=zipped)
    damage(model / BIN)
    assert told in refusal(model)


def test_before_torch_2_6_no_pickle_is_read(tmp_path: Path, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """weights_only could be got round then."""
    model = as_pickle(tiny_timm, tmp_path / "m", BIN, lambda state: state)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "is read safely by torch 2.6 and newer alone, not by 2.5.1" in refusal(model)
    save_file(torch.load(model / BIN, weights_only=True), model / WHOLE)
    load(model)


def test_a_vit_that_transformers_saved_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    folder = save_transformers(tmp_path / "vit", pooler=True)
    model = as_pickle(folder, tmp_path / "pickled", BIN, lambda state: state)
    own = transformers.ViTModel.from_pretrained(model, use_safetensors=False)
    encoder = load(model)
    pixel_values = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(pixel_values)[0], own(pixel_values).pooler_output)
