"""transformers' vision models as encoders: one that stands alone, or the vision tower of an image-text pair."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.cli.options import ModelChoice
from common.encoder import hubs, npu_blind, random_weights, transformers_configs, weights
from common.encoder.base import (
    CLS,
    MEAN_OF_MAP,
    MEAN_OF_PATCHES,
    POOLED,
    POOLED_ALREADY,
    PROJECTED,
    SUMMARY,
    Described,
    Embedded,
    Encoder,
    Preprocessor,
    as_tokens,
    require_able,
    try_out,
)
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

PREPROCESSING = "preprocessor_config.json"
TOWER, PROJECTION = "vision_model", "visual_projection"  # what transformers calls them in CLIP and all that follow it
# What an output of transformers calls the embedding, the first that is there. `summary` is RADIO's; `cls_token_value`
# is CvT's, whose last hidden state is a map without it.
GIVEN = (
    ("image_embeds", PROJECTED),
    ("pooler_output", POOLED),
    ("summary", SUMMARY),
    ("cls_token_value", CLS),
)
# Options of classes that build an encoder with or without a part that has weights.
POOLER = "add_pooling_layer"
OPTIONAL_PARTS = {POOLER: "pooler.", "expand_output": "conv_1x1_exp."}
# The keys of a config that choose an implementation of attention, and those that are torch's and transformers' own.
ATTENTION = ("attn_implementation", "_attn_implementation")
OWN_ATTENTION = ("eager", "sdpa")
CLS_TOKENS = ("cls_token", "class_embedding", "class_token")
OTHER_LEADING_TOKENS = ("register_tokens", "distillation_token", "reg_token")
# What transformers raises where an input is missing or has another shape; a device's failure is a RuntimeError.
CANT_RUN = (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)


# ------------------------------------------------------------------------------------------------------- the outputs
class TransformersModule(Described):
    """A transformers vision model that gives the embedding that its authors give of an image, and all tokens.

    `sized`: the input has another size than the weights were trained at, and their positions are interpolated to it.
    """

    def __init__(self, model: nn.Module, sized: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.leading = _leading_tokens(model)
        self.options = _interpolation(model) if sized else {}

    def embed(self, pixel_values: Tensor) -> Embedded:
        return _run(self.model, self.leading, pixel_values, **_in_order(self.model, pixel_values), **self.options)


class VisionTowerModule(Described):
    """The vision tower of two, that gives the image's embedding, projected where the model projects it, and all tokens.

    It is what the model's own `get_image_features` gives. Without its projection a model gives what that would get.
    """

    def __init__(self, two_towers: nn.Module, sized: bool = False) -> None:
        super().__init__()
        self.model: Any = two_towers
        self.leading = _leading_tokens(getattr(two_towers, TOWER))
        self.options = _interpolation(getattr(two_towers, TOWER)) if sized else {}

    def embed(self, pixel_values: Tensor) -> Embedded:
        tower = getattr(self.model, TOWER)
        embedding, hidden_state, embedding_is = _run(tower, self.leading, pixel_values, **self.options)
        projection = getattr(self.model, PROJECTION, None)
        if projection is None:
            return embedding, hidden_state, embedding_is
        return projection(embedding), hidden_state, PROJECTED


@dataclass(frozen=True)
class Leading:
    """The tokens before those of the patches: whether the first stands for the image, and how many there are."""

    cls: bool
    count: int


def _run(model: Any, leading: Leading, pixel_values: Tensor, **more: Any) -> Embedded:
    """Raises UserError for a model that pixel_values do not suffice, or that has other outputs than an encoder."""
    name = type(model).__name__
    try:
        output = model(pixel_values=pixel_values, **more)
    except CANT_RUN as error:
        raise UserError(f"{name} can't encode an image by its pixel_values alone: {first_line(error)}") from error
    features = getattr(output, "last_hidden_state", None)
    if not isinstance(features, Tensor):
        raise UserError(f"{name} is no encoder: it gives {type(output).__name__}, without a last hidden state")
    return _embedding_of(model, leading, output)


def _embedding_of(model: Any, leading: Leading, output: Any) -> Embedded:
    """What the model's authors take for the image: what they project or pool, a token that stands for the image, or
    else the mean of all places.
    """
    features: Tensor = output.last_hidden_state
    tokens = as_tokens(features, channels_last=False)
    for name, words in GIVEN:
        given = getattr(output, name, None)
        if isinstance(given, Tensor) and (given.ndim != 3 or given.shape[1] == 1):  # one vector of an image
            return given.flatten(1), tokens, words
    if features.ndim == 4:
        return tokens.mean(1), tokens, MEAN_OF_MAP
    if leading.cls and not getattr(model.config, "use_mean_pooling", False):
        return tokens[:, 0], tokens, CLS
    return tokens[:, leading.count :].mean(1), tokens, MEAN_OF_PATCHES


def _leading_tokens(model: nn.Module) -> Leading:
    """By the names of its parameters."""
    cls, count = False, 0
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in CLS_TOKENS or leaf in OTHER_LEADING_TOKENS:
            cls = cls or leaf in CLS_TOKENS
            count += parameter.shape[-2] if parameter.ndim > 1 else 1
    return Leading(cls, count)


def _interpolation(model: Any) -> dict[str, bool]:
    """What asks a model for positions of another size; others take any size as they are, or say that they can't."""
    known = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if known else {}


def _in_order(model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
    """What keeps the patches of a ViT-MAE, which shuffles them even where it masks none, in their order.

    It sorts by this noise. Integers: no emulation and no dtype of the model rounds them.
    """
    if model.config.model_type != "vit_mae":
        return {}
    patch = model.embeddings.patch_embeddings.patch_size
    count = (pixel_values.shape[-2] // patch[0]) * (pixel_values.shape[-1] // patch[1])
    order = torch.arange(count, device=pixel_values.device)
    return {"noise": order.expand(len(pixel_values), -1)}


# ----------------------------------------------------------------------------------------------------------- loading
def load(model: str, checkpoint: Checkpoint, wanted: ModelChoice) -> Encoder:
    """The encoder of a checkpoint with a transformers config.json, of the input size that is wanted.

    It never has a task's head; where pooled features are wanted, it has no projection either. Raises UserError, saying
    why, for what is none.
    """
    with _staged(model, checkpoint) as (folder, written):
        config = transformers.AutoConfig.from_pretrained(folder)
        source = _stage_preprocessing(folder, checkpoint, config)
        model_class, options = _choose_class(config, weights.read_keys(checkpoint.files))
        if checkpoint.files:
            built, report = _from_pretrained(model_class, folder, checkpoint.files, options)
            report.require_fit(type(built).__name__, checkpoint.source)
            notes = transformers_configs.require_known(written, config, fitting=True)
            weights_source = checkpoint.source
            sha256: Callable[[], str] = partial(weights.files_sha256, checkpoint.files)
        else:
            notes = transformers_configs.require_known(written, config, fitting=False)
            built = weights.build_on_meta(lambda: model_class._from_config(config, **options))
            weights_source, sha256, report = random_weights.assign(built, wanted.seed)
        gone = _take_projection_away(built) if wanted.pooled else []
        module, name = _module_of(built, wanted.input_size, unprojected=bool(gone))
        preprocess, settings = _preprocessor(folder, name, wanted.input_size)
        embedding_is = try_out(module, name, preprocess.input_size, wanted.input_size)
        notes = [*notes, *_unseen(built, preprocess.input_size)]
    encoder = Encoder(
        model=model,
        library="transformers",
        architecture=name,
        module=module,
        embedding_is=embedding_is,
        preprocess=preprocess,
        preprocessing={"source": source, "backend": "torchvision", **settings},
        weights_source=weights_source,
        hash_weights=sha256,
        keys=replace(report, left_out=[*report.left_out, *gone]),
        notes=[*notes, POOLED_ALREADY] if wanted.pooled and not gone else notes,
    )
    if not checkpoint.files:
        random_weights.settle_batch_norms(encoder.module, encoder.input_size, wanted.seed)
    return encoder


def require_usable(model: str, checkpoint: Checkpoint, wanted: ModelChoice) -> None:
    """Raise UserError, by the json files alone, for what can't be loaded whatever its weights are."""
    with _staged(model, checkpoint) as (folder, written):
        config = transformers.AutoConfig.from_pretrained(folder)
        _stage_preprocessing(folder, checkpoint, config)
        model_class, options = _choose_class(config, set())
        transformers_configs.require_known(written, config, fitting=True)
        built = weights.build_on_meta(lambda: model_class._from_config(config, **options))
        gone = _take_projection_away(built) if wanted.pooled else []
        module, name = _module_of(built, wanted.input_size, unprojected=bool(gone))
        preprocess, _ = _preprocessor(folder, name, wanted.input_size)
        require_able(module, name, preprocess.input_size, wanted.input_size)


def _take_projection_away(model: Any) -> list[str]:
    """Leave a vision tower without its projection, if it has one, and return the names of the weights that are gone."""
    projection = getattr(model, PROJECTION, None)
    if projection is None:
        return []
    delattr(model, PROJECTION)
    return [f"{PROJECTION}.{name}" for name in projection.state_dict()]


def _module_of(
    model: Any, input_size: int | None, unprojected: bool
) -> tuple[TransformersModule | VisionTowerModule, str]:
    """The encoder's module, and what to call it; `unprojected`: its projection was taken away."""
    name, sized = type(model).__name__, input_size is not None
    if unprojected or issubclass(type(model), _VisionTower):
        return VisionTowerModule(model, sized), f"{name}.{TOWER}"
    return TransformersModule(model, sized), name


def _unseen(model: nn.Module, input_size: list[int]) -> list[str]:
    """A note where the patches do not fill an image of `input_size` [3, H, W]: what is left over is cut off unseen."""
    for parent in model.modules():
        pads = hasattr(parent, "maybe_pad")  # Swin's and its kin's
        for each in parent.children():
            if isinstance(each, nn.Conv2d) and each.in_channels == 3 and each.kernel_size == each.stride and not pads:
                (height, width), (high, wide) = input_size[1:], each.kernel_size
                if height % high or width % wide:
                    patches = f"patches of {high} x {wide} pixels do not fill {height} x {width}"
                    return [f"{patches}: the last {height % high} rows and {width % wide} columns are not seen"]
    return []


@contextmanager
def _staged(model: str, checkpoint: Checkpoint) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A temporary folder with the checkpoint's config and weights, whose path no error names; the config as found."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as staging:
        try:
            yield Path(staging), _stage_config_and_weights(Path(staging), model, checkpoint)
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
    own = transformers_configs.own_class(config)
    found: Any = transformers.MODEL_MAPPING.get(type(config), own)
    if isinstance(found, tuple):
        found = found[0]
    if found is None:
        raise UserError(f"transformers has no encoder of its own (AutoModel) for the type {config.model_type}")
    if own is not None and own is not found and _projects(own, config):
        return own, {}
    skeleton: Any = weights.build_on_meta(lambda: found._from_config(config))
    if _has_two_towers(skeleton, config):
        _require_no_more_inputs(getattr(skeleton, TOWER), f"the {TOWER} of {found.__name__}")
        kept = [TOWER, PROJECTION] if _has_projection(config, found, keys) else [TOWER]
        return _reduced(found, kept), {}
    if getattr(skeleton, "main_input_name", None) != "pixel_values":
        raise UserError(f"{found.__name__} is no vision encoder: it takes {skeleton.main_input_name}")
    _require_no_more_inputs(skeleton, found.__name__)
    return found, _options(found, config, keys)


def _projects(own: Any, config: Any) -> bool:
    """Whether the class that the checkpoint was saved from is a vision tower with a projection of its own.

    AutoModel would leave the projection away.
    """
    if own.main_input_name != "pixel_values" or own.config_class is not type(config):
        return False
    return isinstance(getattr(weights.build_on_meta(lambda: own._from_config(config)), PROJECTION, None), nn.Module)


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
    own = transformers_configs.own_class(config)
    if own is None or own is two_towers:
        return True
    kept = keys or set(weights.build_on_meta(lambda: own._from_config(config)).state_dict())
    return any(f".{PROJECTION}." in f".{key}" for key in kept)


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


def _options(found: Any, config: Any, keys: set[str]) -> dict[str, bool]:
    """The parts with weights that the checkpoint's class may have left away: built where the checkpoint has them.

    Where it has none, such a part would be random; where it has one, it is what was trained, whatever the class builds
    by itself. With random weights there is no pooler, and the rest is what the class builds.
    """
    chosen = {}
    for option, part in OPTIONAL_PARTS.items():
        if not keys and option != POOLER:
            continue
        if option in inspect.signature(found.__init__).parameters:
            whole: Any = weights.build_on_meta(partial(found._from_config, config, **{option: True}))
            if any(key.startswith(part) for key in whole.state_dict()):
                chosen[option] = any(f".{part}" in f".{key}" for key in keys)
    return chosen


# ---- the weights
def _from_pretrained(
    model_class: Any, folder: Path, files: Sequence[Path], options: dict[str, bool]
) -> tuple[Any, weights.KeyReport]:
    """The model with the folder's weights, in float32, and transformers' own report of how they fit.

    A prefix that all names share is taken away where they fit without it. transformers maps safetensors itself. What
    torch.save wrote is read here: it may lie in a training script's entry.
    """
    mapped = all(weights.is_safetensors(file) for file in files) and not weights.wrapped(weights.read_keys(files))
    state, changes = (None, []) if mapped else weights.unwrapped(weights.read_state(files))
    built, report = _load_renamed(model_class, folder, files, state, options, "")
    if not report.faults:
        return built, replace(report, changes=changes)
    for prefix in weights.shared_prefixes(weights.read_keys(files) if state is None else state):
        other, of_other = _load_renamed(model_class, folder, files, state, options, prefix)
        if not of_other.faults:
            return other, replace(of_other, changes=[*changes, f"the prefix {prefix} of all names is taken away"])
    return built, report


def _load_renamed(
    model_class: Any,
    folder: Path,
    files: Sequence[Path],
    state: weights.State | None,
    options: dict[str, bool],
    wrapper: str,
) -> tuple[Any, weights.KeyReport]:
    """As `_from_pretrained`, without the prefix `wrapper` of all names; `state` is what transformers can't map."""
    renaming = {}
    if wrapper:
        # With the encoder's own prefix: transformers 4 looks for it in the names as they are.
        own = re.escape(f"{model_class.base_model_prefix}.")
        renaming = {"key_mapping": {f"^{re.escape(wrapper)}(?:{own})?": ""}}
    built, info = _read_with_report(model_class, folder, state, {**renaming, **options})
    # A name that a head has, and under its prefix the encoder too (BEiT's layernorm): transformers 5 does not report
    # the head's, transformers 4 loads neither.
    twice = _named_twice(built, files, state, wrapper)
    unexpected = sorted({*info["unexpected_keys"], *twice})
    other = _of_other_parts(built, folder, state, wrapper, unexpected) if unexpected else set()
    lacking = _load_what_is_empty(built, twice)
    return built, weights.KeyReport(
        missing=sorted(key for key in (*info["missing_keys"], *lacking) if not weights.is_counter(key)),
        unexpected=[key for key in unexpected if key not in other],
        misshapen=[_describe_mismatch(mismatch) for mismatch in sorted(info["mismatched_keys"])],
        left_out=[key for key in unexpected if key in other],
    )


def _named_twice(built: Any, files: Sequence[Path], state: weights.State | None, wrapper: str) -> weights.State:
    """The encoder's weights whose name, without the encoder's prefix, is another part's too."""
    prefix = f"{built.base_model_prefix}."
    keys = {key.removeprefix(wrapper) for key in (weights.read_keys(files) if state is None else state)}
    twice = {key for key in keys if prefix + key in keys}
    if not twice:
        return {}
    state = weights.read_state(files) if state is None else state
    return {key: state[wrapper + prefix + key] for key in twice}


def _load_what_is_empty(built: Any, state: weights.State) -> list[str]:
    """Give what was left on meta its weights from `state`, and return the names of what has none there."""
    empty = [name for name, tensor in built.state_dict().items() if tensor.is_meta]
    found = {name: state[name].float() for name in empty if name in state}
    built.load_state_dict(found, strict=False, assign=True)
    return [name for name in empty if name not in found]


def _read_with_report(
    model_class: Any, folder: Path, state: weights.State | None, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    built, info = model_class.from_pretrained(
        folder if state is None else None,
        config=model_class.config_class.from_pretrained(folder),
        state_dict=None if state is None else dict(state),
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are in the report then, with all others
        output_loading_info=True,
        **options,
    )
    return built, info


def _of_other_parts(
    built: Any, folder: Path, state: weights.State | None, wrapper: str, unexpected: Sequence[str]
) -> set[str]:
    """Which keys that the encoder lacks are those of a head, a decoder, a text tower or tokens of its training.

    They are where the class has them that, by the config, the checkpoint was saved from; where that names none, any
    class for such a config. Mostly its names tell; where transformers 5 renames what it reads, loading it does.
    """
    own = transformers_configs.own_class(built.config)
    prefix = f"{built.base_model_prefix}."
    found: set[str] = set()
    for each in [own] if own is not None else transformers_configs.classes_of(built.config):
        whole: Any = weights.build_on_meta(partial(each._from_config, built.config))
        names = {*whole.state_dict(), *(name for name, _ in whole.named_buffers())}
        found.update(key for key in unexpected if key in names or prefix + key in names)  # transformers 4 takes it away
        if len(found) < len(unexpected):
            renaming = {"key_mapping": {f"^{re.escape(wrapper)}": ""}} if wrapper else {}
            _, info = _read_with_report(each, folder, state, renaming)
            surplus = {key.removeprefix(prefix) for key in info["unexpected_keys"]}
            found.update(key for key in unexpected if key.removeprefix(prefix) not in surplus)
    return found


def _describe_mismatch(mismatch: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    """A key with its shapes; transformers 4.57 gives the key alone."""
    if isinstance(mismatch, str):
        return mismatch
    key, found, wanted = mismatch
    return f"{key} {list(found)}, not {list(wanted)}"


# ---- one folder for what may come from different places: a bare .safetensors file, a carried config, a default
def _stage_config_and_weights(folder: Path, model: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Put them into the folder, and return the config as it was found."""
    if checkpoint.folder:
        found = config = read_json(checkpoint.folder / "config.json")
    elif model in CARRIED_CONFIGS:
        found = config = CARRIED_CONFIGS[model]
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
    return found


def _write_config(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(_of_the_model(config)))


def _of_the_model(config: dict[str, Any]) -> dict[str, Any]:
    """Without what is none of the model's, at any level: how whoever saved it computed, or asks that it be loaded.

    That is code beside it, which a model that transformers knows itself does not need; an attention that a package or a
    hub would have to bring; the quantisation that its weights had before: those that have it still are refused.
    """
    kept = {
        key: _of_the_model(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("auto_map", "quantization_config")
    }
    return {key: value for key, value in kept.items() if key not in ATTENTION or value in OWN_ATTENTION}


def _stage_preprocessing(folder: Path, checkpoint: Checkpoint, config: Any) -> str:
    """Write the checkpoint's own preprocessing into the folder, else the default one, and return its name."""
    preprocessing, name = _default_preprocessing(config), DEFAULT_PREPROCESSING
    if checkpoint.folder:
        own, processor = checkpoint.folder / PREPROCESSING, checkpoint.folder / "processor_config.json"
        if own.is_file():
            preprocessing, name = read_json(own), own.name
        elif processor.is_file() and "image_processor" in read_json(processor):  # as transformers 5 saves a CLIP's
            preprocessing, name = read_json(processor)["image_processor"], processor.name
        elif config.model_type == "timm_wrapper":
            name = "config.json"
    _write_config(folder / PREPROCESSING, _in_todays_words(preprocessing))
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


def _preprocessor(folder: Path, name: str, input_size: int | None) -> tuple[Preprocessor, dict[str, Any]]:
    """The folder's preprocessing and its settings, changed to give `input_size` pixels a side where it is asked for."""
    processor = _image_processor(folder)
    if input_size is None:
        return _proven(processor, name), _settings_of(processor)
    for changed in _resized(_settings_of(processor), input_size):
        # timm's preprocessing stands in the config, where transformers wraps one of its models
        path = folder / ("config.json" if "pretrained_cfg" in changed else PREPROCESSING)
        path.write_text(json.dumps({**read_json(path), **changed}))
        try:
            resized = _image_processor(folder)
            proven = _proven(resized, name)
        except (UserError, ValueError, TypeError, KeyError):  # a way that this processor does not have
            continue
        if proven.input_size == [3, input_size, input_size]:
            return proven, _settings_of(resized)
    raise UserError(f"--input-size {input_size}: the preprocessing of {name} can't give that size")


def _proven(processor: Any, name: str) -> Preprocessor:
    return Preprocessor(name, lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0])


def _resized(settings: dict[str, Any], side: int) -> Iterator[dict[str, Any]]:
    """Settings that may give images of `side` pixels, the nearest to the present ones first.

    Sizes scaled with what they are cropped to; the shortest edge resized and the centre cropped; resized as a whole.
    """
    if "data_config" in settings:
        yield {"pretrained_cfg": {**settings["data_config"], "input_size": (3, side, side)}}
        return
    square = {"height": side, "width": side}
    size, crop = settings.get("size"), settings.get("crop_size")
    cropped = bool(settings.get("do_center_crop")) and isinstance(crop, dict) and "height" in crop
    if isinstance(size, dict):
        now = crop["height"] if cropped and isinstance(crop, dict) else min(filter(None, size.values()), default=side)
        scaled = {key: round(value * side / now) for key, value in size.items() if value}
        yield {"size": square if set(scaled) == set(square) and not cropped else scaled, "crop_size": square}
    both = {"do_resize": True, "do_center_crop": True}
    yield {**both, "size": {"shortest_edge": side}, "crop_size": square}
    yield {"do_resize": True, "do_center_crop": False, "size": square}


def _settings_of(processor: Any) -> dict[str, Any]:
    return {key: value for key, value in processor.to_dict().items() if _is_setting(key, value)}


def _image_processor(folder: Path) -> Any:
    """The checkpoint's image processor on torchvision ("fast"): it differs slightly from the one on PIL."""
    choice = {"use_fast": True} if int(transformers.__version__.partition(".")[0]) < 5 else {"backend": "torchvision"}
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, **choice)
    except Exception as error:  # the preprocessing is from elsewhere too
        kind = read_json(folder / PREPROCESSING).get("image_processor_type")
        version = f"transformers {transformers.__version__}"
        raise UserError(
            f"{version} can't make the checkpoint's preprocessing, a {kind}: {first_line(error)}"
        ) from error


def _is_setting(key: str, value: Any) -> bool:
    plain = type(value) in (bool, int, float, str, list, tuple, dict)
    return plain and not key.startswith("_") and key != "image_processor_type"
