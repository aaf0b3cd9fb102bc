"""transformers' families of vision models, each with a config as small as it gets, and how its authors embed an image.

How they do is from the documentation of transformers' classes, and not from what this project gives. Its source stands
beside each way, and beside each family for which another than its class's own pooled output is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from conftest import TINY_VIT
from torch import Tensor

from common.encoder import random_weights

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

Embed = Callable[[Any, Tensor], Tensor]  # (the library's model, pixel_values [B, 3, H, W]) -> embedding [B, D]

VIT = {key: value for key, value in TINY_VIT.items() if key not in ("architectures", "model_type")}
RATIO = {**VIT, "mlp_ratio": 2}  # of the families that have no intermediate_size
del RATIO["intermediate_size"]
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
TOWERS = {"vision_config": VIT, "text_config": TEXT, "projection_dim": 24}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}


# -------------------------------------------------------------------------------- as the library documents it
def pooled(model: Any, pixel_values: Tensor) -> Tensor:
    """BaseModelOutputWithPooling: "pooler_output: last layer hidden-state [...] after further processing"."""
    return model(pixel_values=pixel_values).pooler_output.flatten(1)


def cls_token(model: Any, pixel_values: Tensor) -> Tensor:
    """The classifiers of these families: "a linear layer on top of the final hidden state of the [CLS] token"."""
    return model(pixel_values=pixel_values).last_hidden_state[:, 0]


def cls_token_value(model: Any, pixel_values: Tensor) -> Tensor:
    """BaseModelOutputWithCLSToken: "Classification token at the output of the last layer of the model"."""
    return model(pixel_values=pixel_values).cls_token_value[:, 0]


def mean_of_tokens(model: Any, pixel_values: Tensor) -> Tensor:
    """Of a model without a CLS token.

    IJepaForImageClassification computes its logits from `sequence_output.mean(dim=1)`, as the model's page embeds.
    HieraModelOutput: "Average pooling of the last layer hidden-state". AIMv2 without its head: its paper pools the
    patches' features by their average.
    """
    return model(pixel_values=pixel_values).last_hidden_state.mean(1)


def mean_without_cls(model: Any, pixel_values: Tensor) -> Tensor:
    """BeitModelOutputWithPooling, and those of Data2VecVision and InternVLVision: "Average of the last layer hidden
    states of the patch tokens (excluding the [CLS] token) if config.use_mean_pooling is set to True", as it is.
    """
    return model(pixel_values=pixel_values).last_hidden_state[:, 1:].mean(1)


def mean_of_map(model: Any, pixel_values: Tensor) -> Tensor:
    """The classifiers of these families average the last hidden state over its positions."""
    return model(pixel_values=pixel_values).last_hidden_state.mean((2, 3))


def image_embeds(model: Any, pixel_values: Tensor) -> Tensor:
    """CLIPVisionModelOutput: "The image embeddings obtained by applying the projection layer to the pooler_output"."""
    return model(pixel_values=pixel_values).image_embeds


def summary(model: Any, pixel_values: Tensor) -> Tensor:
    """RadioModelOutput: "Flattened summary embedding, gathered from the cls tokens selected by config.summary_idxs"."""
    return model(pixel_values=pixel_values).summary


def image_features(model: Any, pixel_values: Tensor) -> Tensor:
    """`get_image_features` of two towers; transformers 4.57 gives the projected tensor alone."""
    features = model.get_image_features(pixel_values=pixel_values)
    return features if isinstance(features, Tensor) else features.pooler_output


def all_patches_of_mae(model: Any, pixel_values: Tensor) -> Tensor:
    """The CLS token of a ViT-MAE that sees every patch, by its parts: patches with their positions, in their order."""
    embeddings = model.embeddings
    patches = embeddings.patch_embeddings(pixel_values) + embeddings.position_embeddings[:, 1:]
    cls = embeddings.cls_token + embeddings.position_embeddings[:, :1]
    hidden_state = torch.cat([cls.expand(len(patches), -1, -1), patches], dim=1)
    layers = model.layers if hasattr(model, "layers") else model.encoder.layer  # of transformers 5 and of 4.57
    for layer in layers:
        output = layer(hidden_state)
        hidden_state = output[0] if isinstance(output, tuple) else output
    return model.layernorm(hidden_state)[:, 0]


def inside(name: str, embed: Embed) -> Embed:
    """The embedding of a task model's encoder, which it holds under a name."""
    return lambda model, pixel_values: embed(getattr(model, name), pixel_values)


# --------------------------------------------------------------------------------------------------------- the families
@dataclass(frozen=True)
class Family:
    """A model type at its smallest, the class that saves its checkpoint, and the embedding of that class."""

    model_type: str
    saved_as: str
    sizes: dict[str, Any]
    embed: Embed = pooled
    unpooled: Embed | None = None  # with random weights, where a pooler that has weights is not built
    no_encoder: bool = False  # and to be refused

    @property
    def name(self) -> str:
        return f"{self.model_type}: {self.saved_as}"

    @property
    def config(self) -> Any:
        return transformers.AutoConfig.for_model(self.model_type, **self.sizes)

    def build(self) -> Any:
        """The model as its library builds it, with weights that make every part of it count."""
        torch.manual_seed(0)
        model = getattr(transformers, self.saved_as)._from_config(self.config)
        model.load_state_dict(random_weights.make_state(model, 0), strict=True)
        return model.eval().requires_grad_(False)


def family(
    model_type: str, saved_as: str, embed: Embed = pooled, unpooled: Embed | None = None, **sizes: Any
) -> Family:
    return Family(model_type, saved_as, sizes, embed, unpooled)


def no_encoder(model_type: str, saved_as: str, **sizes: Any) -> Family:
    return Family(model_type, saved_as, sizes, no_encoder=True)


ALL = (
    # those that the toolkit names
    family("vit", "ViTModel", unpooled=cls_token, **VIT),
    family("vit", "ViTForImageClassification", inside("vit", cls_token), **VIT),
    family(
        "vit_mae",
        "ViTMAEForPreTraining",
        inside("vit", all_patches_of_mae),
        **VIT,
        decoder_hidden_size=16,
        decoder_intermediate_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
    ),
    family("vit_mae", "ViTMAEModel", all_patches_of_mae, **VIT),
    family("deit", "DeiTModel", unpooled=cls_token, **VIT),
    family("deit", "DeiTForImageClassificationWithTeacher", inside("deit", cls_token), **VIT),
    family("beit", "BeitModel", unpooled=mean_without_cls, **VIT, use_relative_position_bias=True),
    family(
        "beit",
        "BeitForImageClassification",
        inside("beit", pooled),
        inside("beit", mean_without_cls),
        **VIT,
        use_shared_relative_position_bias=True,
    ),
    family("dinov2", "Dinov2Model", **RATIO),
    family("dinov2", "Dinov2ForImageClassification", inside("dinov2", pooled), **RATIO),
    family("dinov2_with_registers", "Dinov2WithRegistersModel", **RATIO, num_register_tokens=4),
    family("dinov3_vit", "DINOv3ViTModel", **VIT, num_register_tokens=4),
    family("dinov3_convnext", "DINOv3ConvNextModel", **STAGES),
    family("clip", "CLIPModel", image_features, **TOWERS),
    family("clip", "CLIPForImageClassification", inside("vision_model", pooled), **TOWERS),
    family("clip_vision_model", "CLIPVisionModel", **VIT),
    family("clip_vision_model", "CLIPVisionModelWithProjection", image_embeds, **VIT, projection_dim=24),
    family("siglip", "SiglipModel", image_features, vision_config=VIT, text_config=TEXT),
    family(
        "siglip", "SiglipForImageClassification", inside("vision_model", pooled), vision_config=VIT, text_config=TEXT
    ),
    family("siglip_vision_model", "SiglipVisionModel", **VIT),
    family("siglip_vision_model", "SiglipVisionModel", mean_of_tokens, **VIT, vision_use_head=False),
    family("aimv2", "Aimv2Model", image_features, **TOWERS),
    family("aimv2_vision_model", "Aimv2VisionModel", **VIT),
    family("aimv2_vision_model", "Aimv2VisionModel", mean_of_tokens, **VIT, use_head=False),
    family("swin", "SwinModel", **SWIN),
    family("swin", "SwinForImageClassification", inside("swin", pooled), **SWIN),
    family("swinv2", "Swinv2Model", **SWIN),
    family("convnext", "ConvNextModel", **STAGES),
    family("convnextv2", "ConvNextV2Model", **STAGES),
    family("convnext", "ConvNextForImageClassification", inside("convnext", pooled), **STAGES),
    # other encoders
    family("vit_msn", "ViTMSNModel", cls_token, **VIT),
    family("ijepa", "IJepaModel", mean_of_tokens, **VIT),
    family("ijepa", "IJepaForImageClassification", inside("ijepa", mean_of_tokens), **VIT),
    family("data2vec-vision", "Data2VecVisionModel", mean_without_cls, **VIT),
    family("data2vec-vision", "Data2VecVisionModel", cls_token, **VIT, use_mean_pooling=False),
    family(
        "radio",
        "RadioModel",
        summary,
        **RATIO | {"mlp_ratio": 2.0},
        num_cls_tokens=2,
        num_registers=2,
        summary_idxs=[0, 1],
    ),
    family("pixio", "PixioModel", **RATIO),
    family("yolos", "YolosForObjectDetection", inside("vit", cls_token), **{**VIT, "image_size": [32, 32]}),
    family("mlcd_vision_model", "MLCDVisionModel", **VIT),
    family("resnet", "ResNetModel", embedding_size=8, **STAGES),
    family("resnet", "ResNetForImageClassification", inside("resnet", pooled), embedding_size=8, **STAGES),
    family("regnet", "RegNetModel", embedding_size=8, groups_width=8, **STAGES),
    family("bit", "BitModel", embedding_size=32, num_groups=4, hidden_sizes=[32, 64], depths=[1, 1]),
    family(
        "efficientnet",
        "EfficientNetModel",
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,
    ),
    family("mobilenet_v1", "MobileNetV1Model", depth_multiplier=0.25),
    family("mobilenet_v2", "MobileNetV2Model", depth_multiplier=0.25),
    family(
        "mobilevit",
        "MobileViTModel",
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 64],
        image_size=64,
    ),
    family("mobilevitv2", "MobileViTV2Model", width_multiplier=0.25, image_size=64),
    family(
        "pvt",
        "PvtModel",
        cls_token,
        image_size=64,
        **STAGES,
        num_attention_heads=[1, 2, 2, 2],
    ),
    family(
        "pvt_v2",
        "PvtV2Model",
        mean_of_map,
        **STAGES,
        num_attention_heads=[1, 2, 2, 2],
    ),
    family(
        "levit",
        "LevitModel",
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        key_dim=[8, 8, 8],
        depths=[1, 1, 1],
    ),
    family(
        "hiera",
        "HieraModel",
        unpooled=mean_of_tokens,
        embed_dim=8,
        image_size=[64, 64],
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
    ),
    family(
        "focalnet",
        "FocalNetModel",
        image_size=32,
        embed_dim=16,
        depths=[1, 1],
        focal_levels=[1, 1],
        focal_windows=[3, 3],
        hidden_sizes=[16, 32],
    ),
    family("poolformer", "PoolFormerModel", mean_of_map, **STAGES),
    family(
        "segformer",
        "SegformerModel",
        mean_of_map,
        **STAGES,
        num_attention_heads=[1, 2, 2, 2],
    ),
    family(
        "segformer",
        "SegformerForSemanticSegmentation",
        inside("segformer", mean_of_map),
        **STAGES,
        num_attention_heads=[1, 2, 2, 2],
    ),
    family("swiftformer", "SwiftFormerModel", mean_of_map, embed_dims=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    family(
        "cvt",
        "CvtModel",
        cls_token_value,
        embed_dim=[8, 16, 32],
        num_heads=[1, 2, 2],
        depth=[1, 2, 3],
    ),
    family(
        "altclip",
        "AltCLIPModel",
        image_features,
        vision_config=VIT,
        text_config={**TEXT, "project_dim": 24},
        projection_dim=24,
    ),
    family("chinese_clip", "ChineseCLIPModel", image_features, **TOWERS),
    family("metaclip_2", "MetaClip2Model", image_features, **TOWERS),
    family("metaclip_2_vision_model", "MetaClip2VisionModelWithProjection", image_embeds, **VIT, projection_dim=24),
    family("blip", "BlipModel", image_features, **TOWERS),
    family(
        "groupvit",
        "GroupViTModel",
        image_features,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depths": [1, 1, 1],
            "num_group_tokens": [8, 4, 0],
            "num_output_groups": [8, 4, 4],
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config=TEXT,
        projection_dim=24,
        projection_intermediate_dim=32,
    ),
    family("owlvit", "OwlViTModel", image_features, **TOWERS),
    family("clipseg", "CLIPSegModel", image_features, **TOWERS),
    family(
        "align",
        "AlignModel",
        image_features,
        vision_config={"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
        text_config=TEXT,
        projection_dim=320,
    ),
    family("tipsv2", "Tipsv2Model", image_features, vision_config=RATIO, text_config=TEXT),
    family("donut-swin", "DonutSwinModel", **SWIN),
    family("vitdet", "VitDetModel", mean_of_map, **RATIO),
    family(
        "sam_vision_model",
        "SamVisionModel",
        mean_of_map,
        **RATIO | {"mlp_ratio": 2.0},
        output_channels=16,
        global_attn_indexes=[1],
        window_size=2,
    ),
    family("textnet", "TextNetModel"),
    family(
        "internvl_vision",
        "InternVLVisionModel",
        mean_without_cls,
        **{**VIT, "image_size": [32, 32], "patch_size": [8, 8]},
    ),
    # what is no encoder of one image by its pixel values
    no_encoder("dpt", "DPTModel", **VIT),
    no_encoder("dpt", "DPTForDepthEstimation", **VIT),
    no_encoder("depth_anything", "DepthAnythingForDepthEstimation"),
    no_encoder("detr", "DetrModel", use_timm_backbone=False, use_pretrained_backbone=False, backbone=None),
    no_encoder("mask2former", "Mask2FormerModel"),
    no_encoder("siglip2", "Siglip2Model", vision_config=VIT, text_config=TEXT),
    no_encoder("videomae", "VideoMAEModel", **VIT),
    no_encoder(
        "llava",
        "LlavaModel",
        vision_config={**VIT, "model_type": "clip_vision_model"},
        text_config={**TEXT, "model_type": "llama"},
    ),
    no_encoder("bert", "BertModel", **TEXT),
    no_encoder("sam", "SamModel", vision_config={**VIT, "global_attn_indexes": [1], "window_size": 2}),
)

# transformers 4.57 lacks a few.
FAMILIES = tuple(
    each for each in ALL if each.model_type in transformers.CONFIG_MAPPING and hasattr(transformers, each.saved_as)
)
