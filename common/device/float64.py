"""Float64: a module computed in it on the CPU, from its float32 weights as they are.

`module.double()` would need the weights once more at twice their size. Here each operator gets its arguments in
float64 when it is called: a weight is widened for that one call and freed, and what an operator gives stays float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.device.devices import dtype_name
from common.errors import UserError

WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
# They read or set what a tensor is, not its values: `weight.dtype`, `weight.shape`.
ATTRIBUTES = {"__get__", "__set__", "__delete__", "__len__", "size", "stride", "dim", "numel"}
CASTS = {"float", "half", "bfloat16"}


def sharing_weights(module: nn.Module) -> nn.Module:
    """A copy of the module around the same weights: what its forward caches must not meet a later one in float32."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


@contextmanager
def in_float64() -> Iterator[None]:
    """What modules compute inside the block is float64, whatever their weights are."""
    with torch.inference_mode(False), torch.no_grad(), _float64_by_default(), EveryOperatorInFloat64():
        yield


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """Tensors that model code makes without naming a dtype are float64 inside the block."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


class EveryOperatorInFloat64(TorchFunctionMode):
    """Give every operator float64 for float32 and less, in tensors and in the dtypes that are asked of it.

    So a cast of activations to their weight's dtype keeps all digits. What can't be kept is an error, not a rounding:
    an operator that gives less than float64 all the same, or writes into a tensor of less.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in ATTRIBUTES:
            return func(*args, **kwargs)
        if name in CASTS:
            return args[0].double()
        if name == "view" and any(isinstance(argument, torch.dtype) for argument in (*args, *kwargs.values())):
            raise _lost(name, "reads the bits of a tensor as another dtype")
        widened: list[Tensor] = []
        args_wide, kwargs_wide = _widen(args, widened), _widen(kwargs, widened)
        versions = [tensor._version for tensor in widened]  # they count writes, outside of inference mode alone
        result = func(*args_wide, **kwargs_wide)
        if versions != [tensor._version for tensor in widened]:
            raise _lost(name, "writes into a tensor of less than float64")
        narrow = _narrow_dtypes(result)
        if narrow and _has_tensor((args, kwargs)):
            raise _lost(name, f"gives {dtype_name(narrow.pop())} whatever it is given")
        return _widen(result, []) if narrow else result


def _lost(name: str, what: str) -> UserError:
    return UserError(f"no float64 reference of this model: its {name} {what}")


def _widen(value: Any, widened: list[Tensor]) -> Any:
    """`value` with float64 for float32 and less, inside lists, tuples and dicts too; new tensors join `widened`."""
    if isinstance(value, Tensor) and value.dtype in WIDE:
        widened.append(value.to(WIDE[value.dtype]))
        return widened[-1]
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if type(value) in (list, tuple):
        return type(value)(_widen(item, widened) for item in value)
    if type(value) is dict:
        return {key: _widen(item, widened) for key, item in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _narrow_dtypes(result: Any) -> set[torch.dtype]:
    return {leaf.dtype for leaf in _leaves(result) if isinstance(leaf, Tensor) and leaf.dtype in WIDE}


def _has_tensor(arguments: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in _leaves(arguments))
