"""Weights: building a model without any, reading a checkpoint's, memory-mapped, and assigning them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from common.cli import launch
from common.encoder import pickles
from common.errors import UserError, first_line
from common.stand_ins import stand_in

WEIGHTS = ("weight", "bias")
# What torch.compile, activation checkpointing and FSDP put before the names of a module's weights.
WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
NAMED_KEYS = 3  # how many of the keys that do not fit an error names
READ_BYTES = 32 * 1024 * 1024  # at once: between two reads a thread waits for Python's lock, some 5 ms
SEND_BYTES = 8 * READ_BYTES

State = dict[str, Tensor]
T = TypeVar("T", bound=nn.Module)


def build_on_meta(build: Callable[[], T]) -> T:
    """The model that `build` makes, its parameters on the meta device: no memory, no random initialisation.

    Buffers are computed as always, so that those which no checkpoint holds (rotary tables, relative indices) are right.
    The few that follow their parameters to meta (Swin's attention masks) are taken from a second, conventional build.
    A model that computes with its parameters while it is built (Swin V2, a ViT on a ResNet) can't be on meta then: it
    is built conventionally.
    """
    try:
        with _parameters_on_meta():
            model = build()
    except (NotImplementedError, RuntimeError):  # what is wrong for another reason is so in the second build too
        return build().requires_grad_(False)
    if any(buffer.is_meta for buffer in model.buffers()):
        conventional = dict(build().named_modules())
        for name, module in model.named_modules():
            for leaf, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[leaf] = conventional[name]._buffers[leaf]
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move each parameter to meta as it is registered. One that is registered again (tied weights) is there already."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    handle = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]  # its own text allows it
    try:
        yield
    finally:
        handle.remove()


@dataclass
class KeyReport:
    """How a checkpoint's keys fit a model's.

    `left_out` are those of other parts, such as a task head, which is no part of the encoder. `changes` says what was
    done to the weights before they fitted.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def require_fit(self, architecture: str, source: str) -> None:
        """Raise UserError, naming a few keys of each kind, unless every weight has its place and its shape."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        faults = [f"{len(keys)} {kind}: {some_of(keys)}" for kind, keys in kinds.items() if keys]
        if faults:
            raise UserError(f"{source} does not hold the weights of {architecture} ({'; '.join(faults)})")


def some_of(keys: Sequence[str]) -> str:
    return ", ".join(keys[:NAMED_KEYS]) + (", ..." if len(keys) > NAMED_KEYS else "")


def nonfinite_names(module: nn.Module) -> list[str]:
    """Which tensors of a module hold a NaN or an infinity."""
    return [name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()]


def read_keys(files: Sequence[Path]) -> set[str]:
    """The names of the tensors in weight files; of safetensors only the headers are read.

    Raises UserError for a file that is not whole, and for weights in integers or floats of 8 bits and fewer, whose
    scale is elsewhere.
    """
    keys: set[str] = set()
    for file in files:
        if is_safetensors(file):
            with _safetensors_errors(file), safe_open(file, framework="pt") as opened:
                found = {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
            _refuse_quantised(file, [f"{key} {dtype}" for key, dtype in found.items() if _is_quantised(key, dtype)])
            keys.update(found)
        else:
            keys.update(_read_pickle(file)[0])
    return keys


def read_state(files: Sequence[Path]) -> State:
    """The tensors of weight files, memory-mapped: nothing is read before it is used. Raises UserError as read_keys."""
    state: State = {}
    for file in files:
        if is_safetensors(file):
            read_keys([file])
            with _safetensors_errors(file):
                state.update(load_file(file))
        else:
            tensors, said = _read_pickle(file)
            if said:
                launch.warn(said)
            state.update(tensors)
    return state


def is_safetensors(file: Path) -> bool:
    """Whether a weight file is in safetensors; all others are what torch.save writes."""
    return file.suffix == ".safetensors"


def _is_quantised(key: str, dtype: str) -> bool:
    """Integers are counters and indices too, but no weights and biases."""
    return dtype.startswith(("F8", "F6", "F4")) or (dtype[0] in "IUB" and dtype != "BF16" and key.endswith(WEIGHTS))


def _read_pickle(file: Path) -> tuple[State, str]:
    tensors, said = pickles.read(file)
    narrow = [key for key, tensor in tensors.items() if _is_narrow(key, tensor)]
    _refuse_quantised(file, [f"{key} {tensors[key].dtype}" for key in narrow])
    return tensors, said


def _is_narrow(key: str, tensor: Tensor) -> bool:
    """As `_is_quantised`, of a tensor."""
    integers = not tensor.is_floating_point() and not tensor.is_complex()
    return tensor.is_quantized or (key.endswith(WEIGHTS) if integers else tensor.dtype.itemsize < 2)


def _refuse_quantised(file: Path, names: Sequence[str]) -> None:
    if names:
        raise UserError(f"{file} holds quantised weights, which are not read ({some_of(names)})")


@contextmanager
def _safetensors_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} {stand_in(file) or 'is no whole safetensors file: ' + first_line(error)}") from error


def compare_state(module: nn.Module, state: State) -> KeyReport:
    wanted = module.state_dict()
    return KeyReport(
        missing=[key for key in wanted if key not in state and not is_counter(key)],
        unexpected=[key for key in state if key not in wanted],
        misshapen=[
            f"{key} {_described(state[key])}, not {_described(value)}"
            for key, value in wanted.items()
            if key in state and _described(state[key]) != _described(value)
        ],
    )


def is_counter(key: str) -> bool:
    """Whether it is a batch norm's count of batches: evaluation never reads it, and older weights have none."""
    return key.rpartition(".")[2] == "num_batches_tracked"


def shared_prefixes(keys: Iterable[str]) -> Iterator[str]:
    """The prefixes that all keys share, shortest first: a wrapper's, such as `module.` and `module.model.`"""
    all_keys, prefix = list(keys), ""
    while len(firsts := {key.removeprefix(prefix).partition(".")[:2] for key in all_keys}) == 1:
        first, dot = firsts.pop()
        if not dot:
            return
        prefix += first + dot
        yield prefix


def wrapped(keys: Iterable[str]) -> bool:
    """Whether some of the modules were wrapped when they were saved, or some more often than others.

    What wraps all of them is a prefix of all names.
    """
    return len({len(WRAPPERS.findall(key)) for key in keys}) > 1


def unwrapped(state: State) -> tuple[State, list[str]]:
    """The weights by the names that they have without wrappers, and what is to be said of that."""
    bare = {WRAPPERS.sub("", key): value for key, value in state.items()}
    if not wrapped(state) or len(bare) < len(state):  # some are there with and without
        return state, []
    found = sorted({name for key in state for name in WRAPPERS.findall(key)})
    return bare, [f"the wrappers {', '.join(found)} are taken out of the names"]


def _described(tensor: Tensor) -> str:
    """The shape, and the kind of number where it is no floating-point number: those are all read as float32."""
    return str(list(tensor.shape)) + ("" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", ""))


def assign_state(module: nn.Module, state: State) -> None:
    """Make the tensors of `state` the module's own, without a copy where they are float32 already.

    The counters that it lacks stay as they were built.
    """
    counters = {key: value for key, value in module.state_dict().items() if is_counter(key)}
    module.load_state_dict(
        counters | {key: value.float() if value.is_floating_point() else value for key, value in state.items()},
        strict=True,
        assign=True,
    )
    module.requires_grad_(False)


def files_sha256(files: Sequence[Path]) -> str:
    """Of one file its SHA-256; of shards the SHA-256 over their hex digests in the given order."""
    digests = []
    for file in files:
        digest = hashlib.sha256()
        for piece in _read_through(file):
            digest.update(piece)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_through(file: Path) -> Iterator[memoryview]:
    """The file's bytes in large pieces, all in one buffer: a piece is gone when the next one is asked for."""
    buffer = memoryview(bytearray(min(READ_BYTES, file.stat().st_size)))
    with file.open("rb", buffering=0) as opened:
        while length := opened.readinto(buffer):
            yield buffer[:length]


def read_ahead(files: Sequence[Path]) -> threading.Thread:
    """Read weight files into the page cache, in a thread, while the main one imports the library that builds the model.

    Else the first forward reads them by its page faults, a few pages at a time, and waits for each. They are sent to
    the null device, which copies nothing: what is in the cache already costs next to no time. A failure is left to
    whoever needs the bytes.
    """

    def read() -> None:
        with suppress(OSError), open(os.devnull, "wb") as null:
            for file in files:
                with file.open("rb") as opened:
                    offset = 0
                    while sent := os.sendfile(null.fileno(), opened.fileno(), offset, SEND_BYTES):
                        offset += sent

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def sha256_ahead(files: Sequence[Path]) -> Callable[[], str]:
    """As `read_ahead`, with the SHA-256 made on the way; what is returned waits, and gives what files_sha256 does."""
    future: Future[str] = Future()

    def read() -> None:
        try:
            future.set_result(files_sha256(files))
        except OSError as error:
            future.set_exception(error)

    threading.Thread(target=read, daemon=True).start()  # daemon: a run that ends early does not wait for it
    return future.result
