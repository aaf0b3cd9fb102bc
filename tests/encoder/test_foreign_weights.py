"""Weights that others saved: wrapped, without counters, of another size, converted. What was done to them is said."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import Runner
from helpers.checkpoints import (
    WEIGHTS,
    State,
    embed,
    load,
    pixels,
    rewrite,
    save_class,
    save_state,
    save_timm_model,
    timm_model,
)
from helpers.transformers_families import STAGES, TOWERS, VIT
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn

from common.encoder import weights
from common.errors import UserError

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "net.encoder.", "student.module.")
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTModel": ("vit", VIT),
    "ViTForImageClassification": ("vit", VIT),
    "ResNetForImageClassification": ("resnet", {"embedding_size": 8, **STAGES}),
    "CLIPModel": ("clip", TOWERS),
    "CLIPVisionModelWithProjection": ("clip_vision_model", {**VIT, "projection_dim": 24}),
}


# ------------------------------------------------------------------------------------------------ the names' prefixes
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet"])
def test_a_prefix_of_all_names_is_taken_away_from_a_timm_models(architecture: str, prefix: str, tmp_path: Path) -> None:
    model = timm_model(architecture, num_classes=10)
    folder = save_timm_model(tmp_path, model, architecture)
    rewrite(folder, prefix=prefix)
    encoder = load(folder)
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), model(pixels(encoder)))
    assert encoder.keys.changes == [f"the prefix {prefix} of all names is taken away"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["ViTModel", "ViTForImageClassification"])
def test_a_prefix_of_all_names_is_taken_away_from_a_transformers_models(name: str, prefix: str, tmp_path: Path) -> None:
    check_without_prefix(name, prefix, tmp_path)


@pytest.mark.parametrize("name", list(CLASSES)[2:])
def test_a_prefix_is_taken_away_from_other_classes_too(name: str, tmp_path: Path) -> None:
    check_without_prefix(name, "_orig_mod.", tmp_path)


def check_without_prefix(name: str, prefix: str, folder: Path) -> None:
    model_type, sizes = CLASSES[name]
    save_class(folder, name, model_type, **sizes)
    plain = load(folder)
    rewrite(folder, prefix=prefix)
    encoder = load(folder)
    torch.testing.assert_close(embed(encoder, pixels(encoder)), embed(plain, pixels(encoder)))
    assert len(encoder.keys.left_out) == len(plain.keys.left_out)
    assert encoder.keys.changes == [f"the prefix {prefix} of all names is taken away"]
    assert not plain.keys.changes


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_prefix_of_some_names_is_refused(library: str, tmp_path: Path) -> None:
    """It can be another model's, or the same weights twice."""
    if library == "timm":
        save_timm_model(tmp_path, timm_model())
    else:
        save_class(tmp_path, "ViTModel", "vit", **VIT)
    rewrite(tmp_path, prefix="module.")
    rewrite(tmp_path, {"ema.decay": torch.zeros(1)})
    with pytest.raises(UserError, match=r"missing: .*unexpected: "):
        load(tmp_path)


def test_the_prefixes_that_names_share() -> None:
    assert list(weights.shared_prefixes(["a.b.c", "a.b.d.e"])) == ["a.", "a.b."]
    assert list(weights.shared_prefixes(["a.b", "a.c"])) == ["a."]
    assert list(weights.shared_prefixes(["a.b", "ab.c"])) == []
    assert list(weights.shared_prefixes(["a", "a.b"])) == []
    assert list(weights.shared_prefixes(["a.b"])) == ["a."]
    assert list(weights.shared_prefixes([])) == []


# What is around the modules of each block when they are saved, by the names of torch's own wrappers.
WRAPPED = {
    "compiled one by one": "_orig_mod.",
    "recomputed in the backward pass": "_checkpoint_wrapped_module.",
    "sharded": "_fsdp_wrapped_module.",
    "recomputed and compiled": "_checkpoint_wrapped_module._orig_mod.",
}


@pytest.mark.parametrize("whole", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_of_some_modules_are_taken_out_of_the_names(how: str, whole: str, tmp_path: Path) -> None:
    """The outputs are those of the models that were saved."""
    own = timm_model(num_classes=10)
    save_timm_model(tmp_path / "timm", own)
    other = save_class(tmp_path / "transformers", "ViTModel", "vit", **VIT)
    for folder, model in ((tmp_path / "timm", own), (tmp_path / "transformers", other)):
        state = load_file(folder / WEIGHTS)
        blocks = re.compile(r"^((?:blocks|layers|encoder\.layer)\.\d+\.)")
        assert sum(bool(blocks.match(key)) for key in state) > len(state) / 2
        save_state(folder / WEIGHTS, {whole + blocks.sub(rf"\1{WRAPPED[how]}", key): state[key] for key in state})
        encoder = load(folder)
        with torch.inference_mode():
            output = model(pixels(encoder))
            expected = output if model is own else output.pooler_output
            torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
        assert re.fullmatch(r"the wrappers (_\w+\.(, )?)+ are taken out of the names", encoder.keys.changes[0])


def test_weights_with_and_without_a_wrapper_are_refused(tmp_path: Path) -> None:
    folder = save_timm_model(tmp_path, timm_model())
    rewrite(folder, {"blocks.0._orig_mod.norm1.weight": torch.zeros(64)})
    with pytest.raises(UserError, match=r"1 unexpected: blocks\.0\._orig_mod\.norm1\.weight"):
        load(folder)


# ----------------------------------------------------------------------------------------------------- the counters
@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "levit_128s"])
def test_counters_that_evaluation_never_reads_may_be_missing(architecture: str, tmp_path: Path) -> None:
    model = timm_model(architecture)
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    assert len(state) < len(model.state_dict())
    encoder = load(f"timm/{architecture}", save_state(tmp_path / WEIGHTS, state))
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), model(pixels(encoder)))
    assert encoder.keys.missing == []
    del state[next(key for key in state if key.endswith("running_var"))]
    with pytest.raises(UserError, match=r"1 missing: .*running_var"):
        load(f"timm/{architecture}", save_state(tmp_path / WEIGHTS, state))


def test_counters_may_be_missing_from_a_transformers_model_too(tmp_path: Path) -> None:
    model = save_class(tmp_path, "ResNetModel", "resnet", embedding_size=8, **STAGES)
    counters = {key: None for key in model.state_dict() if key.endswith("num_batches_tracked")}
    rewrite(tmp_path, dict(counters))
    encoder = load(tmp_path)
    with torch.inference_mode():
        expected = model(pixels(encoder)).pooler_output.flatten(1)
        torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)
    rewrite(tmp_path, {next(key for key in model.state_dict() if key.endswith("running_mean")): None})
    with pytest.raises(UserError, match=r"1 missing: .*running_mean"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------ what timm would convert
def vit(side: int = 160, **options: Any) -> Any:
    return timm_model(img_size=side, **options)


RESAMPLED = {
    "absolute positions": ("test_vit", {"img_size": 224}, "pos_embed"),
    "tables of relative positions": (
        "beit_base_patch16_224",
        {"img_size": 160, "depth": 1, "embed_dim": 48, "num_heads": 2},
        "relative_position_bias_table",
    ),
    "relative positions along each side": ("mvitv2_tiny", {"img_size": 288}, "rel_pos_"),
}


@pytest.mark.parametrize("kind", RESAMPLED)
def test_weights_of_another_input_size_are_refused_unless_a_size_is_asked_for(kind: str, tmp_path: Path) -> None:
    """And then they are what timm's own conversion makes of them."""
    architecture, options, key = RESAMPLED[kind]
    other = timm_model(architecture, **options)
    size = {"test_vit": 160}.get(architecture, 224)
    args = {name: value for name, value in options.items() if name != "img_size"}
    own = {"input_size": [3, size, size], "fixed_input_size": True, "num_classes": other.num_classes}
    folder = save_timm_model(tmp_path, other, architecture, model_args=args, pretrained_cfg=own)
    with pytest.raises(
        UserError, match=rf"another input size than {architecture}'s: .*{key}.*--input-size N"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)

    encoder = load(folder, input_size=size)
    assert encoder.input_size == [3, size, size]
    assert any("resampled to the input size" in change and key in change for change in encoder.keys.changes)
    as_timm_does = timm.create_model(architecture, **args, img_size=size)
    convert = sys.modules[type(as_timm_does).__module__].checkpoint_filter_fn
    as_timm_does.load_state_dict(convert({k: v.clone() for k, v in other.state_dict().items()}, as_timm_does))
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), as_timm_does.eval()(pixels(encoder)))

    at_its_own = load(folder, input_size=options["img_size"])
    assert at_its_own.keys.changes == []
    with torch.inference_mode():
        torch.testing.assert_close(embed(at_its_own, pixels(at_its_own)), other(pixels(at_its_own)))


@pytest.mark.parametrize("input_size", [None, 160])
def test_patches_of_another_size_are_another_models(input_size: int | None, tmp_path: Path) -> None:
    """timm resamples their kernels; no size of the input asks for that."""
    folder = save_timm_model(tmp_path, vit(patch_size=8))
    with pytest.raises(UserError, match="holds patch embeddings of another size"):
        load(folder, input_size=input_size)


def openai_names(state: State) -> State:
    """A timm ViT's weights by the names of OpenAI's CLIP, which timm converts back."""
    names = {
        "patch_embed.proj": "conv1",
        "pos_embed": "positional_embedding",
        "cls_token": "class_embedding",
        "norm_pre": "ln_pre",
        "blocks": "transformer.resblocks",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
    }
    renamed = {}
    for key, value in state.items():
        new = "ln_post" + key[4:] if key.startswith("norm.") else key
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        renamed[f"visual.{new}"] = value
    for key in ("visual.positional_embedding", "visual.class_embedding"):
        renamed[key] = renamed[key].squeeze(0).squeeze(0)
    return {key: value for key, value in renamed.items() if not key.startswith("visual.head.")}


def clip_vit(**options: Any) -> Any:
    return vit(class_token=True, global_pool="token", pre_norm=True, num_classes=0, reg_tokens=0, **options)


CLIP_ARGS = {"class_token": True, "global_pool": "token", "pre_norm": True, "reg_tokens": 0}
TEXT = {
    "transformer.resblocks.0.ln_1.weight": torch.ones(8),
    "token_embedding.weight": torch.ones(9, 8),
    "ln_final.weight": torch.ones(8),
    "text_projection": torch.ones(8, 8),
    "positional_embedding": torch.ones(9, 8),
    "logit_scale": torch.ones(()),
}


def test_the_image_tower_of_a_clip_is_taken_and_its_text_tower_counted(tmp_path: Path) -> None:
    """The right weights are those of timm's own conversion."""
    model = clip_vit()
    folder = save_timm_model(tmp_path, model, model_args=CLIP_ARGS)
    state = {**openai_names(model.state_dict()), **TEXT}
    again = clip_vit()
    again.load_state_dict(checkpoint_filter_fn(dict(state), again), strict=True)
    save_state(folder / WEIGHTS, state)
    encoder = load(folder)
    with torch.inference_mode():
        torch.testing.assert_close(embed(encoder, pixels(encoder)), again(pixels(encoder)))
    assert sorted(encoder.keys.left_out) == sorted(TEXT)
    assert encoder.keys.changes == ["converted by timm"]


@pytest.mark.parametrize("key", ["adapter.weight", "pre_logits.fc.weight"])
def test_what_a_conversion_would_drop_is_refused(key: str, tmp_path: Path) -> None:
    """timm drops `pre_logits` from any ViT, and from a CLIP whatever is not below `visual.`"""
    if key.startswith("adapter"):
        folder = save_timm_model(tmp_path, clip_vit(), model_args=CLIP_ARGS)
        save_state(folder / WEIGHTS, openai_names(clip_vit().state_dict()))
    else:
        folder = save_timm_model(tmp_path, vit())
    load(folder)
    rewrite(folder, {key: torch.ones(8, 8)})
    with pytest.raises(UserError, match=rf"1 weights that test_vit has no place for and timm would drop: {key}"):
        load(folder)


def test_what_was_done_to_the_weights_is_printed_and_recorded(run_script: Runner, tmp_path: Path) -> None:
    folder = save_timm_model(tmp_path / "model", vit(224))
    rewrite(folder, prefix="module.")
    done = run_script("inference.py", "--model", folder, "--device", "cpu", "--input-size", 160)
    assert done.code == 0, done.stderr
    for words in (
        "the prefix module. of all names is taken away",
        "converted by timm",
        "1 resampled to the input size: pos_embed",
    ):
        assert f"\nConverted: {words}\n" in done.stdout
        assert f'"{words}"' in done.stdout
    assert run_script("inference.py", "--model", folder, "--device", "cpu").code == 2
