"""How the weights of a checkpoint come into a timm model: by their names, by timm's own conversion, or not at all."""

from __future__ import annotations

import bisect
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.encoder import weights
from common.encoder.weights import KeyReport, State
from common.errors import UserError

RESAMPLING = ("resample_", "resize_")  # how the functions of timm that do it are named
KERNELS = "resample_patch_embed"
# What no model of timm has or needs: tokens that stand for hidden patches in training, and the parts of open_clip's
# and OpenAI's models beside the image tower.
TRAINING_ONLY = ("mask_token",)
TEXT_TOWER = (
    *("text.", "transformer.", "token_embedding.", "ln_final."),
    *("positional_embedding", "text_projection", "logit_scale", "logit_bias", "attn_mask"),
)
# What an architecture can be built with beside the encoder.
HEADS: tuple[dict[str, Any], ...] = ({"num_classes": 1000}, {"aux_logits": True})


@dataclass(frozen=True)
class Fitted:
    """Weights by a model's own names, and how they came to be that."""

    state: State
    report: KeyReport
    resampled: tuple[str, ...] = ()  # by position
    other_kernels: tuple[str, ...] = ()  # resampled too, from patches of another size
    dropped: tuple[str, ...] = ()  # what a conversion left away


def fit(built: nn.Module, state: State, build: Callable[..., nn.Module], input_size: int | None, source: str) -> Fitted:
    """The weights of `state` by the names of `built`. Raises UserError where they are not this architecture's.

    `build` builds the architecture with other options; `input_size` is what the user asked for, if anything: to that
    size position embeddings may be brought.
    """
    architecture = str(getattr(built, "pretrained_cfg", {}).get("architecture"))
    if input_size is not None:
        architecture += f" at {input_size} x {input_size}"
    heads = functools.cache(partial(_keys_of_heads, built, build))
    state, changes = weights.unwrapped(state)
    found = min(_candidates(built, state, heads), key=lambda fitted: fitted.report.faults)
    found.report.require_fit(architecture, source)
    if found.other_kernels:
        raise UserError(
            f"{source} holds patch embeddings of another size than {architecture}'s: {found.other_kernels[0]}"
        )
    if found.dropped:
        raise UserError(
            f"{source} holds {len(found.dropped)} weights that {architecture} has no place for and timm would drop: "
            f"{weights.some_of(found.dropped)}"
        )
    if found.resampled and input_size is None:
        raise UserError(
            f"{source} holds weights of another input size than {architecture}'s: {weights.some_of(found.resampled)}; "
            "--input-size N runs the model at that size, or resamples them to the one that you name"
        )
    return replace(found, report=replace(found.report, changes=[*changes, *found.report.changes]))


def _candidates(built: nn.Module, state: State, heads: Callable[[], set[str]]) -> Iterator[Fitted]:
    """The ways to read the weights, the plainest first; none after the first that fits."""
    for prefix in ("", *weights.shared_prefixes(state)):
        bare = {key.removeprefix(prefix): value for key, value in state.items()}
        for read in (_plain, _converted):
            found = read(built, bare, heads)
            if found is None:
                continue
            if prefix:
                words = f"the prefix {prefix} of all names is taken away"
                found = replace(found, report=replace(found.report, changes=[words, *found.report.changes]))
            yield found
            if not found.report.faults:
                return


def _plain(built: nn.Module, state: State, heads: Callable[[], set[str]]) -> Fitted:
    """As they are, without what belongs to a head that this model was built without."""
    report = weights.compare_state(built, state)
    known = heads() if report.unexpected else set()
    other = [key for key in report.unexpected if key in known or _is_training_only(key)]
    if other:
        state = {key: value for key, value in state.items() if key not in other}
        unexpected = [key for key in report.unexpected if key not in other]
        report = replace(report, unexpected=unexpected, left_out=other)
    return Fitted(state, report)


def _keys_of_heads(built: nn.Module, build: Callable[..., nn.Module]) -> set[str]:
    """The keys that the architecture has where it is built with its heads."""
    keys: set[str] = set()
    for options in HEADS:
        if "num_classes" in options and getattr(built, "num_classes", None):
            continue
        try:
            keys.update(build(**options).state_dict())
        except UserError:  # most architectures have no such option
            continue
    return keys


def _is_training_only(key: str) -> bool:
    return key.rpartition(".")[2] in TRAINING_ONLY


# ---------------------------------------------------------------------------------------------- timm's own conversion
def _converted(built: nn.Module, state: State, heads: Callable[[], set[str]]) -> Fitted | None:
    """A checkpoint of an earlier timm or of the model's first authors, as the architecture's module converts it.

    timm keeps that conversion beside each architecture, as `checkpoint_filter_fn`. It is lenient: it resamples what has
    another size, and drops what the model lacks. Both are noted here. None for weights that it can't convert.
    """
    convert = getattr(sys.modules[type(built).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    watch = _Watch()
    try:
        with watch, _noting_resampling(convert, watch):
            converted = convert(dict(state), built)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError):
        return None  # another model's weights
    if not isinstance(converted, dict) or not all(isinstance(value, Tensor) for value in converted.values()):
        return None
    found = _plain(built, converted, heads)
    gone = _gone(state, converted, watch)
    needless = [key for key in gone if _needs_no_place(key, state, built)]
    resampled = [key for key, value in converted.items() if id(value) in watch.resampled]
    changes = ["converted by timm"]
    if resampled:
        changes.append(f"{len(resampled)} resampled to the input size: {weights.some_of(resampled)}")
    report = replace(found.report, left_out=[*found.report.left_out, *needless], changes=changes)
    return Fitted(
        found.state,
        report,
        tuple(resampled),
        tuple(key for key, value in converted.items() if id(value) in watch.kernels),
        tuple(key for key in gone if key not in needless),
    )


class _Watch(TorchFunctionMode):
    """Sees which tensors are computed with, and what comes of a resampling, by their ids while they are kept here."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()
        self.resampled: dict[int, Tensor] = {}
        self.kernels: dict[int, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        inputs = [each for each in _flat(args) if isinstance(each, Tensor)]
        outputs = [each for each in _flat([output]) if isinstance(each, Tensor)]
        if outputs:  # a shape or a dtype is no use of the values
            self.used.update(map(id, inputs))
        if function is nn.functional.interpolate:
            self._note(self.resampled, outputs)
        for kind in (self.resampled, self.kernels):
            if any(id(each) in kind for each in inputs):
                self._note(kind, outputs)
        return output

    @staticmethod
    def _note(kind: dict[int, Tensor], tensors: Iterable[Tensor]) -> None:
        kind.update({id(each): each for each in tensors})

    def note_resampling(self, name: str, output: Tensor) -> None:
        if name == KERNELS:
            self._note(self.kernels, [output])
            self.resampled.pop(id(output), None)
        else:
            self._note(self.resampled, [output])


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for each in values:
        if isinstance(each, (list, tuple)):
            yield from _flat(each)
        else:
            yield each


@contextmanager
def _noting_resampling(convert: Any, watch: _Watch) -> Iterator[None]:
    """While the conversion runs, the functions of its module that resample say what they gave: some use SciPy."""
    scope = convert.__globals__
    originals = {name: each for name, each in scope.items() if name.startswith(RESAMPLING) and callable(each)}

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            output = original(tensor, *arguments, **options)
            if output is not tensor and not (output.shape == tensor.shape and torch.equal(output, tensor)):
                watch.note_resampling(name, output)
            return output

        return call

    scope.update({name: noting(name, original) for name, original in originals.items()})
    try:
        yield
    finally:
        scope.update(originals)


def _gone(state: State, converted: State, watch: _Watch) -> list[str]:
    """What a conversion has left away: neither in what it gives, nor computed with."""
    starts = sorted(value.data_ptr() for value in converted.values())

    def is_kept(value: Tensor) -> bool:
        start = value.data_ptr()
        at = bisect.bisect_left(starts, start)
        return at < len(starts) and starts[at] < start + value.nbytes

    return [key for key, value in state.items() if id(value) not in watch.used and not is_kept(value)]


def _needs_no_place(key: str, state: State, built: nn.Module) -> bool:
    """Whether a weight that a conversion left away is none that this encoder could need."""
    leaf = key.rpartition(".")[2]
    computed = {name.rpartition(".")[2] for name, _ in built.named_buffers()}
    of_two_towers = any(other.startswith("visual.") for other in state)
    headless = not getattr(built, "num_classes", None)
    return (
        _is_training_only(key)
        or leaf in computed
        or "rope" in key
        or not state[key].is_floating_point()
        or (of_two_towers and key.startswith(TEXT_TOWER))
        or (of_two_towers and headless and key.startswith("visual.head."))
    )
