"""Blocks: in which block of an encoder a device's error arises, found with one image and without dump files."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from common.device import devices
from common.log.events import Layer
from common.log.formulas import STANDS_OUT, rounding_of, size_of

Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments and keyword arguments of a block


# -------------------------------------------------------------------------------------------------------- the chain
def find_blocks(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks of a model's main chain with their qualified names, in the order in which they are registered.

    The chain is the ModuleList or Sequential of at least two children that holds the most parameters, the innermost of
    equals: timm's `blocks`, transformers' `layers` and `encoder.layer`, the stages of Swin and ConvNeXt. Its siblings
    that differ from it by a number alone belong to it (ResNet's `layer1` to `layer4`), and a child that is a plain
    Sequential or ModuleList stands for its own children (EfficientNet's stages). A model without such a chain counts
    with its own children (RegNet). Raises ValueError for one that has no parts.
    """
    names = find_chain(module)
    if not names:
        return _parts("", module)
    return [block for name in names for block in _children(name, module.get_submodule(name))]


def find_chain(module: nn.Module) -> list[str]:
    """The qualified names of the lists that make up the main chain; none where the model has no list."""
    chains = {
        name: _count_parameters(found)
        for name, found in module.named_modules()
        if isinstance(found, (nn.ModuleList, nn.Sequential)) and len(found) >= 2
    }
    if not chains:
        return []
    largest = max(chains.values())
    main = [name for name, count in chains.items() if count == largest][-1]
    parent, _, leaf = main.rpartition(".")
    kin = [name for name, _ in module.get_submodule(parent).named_children() if _stem(name) == _stem(leaf)]
    names = [main] if leaf.isdecimal() or main == "" else [f"{parent}.{name}" if parent else name for name in kin]
    return [name for name in names if name in chains]


def _stem(name: str) -> str:
    return re.sub(r"\d+$", "", name)


def _parts(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a model, or of the only one that it wraps."""
    children = [(f"{prefix}.{leaf}" if prefix else leaf, child) for leaf, child in module.named_children()]
    if not children:
        raise ValueError(f"{type(module).__name__} has no parts")
    return _parts(*children[0]) if len(children) == 1 else children


def _children(prefix: str, chain: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for leaf, child in chain.named_children():
        name = f"{prefix}.{leaf}" if prefix else leaf
        found += _children(name, child) if type(child) in (nn.Sequential, nn.ModuleList) else [(name, child)]
    return found


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------------------------ the profile
def profile(reference: nn.Module, device_module: nn.Module, pixel_values: Tensor) -> list[Layer]:
    """The errors of each block for pixel_values [1, 3, H, W], and the block to blame.

    `reference` is the encoder in float32 on the CPU, `device_module` the same encoder on a device, in its dtype. Each
    runs once, and each device block once more. Only the device's block outputs are kept, on the host; the CPU's are
    compared as they come. A block that does not run, or more than once, counts with its first call or not at all.
    """
    own = _DeviceBlocks(device_module, pixel_values)
    layers: list[Layer] = []
    isolated: dict[str, list[Tensor]] = {}

    def before(name: str, call: Call) -> None:
        # Before the CPU's block runs, which may change its inputs in place.
        isolated[name] = own.run_alone(name, call)

    def after(name: str, output: Any) -> None:
        expected = _host_copies(output)
        propagated = _relative_l2(expected, own.outputs[name])
        alone = _relative_l2(expected, isolated.pop(name))
        layers.append(Layer(block=len(layers), name=name, propagated=propagated, isolated=alone))

    _run_with_hooks(reference, pixel_values.to("cpu", torch.float32, copy=True), before, after)
    return mark_blamed(layers, own.dtype)


class _DeviceBlocks:
    """The blocks of the encoder on the device: what they gave in their own run, and each alone on other inputs."""

    def __init__(self, module: nn.Module, pixel_values: Tensor) -> None:
        first = next(module.parameters())
        self.dtype = first.dtype
        self.device = first.device
        self.blocks = dict(find_blocks(module))
        self.outputs: dict[str, list[Tensor]] = {}
        self._dtypes: dict[str, list[torch.dtype | None]] = {}
        self._run(module, pixel_values)

    def _run(self, module: nn.Module, pixel_values: Tensor) -> None:
        def before(name: str, call: Call) -> None:
            self._dtypes[name] = [_dtype(value) for value in tree_leaves(call)]

        def after(name: str, output: Any) -> None:
            self.outputs[name] = _host_copies(output)

        _run_with_hooks(module, pixel_values.to(self.device, self.dtype, copy=True), before, after)

    def run_alone(self, name: str, call: Call) -> list[Tensor]:
        """The outputs, on the host, of one block for a call of the CPU's: copied, and of the dtypes of its own call.

        Not all of them are the encoder's dtype: position tables, for example, stay in float32 in some models.
        """
        dtypes = iter(self._dtypes[name])
        args, kwargs = tree_map(lambda value: self._place(value, next(dtypes, None)), call)
        return _host_copies(self.blocks[name](*args, **kwargs))

    def _place(self, value: Any, dtype: torch.dtype | None) -> Any:
        return value.to(self.device, dtype or value.dtype, copy=True) if isinstance(value, Tensor) else value


def _dtype(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, Tensor) else None


def _run_with_hooks(
    module: nn.Module,
    pixel_values: Tensor,
    before: Callable[[str, Call], None],
    after: Callable[[str, Any], None],
) -> None:
    """Run an encoder, with `before` and `after` called around the first call of each of its blocks."""
    started: set[str] = set()
    entered: set[str] = set()  # and not yet left; a block that `before` runs again is not entered

    def enter(name: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name not in started:
            started.add(name)
            before(name, (args, kwargs))
            entered.add(name)

    def leave(name: str, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if name in entered:
            entered.remove(name)
            after(name, output)

    handles: list[RemovableHandle] = []
    try:
        for name, block in find_blocks(module):
            handles.append(block.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
            handles.append(block.register_forward_hook(partial(leave, name)))
        devices.forward(module, pixel_values)
    finally:
        for handle in handles:
            handle.remove()


def _host_copies(output: Any) -> list[Tensor]:
    """The floating-point tensors that a block returned, alone or in tuples, as they are now, on the host."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return [tensor.to("cpu", copy=True) for tensor in tensors]


def _relative_l2(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float | None:
    """||found - expected|| / ||expected|| over all tensors of a block; None where it is not finite."""
    r = torch.cat([tensor.double().flatten() for tensor in expected])
    y = torch.cat([tensor.double().flatten() for tensor in found])
    error = float((y - r).norm() / r.norm()) if not torch.equal(y, r) else 0.0
    return error if math.isfinite(error) else None


# -------------------------------------------------------------------------------------------------------- the blame
def mark_blamed(layers: Sequence[Layer], dtype: torch.dtype) -> list[Layer]:
    """Blame the first block whose own error is 10 times the median of all and more than rounding.

    A cause that acts in all blocks alike moves the median too: then none stands out. The lower median, so that of two
    blocks one can stand out.
    """
    if not layers:
        return []
    middle = statistics.median_low([size_of(layer.isolated) for layer in layers])
    threshold = max(STANDS_OUT * middle, rounding_of(devices.dtype_name(dtype)))
    first = next((layer for layer in layers if size_of(layer.isolated) > threshold), None)
    return [replace(layer, blamed=layer is first) for layer in layers]
