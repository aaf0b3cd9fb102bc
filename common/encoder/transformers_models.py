"""transformers' vision models as encoders: one that stands alone, or the vision tower of an image-text pair."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.device.devices import Outputs
from common.encoder import hubs, npu_blind, random_weights, weights
from common.encoder.base import Encoder, as_tokens
from common.encoder.checkpoints import CARRIED_CONFIGS, Checkpoint, read_json
from common.errors import UserError, first_line

transformers: Any = npu_blind.import_transformers()

# The preprocessing of a checkpoint that comes without its own; `size` follows from its config.
IMAGENET_PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "resample": Image.Resampling.BICUBIC.value,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
DEFAULT_PREPROCESSING = "default: shortest edge bicubic, centre crop, ImageNet mean and std"

TOWER, PROJECTION = "vision_model", "visual_projection"  # what transformers calls them in CLIP and all that follow it
# What transformers raises where an input is missing or has another shape; a device's failure is a RuntimeError.
CANT_RUN = (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)


# ------------------------------------------------------------------------------------------------------- the outputs
class TransformersModule(nn.Module):
    """A transformers vision model that gives its pooled output, else its first (CLS) token, and all tokens.

    Feature maps that the model does not pool have no such token: their mean is the embedding.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, pixel_values: Tensor) -> Outputs:
        return _pooled_and_tokens(self.model, pixel_values, **_in_order(self.model, pixel_values))


class VisionTowerModule(nn.Module):
    """The vision tower of two, that gives the image's embedding, projected where the model projects it, and all tokens.

    It is what the model's own `get_image_features` gives.
    """

    def __init__(self, two_towers: nn.Module) -> None:
        super().__init__()
        self.model: Any = two_towers

    def forward(self, pixel_values: Tensor) -> Outputs:
        pooled, hidden_state = _pooled_and_tokens(getattr(self.model, TOWER), pixel_values)
        projection = getattr(self.model, PROJECTION, None)
        return pooled if projection is None else projection(pooled), hidden_state


def _pooled_and_tokens(model: Any, pixel_values: Tensor, **more: Tensor) -> Outputs:
    """Raises UserError for a model that pixel_values do not suffice, or that has other outputs than an encoder."""
    name = type(model).__name__
    try:
        output = model(pixel_values=pixel_values, **more)
    except CANT_RUN as error:
        raise UserError(f"{name} can't encode an image by its pixel_values alone: {first_line(error)}") from error
    features = getattr(output, "last_hidden_state", None)
    if not isinstance(features, Tensor):
        raise UserError(f"{name} is no encoder: it gives {type(output).__name__}, without a last hidden state")
    hidden_state = as_tokens(features, channels_last=False)
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1), hidden_state
    return hidden_state.mean(1) if features.ndim == 4 else hidden_state[:, 0], hidden_state


def _in_order(model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
    """What keeps the patches of a ViT-MAE, which shuffles them even where it masks none, in their order.

    It sorts by this noise. Integers: no emulation and no dtype of the model rounds them.
    """
    if model.config.model_type != "vit_mae":
        return {}
    order = torch.arange(model.embeddings.patch_embeddings.num_patches, device=pixel_values.device)
    return {"noise": order.expand(len(pixel_values), -1)}


# ----------------------------------------------------------------------------------------------------------- loading
def load(model: str, checkpoint: Checkpoint, seed: int) -> Encoder:
    """The encoder of a checkpoint with a transformers config.json. Raises UserError, saying why, for what is none."""
    with _staged(model, checkpoint) as folder:
        config = transformers.AutoConfig.from_pretrained(folder)
        preprocessing = _stage_preprocessing(folder, checkpoint, config)
        model_class, options = _choose_class(config, weights.read_keys(checkpoint.files))
        if checkpoint.files:
            built, report = _from_pretrained(model_class, config, folder, checkpoint.files, options)
            report.require_fit(type(built).__name__, checkpoint.source)
            source = checkpoint.source
            sha256: Callable[[], str] = partial(weights.files_sha256, checkpoint.files)
        else:
            built = weights.build_on_meta(lambda: model_class._from_config(config, **options))
            source, sha256, report = random_weights.assign(built, seed)
        processor = _image_processor(folder)
    settings = {key: value for key, value in processor.to_dict().items() if _is_setting(key, value)}
    tower = issubclass(model_class, _VisionTower)
    encoder = Encoder(
        model=model,
        library="transformers",
        architecture=f"{type(built).__name__}.{TOWER}" if tower else type(built).__name__,
        module=VisionTowerModule(built) if tower else TransformersModule(built),
        preprocess=lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
        preprocessing={"source": preprocessing, "backend": "torchvision", **settings},
        weights_source=source,
        hash_weights=sha256,
        keys=report,
    )
    if not checkpoint.files:
        random_weights.settle_batch_norms(encoder.module, encoder.input_size, seed)
    return encoder


def require_usable(model: str, checkpoint: Checkpoint) -> None:
    """Raise UserError, by the json files alone, for what can't be loaded whatever its weights are."""
    with _staged(model, checkpoint) as folder:
        config = transformers.AutoConfig.from_pretrained(folder)
        _stage_preprocessing(folder, checkpoint, config)
        _choose_class(config, set())
        _image_processor(folder)


@contextmanager
def _staged(model: str, checkpoint: Checkpoint) -> Iterator[Path]:
    """A temporary folder with the checkpoint's config and weights, whose path no error names."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as staging:
        try:
            _stage_config_and_weights(Path(staging), model, checkpoint)
            yield Path(staging)
        except UserError as error:
            raise UserError(_without(staging, error, checkpoint)) from error
        except Exception as error:  # a config from elsewhere can make transformers raise anything
            raise UserError(
                f"transformers can't load {model}: {first_line(_without(staging, error, checkpoint))}"
            ) from error


def _without(staging: str, error: Exception, checkpoint: Checkpoint) -> str:
    """What an error says, with the checkpoint's folder in place of the temporary one."""
    return str(error).replace(staging, str(checkpoint.folder or checkpoint.source)) or type(error).__name__


# ---- which class, or why none
class _VisionTower:
    """Marks a class of two towers that was reduced to the vision tower and its projection."""


def _choose_class(config: Any, keys: set[str]) -> tuple[Any, dict[str, bool]]:
    """transformers' class for an encoder with this config, and the options to build it with.

    `keys` are the checkpoint's; none for random weights. Raises UserError for a model that is no encoder of an image.
    """
    _require_no_composite(config)
    try:
        found = transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        raise UserError(
            f"transformers has no encoder of its own (AutoModel) for the type {config.model_type}"
        ) from None
    skeleton: Any = weights.build_on_meta(lambda: found._from_config(config))
    if _has_two_towers(skeleton, config):
        _require_no_more_inputs(getattr(skeleton, TOWER), f"the {TOWER} of {found.__name__}")
        kept = [TOWER, PROJECTION] if _has_projection(config, found, keys) else [TOWER]
        return _reduced(found, kept), {}
    if getattr(skeleton, "main_input_name", None) != "pixel_values":
        raise UserError(f"{found.__name__} is no vision encoder: it takes {skeleton.main_input_name}")
    _require_no_more_inputs(skeleton, found.__name__)
    return found, _pooler_options(skeleton, keys)


def _require_no_composite(config: Any) -> None:
    """Refuse what computes more than an encoder, by its config: AutoModel would build it with all its parts."""
    kind = config.model_type
    around = ("backbone_config", "backbone", "mask_decoder_config")
    if kind == "dpt" or any(getattr(config, part, None) for part in around):
        raise UserError(
            f"{kind} is no encoder: a depth, detection or segmentation model around one; its backbone's own checkpoint "
            "can be loaded"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{kind} is no encoder: it decodes too")
    if any(getattr(config, frames, None) for frames in ("num_frames", "frames_per_clip")):
        raise UserError(f"{kind} is no encoder of images: it takes videos")


def _require_no_more_inputs(module: Any, name: str) -> None:
    parameters = inspect.signature(module.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]
    more = [each for each in required if each != "pixel_values"]
    if more:
        raise UserError(f"{name} can't encode an image by its pixel_values alone: it asks for {', '.join(more)}")


def _has_two_towers(skeleton: Any, config: Any) -> bool:
    """Whether it is of CLIP's kind: an image and a text tower side by side, and image features of its own."""
    configs = hasattr(config, "vision_config") and hasattr(config, "text_config")
    towers = isinstance(getattr(skeleton, TOWER, None), nn.Module) and hasattr(skeleton, "text_model")
    return configs and towers and hasattr(skeleton, "get_image_features")


def _has_projection(config: Any, two_towers: Any, keys: set[str]) -> bool:
    """Whether the checkpoint has the projection: a classifier that was made from the vision tower has none."""
    own = (config.architectures or [two_towers.__name__])[0]
    return own == two_towers.__name__ or any(key.startswith(f"{PROJECTION}.") for key in keys)


def _reduced(two_towers: Any, kept: Sequence[str]) -> Any:
    """The class of two towers with these children alone: transformers reads nothing from a file for what is not there.

    It is built whole first, on meta, where that costs nothing.
    """

    def build(self: Any, config: Any) -> None:
        two_towers.__init__(self, config)
        for name, _ in list(self.named_children()):
            if name not in kept:
                delattr(self, name)
        for name in list(self._parameters):  # the temperature of the comparison with texts
            delattr(self, name)

    def initialise(self: Any, module: Any) -> None:
        if module is not self:  # its own parameters are those that went; the tower's buffers are filled in here
            two_towers._init_weights(self, module)

    members = {
        "__init__": build,
        "_init_weights": initialise,
        "get_input_embeddings": lambda self: None,  # word embeddings are the text tower's
        "__module__": two_towers.__module__,
    }
    return type(two_towers.__name__, (two_towers, _VisionTower), members)


def _pooler_options(skeleton: Any, keys: set[str]) -> dict[str, bool]:
    """Leave a pooler with weights unbuilt where the checkpoint has none for it: it would be random."""
    droppable = "add_pooling_layer" in inspect.signature(type(skeleton).__init__).parameters
    has_weights = any(key.startswith("pooler.") for key in skeleton.state_dict())
    if droppable and has_weights and not any("pooler." in key for key in keys):
        return {"add_pooling_layer": False}
    return {}


# ---- the weights
def _from_pretrained(
    model_class: Any, config: Any, folder: Path, files: Sequence[Path], options: dict[str, bool]
) -> tuple[Any, weights.KeyReport]:
    """The model with the folder's weights, in float32, and transformers' own report of how they fit.

    transformers maps safetensors itself. What torch.save wrote is read here: it may lie in a training script's entry.
    """
    mapped = all(weights.is_safetensors(file) for file in files)
    built, info = model_class.from_pretrained(
        folder if mapped else None,
        config=config,
        state_dict=None if mapped else weights.read_state(files),
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are in the report then, with all others
        output_loading_info=True,
        **options,
    )
    unexpected = sorted(info["unexpected_keys"])
    other = _other_part(built, files) if unexpected else lambda key: False
    return built, weights.KeyReport(
        missing=sorted(info["missing_keys"]),
        unexpected=[key for key in unexpected if not other(key)],
        misshapen=[_describe_mismatch(mismatch) for mismatch in sorted(info["mismatched_keys"])],
        left_out=[key for key in unexpected if other(key)],
    )


def _other_part(built: Any, files: Sequence[Path]) -> Callable[[str], bool]:
    """Whether a key of a checkpoint is a task head's, or a text tower's: no part of the encoder.

    It is where it is beside the encoder, whose keys have a prefix; or where the class has it that, by the config, the
    checkpoint was saved from.
    """
    if issubclass(type(built), _VisionTower):
        children = {name for name, _ in built.named_children()}
        return lambda key: key.partition(".")[0] not in children
    prefix = built.base_model_prefix + "."
    if any(key.startswith(prefix) for key in weights.read_keys(files)):
        return lambda key: not key.startswith(prefix)
    own_class: Any = getattr(transformers, (built.config.architectures or [""])[0], None)
    if own_class is None:
        return lambda key: False
    known = set(weights.build_on_meta(lambda: own_class._from_config(built.config)).state_dict())
    return lambda key: key in known


def _describe_mismatch(mismatch: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    """A key with its shapes; transformers 4.57 gives the key alone."""
    if isinstance(mismatch, str):
        return mismatch
    key, found, wanted = mismatch
    return f"{key} {list(found)}, not {list(wanted)}"


# ---- one folder for what may come from different places: a bare .safetensors file, a carried config, a default
def _stage_config_and_weights(folder: Path, model: str, checkpoint: Checkpoint) -> None:
    if checkpoint.folder:
        config = read_json(checkpoint.folder / "config.json")
    elif model in CARRIED_CONFIGS:
        config = CARRIED_CONFIGS[model]
    else:
        raise UserError(f"{model} needs its config.json beside the weights: --weights names a snapshot folder")
    if config.get("model_type") is None:
        raise UserError(f"{checkpoint.folder} holds no transformers model: its config.json has no model_type")
    if config["model_type"] == "vit_mae":
        config = {**config, "mask_ratio": 0.0}  # in training it sees a quarter of the patches, drawn at random
    from transformers import CONFIG_MAPPING

    if "auto_map" in config and config["model_type"] not in CONFIG_MAPPING:
        raise UserError(f"{model} is made by code that comes with it (auto_map), which is never run")
    _write_config(folder / "config.json", config)

    mapped = [file for file in checkpoint.files if weights.is_safetensors(file)]
    for file in mapped:
        (folder / (hubs.SINGLE_FILE if len(mapped) == 1 else file.name)).symlink_to(file.resolve())
    if len(mapped) > 1:
        # Of what the shards hold: transformers 4 takes a key for loaded that the index names and no shard has.
        shards = {key: file.name for file in mapped for key in weights.read_keys([file])}
        (folder / hubs.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def _write_config(path: Path, config: dict[str, Any]) -> None:
    """Without what asks for code beside it: for a model that transformers knows itself, that is none that is needed."""
    path.write_text(json.dumps({key: value for key, value in dict(config).items() if key != "auto_map"}))


def _stage_preprocessing(folder: Path, checkpoint: Checkpoint, config: Any) -> str:
    """Write the checkpoint's own preprocessing into the folder, else the default one, and return its name."""
    preprocessing, name = _default_preprocessing(config), DEFAULT_PREPROCESSING
    if checkpoint.folder:
        own, processor = checkpoint.folder / "preprocessor_config.json", checkpoint.folder / "processor_config.json"
        if own.is_file():
            preprocessing, name = read_json(own), own.name
        elif processor.is_file() and "image_processor" in read_json(processor):  # as transformers 5 saves a CLIP's
            preprocessing, name = read_json(processor)["image_processor"], processor.name
    _write_config(folder / "preprocessor_config.json", _in_todays_words(preprocessing))
    return name


def _in_todays_words(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """With the class that was called ...FeatureExtractor until transformers 4.26, and saved so for years after."""
    name = preprocessing.get("image_processor_type") or preprocessing.get("feature_extractor_type")
    if not isinstance(name, str) or "FeatureExtractor" not in name:
        return preprocessing
    return {**preprocessing, "image_processor_type": name.replace("FeatureExtractor", "ImageProcessor")}


def _default_preprocessing(config: Any) -> dict[str, Any]:
    size = getattr(getattr(config, "vision_config", config), "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    crop = {"height": height, "width": width}
    return {**IMAGENET_PREPROCESSING, "size": {"shortest_edge": max(height, width)}, "crop_size": crop}


def _image_processor(folder: Path) -> Any:
    """The checkpoint's image processor on torchvision ("fast"): it differs slightly from the one on PIL."""
    choice = {"use_fast": True} if int(transformers.__version__.partition(".")[0]) < 5 else {"backend": "torchvision"}
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, **choice)
    except Exception as error:  # the preprocessing is from elsewhere too
        kind = read_json(folder / "preprocessor_config.json").get("image_processor_type")
        version = f"transformers {transformers.__version__}"
        raise UserError(
            f"{version} can't make the checkpoint's preprocessing, a {kind}: {first_line(error)}"
        ) from error


def _is_setting(key: str, value: Any) -> bool:
    plain = type(value) in (bool, int, float, str, list, tuple, dict)
    return plain and not key.startswith("_") and key != "image_processor_type"
