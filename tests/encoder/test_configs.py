"""A config.json gives the model that it describes, or is refused: transformers ignores what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.checkpoints import (
    edit_config,
    embed,
    load,
    pixels,
    rewrite,
    save_class,
    save_timm_model,
    timm_model,
)
from helpers.transformers_families import TEXT, VIT

from common.errors import UserError

SIZES = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 24}
DINOV2 = {"architectures": ["Dinov2Model"], "model_type": "dinov2", "image_size": 32, "patch_size": 8}
VERSION = {"transformers_version": "4.40.0", "torch_dtype": "float32"}

# A config.json, and what is told of it.
ANOTHER_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "a class of code on the hub, of a type that transformers has": (
        {"architectures": ["AIMv2Model"], "auto_map": {"AutoModel": "modeling_aimv2.AIMv2Model"},
         "model_type": "aimv2", **SIZES, "image_size": 28, "patch_size": 14},
        "of AIMv2Model, which transformers .* does not have; other code is never run",
    ),
    "the same without code": ({"architectures": ["EvaCLIPModel"], "model_type": "clip", **VERSION}, "of EvaCLIPModel"),
    "a class of one's own": ({"architectures": ["MyViT"], "model_type": "vit", **VIT}, "of MyViT, which"),
    "another model's class": (
        {"architectures": ["Dinov2Model"], "model_type": "vit", **VIT},
        "of Dinov2Model, but of another model's type, vit",
    ),
    "flat, where the sizes belong in a vision_config": (
        {"architectures": ["Aimv2Model"], "model_type": "aimv2", **SIZES, **VERSION},
        "sets hidden_size, intermediate_size, num_hidden_layers, ..., which Aimv2Config does not take",
    ),
    "the names of the model's first authors": (
        {**DINOV2, "embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn_layer": "swiglufused"},
        "sets embed_dim, depth, num_heads, which Dinov2Config does not take",
    ),
    "the names of open_clip": (
        {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "width": 99, "layers": 48, **VERSION},
        "sets width, layers, which CLIPVisionConfig does not take",
    ),
    "inside a vision_config": (
        {"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": {"width": 1664, "layers": 48},
         "text_config": TEXT},
        "sets width, layers, which CLIPVisionConfig does not take",
    ),
    "registers, of a type without": ({**DINOV2, "num_register_tokens": 4}, "sets num_register_tokens"),
    "a size that the class computes, and otherwise": (
        {"architectures": ["SwinModel"], "model_type": "swin", "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
         "image_size": 64, "window_size": 4, "hidden_size": 1024},
        "sets hidden_size, which SwinConfig does not take",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANOTHER_MODELS)
def test_a_config_of_another_model_is_refused(name: str, tmp_path: Path) -> None:
    config, told = ANOTHER_MODELS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=told) as caught:
        load(tmp_path, "random")
    assert "\n" not in str(caught.value)


# What earlier versions of transformers wrote into a config of a tower: the whole of how texts are generated.
GENERATION = {
    "_name_or_path": "", "add_cross_attention": False, "bad_words_ids": None, "bos_token_id": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "decoder_start_token_id": None,
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "eos_token_id": None, "exponential_decay_length_penalty": None, "finetuning_task": None, "length_penalty": 1.0,
    "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1,
    "num_return_sequences": 1, "pruned_heads": {}, "repetition_penalty": 1.0, "temperature": 1.0,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": None,
    "torchscript": False, "typical_p": 1.0, "tf_legacy_loss": False, "use_bfloat16": False,
}  # fmt: skip
COMMON = {"_name_or_path": "somewhere/else", "torch_dtype": "float32", "transformers_version": "4.13.0.dev0"}
SWIN = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 64, "patch_size": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

# Configs of the shapes that the hubs have, at small sizes, with all the keys that do nothing.
OF_THE_HUBS: dict[str, dict[str, Any]] = {
    "a ViT classifier": {
        "architectures": ["ViTForImageClassification"], "model_type": "vit", **VIT, **COMMON, "qkv_bias": True,
        "hidden_act": "gelu", "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1},
        "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "initializer_range": 0.02,
        "problem_type": "single_label_classification", "layer_norm_eps": 1e-12,
    },
    "Swin, with what follows from its depths": {
        "architectures": ["SwinForImageClassification"], "model_type": "swin", **SWIN, **COMMON, "path_norm": True,
        "hidden_size": 32, "num_layers": 2, "encoder_stride": 32, "use_absolute_embeddings": False,
    },
    "SegFormer, with keys of an earlier version": {
        "architectures": ["SegformerForImageClassification"], "model_type": "segformer", **STAGES, **COMMON,
        "downsampling_rates": [1, 4, 8, 16], "image_size": 224, "reshape_last_stage": True, "num_encoder_blocks": 4,
        "num_attention_heads": [1, 2, 2, 2], "strides": [4, 2, 2, 2],
    },
    "CLIP, dumped whole": {
        "architectures": ["CLIPModel"], "model_type": "clip", **COMMON, "projection_dim": 24, "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "text_config_dict": None, "vision_config_dict": None,
        "vision_config": {**GENERATION, **VIT, "dropout": 0.0, "projection_dim": 24, "model_type": "clip_vision_model"},
        "text_config": {**GENERATION, **TEXT, "model_type": "clip_text_model"},
    },
    "AltCLIP, with the text tower's keys at the top": {
        "architectures": ["AltCLIPModel"], "model_type": "altclip", **COMMON, "num_layers": 3, "direct_kd": False,
        "projection_dim": 24, "vision_config": {**GENERATION, **VIT}, "text_config": {**TEXT, "project_dim": 24},
    },
    "Hiera, with a count of its stages": {
        "architectures": ["HieraModel"], "model_type": "hiera", **COMMON, "embed_dim": 8, "image_size": [64, 64],
        "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "num_layers": 4, "hidden_size": 64,
    },
    "without a class": {"model_type": "vit", **VIT},
    "said twice": {"architectures": ["Dinov2Model"], "model_type": "dinov2", "image_size": 32, "patch_size": 8,
                   "hidden_size": 32, "embed_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "somebody's notes": {"architectures": ["ViTModel"], "model_type": "vit", **VIT, "license": "mit", "seed": 7,
                         "num_train_epochs": 300, "freeze_layers": 2, "lr_layer_decay": 0.65, "tags": ["a"]},
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_HUBS)
def test_a_config_as_the_hubs_have_it_gives_its_own_model(name: str, tmp_path: Path) -> None:
    """As many weights as transformers' own class has, built from the sizes alone."""
    config = OF_THE_HUBS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load(tmp_path, "random")
    made = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    if hasattr(made, "vision_model"):
        parts = (made.vision_model, getattr(made, "visual_projection", None))
        expected = sum(each.numel() for part in parts if part for each in part.parameters())
    else:
        expected = sum(each.numel() for key, each in made.named_parameters() if not key.startswith("pooler."))
    assert encoder.params == expected
    assert encoder.input_size[1] in (32, 64, 224)


# What a config.json may ask of whoever loads it, of which nothing is the model's.
REQUESTS: dict[str, dict[str, Any]] = {
    "an attention of a package": {"_attn_implementation": "flash_attention_2"},
    "the same as it is written by hand": {"attn_implementation": "flash_attention_2"},
    "an attention of a hub": {"attn_implementation": "kernels-community/flash-attn2"},
    "torch's attention": {"_attn_implementation": "sdpa"},
    "no special attention": {"attn_implementation": "eager"},
    "a quantisation that was undone": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "another": {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
    "another that needs a package": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_config_decides_what_is_computed_and_not_by_what(name: str, tmp_path: Path) -> None:
    """The model is the one that was saved, with its floats, and asks for no package."""
    model = save_class(tmp_path / "vit", "ViTModel", "vit", **VIT)
    edit_config(tmp_path / "vit", **REQUESTS[name])
    towers = save_class(tmp_path / "clip", "CLIPModel", "clip", vision_config=VIT, text_config=TEXT, projection_dim=24)
    vision = json.loads((tmp_path / "clip" / "config.json").read_text())["vision_config"]
    edit_config(tmp_path / "clip", vision_config={**vision, **REQUESTS[name]})
    for folder, own in (("vit", model), ("clip", towers.vision_model)):
        encoder = load(tmp_path / folder)
        with torch.inference_mode():
            expected = own(pixels(encoder)).pooler_output
            expected = towers.visual_projection(expected) if folder == "clip" else expected
            torch.testing.assert_close(embed(encoder, pixels(encoder)), expected)


def test_weights_that_are_quantised_still_are_refused(tmp_path: Path) -> None:
    save_class(tmp_path, "ViTModel", "vit", **VIT)
    edit_config(tmp_path, **REQUESTS["a quantisation that was undone"])
    rewrite(tmp_path, {"embeddings.patch_embeddings.projection.weight": torch.zeros(9, dtype=torch.uint8)})
    with pytest.raises(UserError, match="holds quantised weights, which are not read"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "key"), [("Swin, with what follows from its depths", "path_norm")])
def test_keys_without_effect_are_named(name: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OF_THE_HUBS[name]))
    (note,) = load(tmp_path, "random").notes
    assert note == f"config.json holds keys that SwinConfig does not declare: {key}"


def test_the_parameters_follow_the_config(tmp_path: Path) -> None:
    """Two sizes give two models, never one."""
    found = []
    for width in (32, 64):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **VIT, "hidden_size": width}))
        found.append(load(tmp_path, "random").params)
    assert found[1] > 2 * found[0]


def test_weights_that_fit_prove_the_sizes_that_show_in_them(tmp_path: Path) -> None:
    """The count of heads shows in no weight: that is still refused."""
    ratio = {**VIT, "mlp_ratio": 2}
    save_class(tmp_path, "Dinov2Model", "dinov2", **ratio)  # with an intermediate_size that it does not take
    assert load(tmp_path).params > 0
    with pytest.raises(UserError, match="sets intermediate_size, which Dinov2Config does not take"):
        load(tmp_path, "random")
    edit_config(tmp_path, num_heads=4)
    with pytest.raises(UserError, match="sets num_heads, which Dinov2Config does not take"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architecture": "no_such_vit"}, "Unknown model"),
        ({"model_args": {"width": 1664}}, "unexpected keyword argument"),
        ({"embed_dim": 1664, "depth": 48}, "sets embed_dim, depth"),
        ({"num_features": 1664}, "1664 features, but test_vit has 64"),
    ],
)
def test_a_timm_config_of_another_model_is_refused(config: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder = save_timm_model(tmp_path, timm_model(), **config)
    with pytest.raises(UserError, match=told):
        load(folder, "random")


def test_a_timm_config_with_what_timm_writes_itself_is_taken(tmp_path: Path) -> None:
    import timm.models

    model = timm_model(num_classes=3)
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    assert load(tmp_path).label is not None
