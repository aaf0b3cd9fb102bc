"""An encoder: a timm or transformers vision model with its weights and its own preprocessing, as all scripts use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from common.device.devices import Outputs
from common.device.meta import on_meta
from common.encoder import structure, weights
from common.errors import UserError, first_line
from common.log.writer import RunLog

# Width and height of the images that a preprocessing is tried with: square, wide, high, large, and a strip.
PROBED = ((64, 64), (97, 61), (61, 97), (640, 480), (40, 400))
PROBE_COLOUR = (40, 120, 200)
REFUSALS = (AssertionError, ValueError)  # how a model says that an input is none for it

# What an embedding is.
PROJECTED = "projected image embedding"
LOGITS = "class logits"
HEAD = "output of the head"
POOLED = "pooled output"
SUMMARY = "summary tokens"
CLS = "CLS token"
MEAN_OF_PATCHES = "mean of the patch tokens"
MEAN_OF_MAP = "mean of the feature map"

POOLED_ALREADY = "the embedding of this model is its pooled features already: --features embedding gives the same"

Preprocess = Callable[[Image.Image], Tensor]
Embedded = tuple[Tensor, Tensor, str]  # embedding [B, D], hidden_state [B, T, C], what the embedding is


@dataclass
class Preprocessor:
    """A model's own preprocessing: an RGB image to pixel_values [3, H, W], of any image the same H and W.

    Batches, timings and references are of one size. So it is tried on images of several shapes first: raises UserError
    for a preprocessing that fails, keeps the aspect ratio or gives something else than one image's pixel values.
    """

    model: str
    own: Preprocess
    input_size: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.input_size = []
        for size in PROBED:
            shape = list(self._run(Image.new("RGB", size, PROBE_COLOUR)).shape)
            if len(shape) != 3 or shape[0] != 3:
                raise UserError(f"the preprocessing of {self.model} gives {shape} of an image, not [3, height, width]")
            self.input_size = self.input_size or shape
            if shape != self.input_size:
                first, other = (f"{width} x {height}" for width, height in (PROBED[0], size))
                raise UserError(
                    f"the preprocessing of {self.model} gives images of different sizes: {self.input_size} of {first} "
                    f"pixels, {shape} of {other}; --input-size N makes them all N x N"
                )

    def __call__(self, image: Image.Image) -> Tensor:
        pixel_values = self._run(image)
        if list(pixel_values.shape) != self.input_size:
            raise UserError(
                f"the preprocessing of {self.model} gives {list(pixel_values.shape)} of an image of {image.width} x "
                f"{image.height} pixels, not {self.input_size}"
            )
        return pixel_values

    def _run(self, image: Image.Image) -> Tensor:
        try:
            pixel_values = self.own(image)
            finite = bool(pixel_values.isfinite().all())
        except Exception as error:  # settings from elsewhere can make it raise anything
            raise UserError(f"the preprocessing of {self.model} fails: {first_line(error)}") from error
        if not finite:
            raise UserError(f"the preprocessing of {self.model} gives NaN or infinite values")
        return pixel_values


@dataclass(frozen=True)
class OwnClasses:
    """How many classes a classifier has, and what names one by its index, None where nothing does."""

    count: int
    label: Callable[[int], str | None]


@dataclass
class Encoder:
    """A vision encoder ready to run, in float32 on the CPU.

    `module` maps pixel_values [B, 3, H, W] to (embedding [B, D], hidden_state [B, T, C]); `embedding_is` says what of
    the model's the first is; `label` names one of its `classes` by the index, where it is a classifier; `notes` are
    lines for people about the checkpoint; `pooled` is what was asked for, features without a last layer; `hub` and
    `revision` are of an id; `asked_size` is what --input-size named.
    """

    model: str
    library: str
    architecture: str
    module: nn.Module
    embedding_is: str
    preprocess: Preprocessor
    preprocessing: dict[str, Any]
    weights_source: str
    hash_weights: Callable[[], str]  # costs seconds for gigabytes
    keys: weights.KeyReport
    label: Callable[[int], str | None] | None = None
    classes: int = 0
    notes: list[str] = field(default_factory=list)
    pooled: bool = False
    hub: str | None = None
    revision: str | None = None
    asked_size: int | None = None

    @property
    def class_name(self) -> Callable[[int], str | None] | None:
        """`label`, where the weights are a class's own."""
        return self.label if self.weights_source != "random" else None

    @property
    def structure(self) -> dict[str, int]:
        """Its sizes, those that its library names."""
        return structure.sizes_of(getattr(self.module, "model", self.module))

    @property
    def own_classes(self) -> OwnClasses | None:
        """Those of a classifier."""
        return OwnClasses(self.classes, self.label) if self.label else None

    @property
    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def input_size(self) -> list[int]:
        """What `preprocess` gives of any image: [3, H, W]."""
        return self.preprocess.input_size

    @cached_property
    def weights_sha256(self) -> str:
        return self.hash_weights()

    def introduce(self, log: RunLog) -> None:
        """Print which model it is, and what stands below that."""
        log.line(f"Model: {self.model} ({self.architecture}, weights: {self.weights_source})")
        self.describe(log)

    def describe(self, log: RunLog) -> None:
        """Print what stands below the line that names the model."""
        log.line(f"Embedding: {self.embedding_is}")
        for change in self.keys.changes:
            log.line(f"Converted: {change}")
        if self.keys.left_out:
            named = weights.some_of(self.keys.left_out)
            log.line(f"Left out: {len(self.keys.left_out)} weights of other parts ({named})")
        for note in self.notes:
            log.line(f"Note: {note}")


def as_tokens(features: Tensor, channels_last: bool) -> Tensor:
    """Features [B, C, H, W] (or [B, H, W, C] with `channels_last`), [B, T, C] or [B, C] as tokens [B, T, C]."""
    if features.ndim == 4:
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    return features.unsqueeze(1) if features.ndim == 2 else features


class Described(nn.Module):
    """An encoder's module that can say what its embedding is: `embed` gives it, the hidden state and the words."""

    def embed(self, pixel_values: Tensor) -> Embedded:
        raise NotImplementedError

    def forward(self, pixel_values: Tensor) -> Outputs:
        embedding, hidden_state, _ = self.embed(pixel_values)
        return embedding, hidden_state


def try_out(module: Described, name: str, input_size: list[int], asked: int | None = None) -> str:
    """Run a module once on an image of `input_size` [3, H, W], and return what its embedding is.

    On meta tensors, which compute nothing; on zeros only where those lack something. Raises UserError for a model that
    can't run on such an image; `asked` is the size that the user named.
    """
    module.eval()
    try:
        embedding, _, embedding_is = _embed_on_meta(module, input_size)
    except Exception:  # what meta tensors lack, or the model: that shows below
        try:
            embedding, _, embedding_is = _embed_zeros(module, name, input_size)
        except UserError as error:
            raise UserError(f"--input-size {asked}: {error}") if asked else error from error
    _require_one_embedding(name, embedding)
    return embedding_is


def require_able(module: Described, name: str, input_size: list[int], asked: int | None = None) -> None:
    """As `try_out`, of a module whose weights are not there yet.

    Raises UserError for what the model itself refuses, by a check of its own. What fails otherwise on meta tensors may
    be what they lack: that shows in `try_out`, with the weights.
    """
    module.eval()
    try:
        embedding, _, _ = _embed_on_meta(module, input_size)
    except (*REFUSALS, UserError) as error:
        if error.__cause__ is None or isinstance(error.__cause__, REFUSALS):
            reason = str(error) if isinstance(error, UserError) else _cant_run(name, input_size, error)
            raise UserError(f"--input-size {asked}: {reason}" if asked else reason) from error
    except Exception:  # what meta tensors lack, or the model
        pass
    else:
        _require_one_embedding(name, embedding)


def _require_one_embedding(name: str, embedding: Tensor) -> None:
    if embedding.ndim != 2:
        raise UserError(f"{name} gives {list(embedding.shape)} of an image, not one embedding")


def _cant_run(name: str, input_size: list[int], error: Exception) -> str:
    return f"{name} can't run on images of {' x '.join(map(str, input_size[1:]))}: {first_line(error)}"


def _embed_on_meta(module: Described, input_size: list[int]) -> Embedded:
    with torch.inference_mode():
        return on_meta(module).embed(torch.empty(1, *input_size, device="meta"))


def _embed_zeros(module: Described, name: str, input_size: list[int]) -> Embedded:
    try:
        with torch.inference_mode():
            return module.embed(torch.zeros(1, *input_size))
    except UserError:
        raise
    except Exception as error:  # a model says it with an assertion, a shape error or its own
        raise UserError(_cant_run(name, input_size, error)) from error
