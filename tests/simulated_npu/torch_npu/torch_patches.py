"""Replacements for what torch would ask of a device's C++ code, which this device does not have."""

import functools
import warnings
from typing import Any

import torch

from torch_npu import device as npu_device
from torch_npu import faults, npu, tensors


def apply() -> None:
    """Patch torch, once for each process."""
    _patch_accelerator()
    _patch_storage()
    _patch_pin_memory()
    _patch_module_to()
    _patch_double()


def _patch_accelerator() -> None:
    accelerator = torch.accelerator
    for name in (
        "synchronize",
        "empty_cache",
        "memory_allocated",
        "max_memory_allocated",
        "memory_reserved",
        "max_memory_reserved",
        "memory_stats",
        "reset_peak_memory_stats",
    ):
        setattr(accelerator, name, getattr(npu, name))
    accelerator.get_memory_info = npu.mem_get_info
    accelerator.current_device_index = npu.current_device
    accelerator.set_device_index = npu.set_device


def _patch_storage() -> None:
    """UntypedStorage(n, device="npu"): torch.load(map_location=) and copy.deepcopy come this way."""
    new_storage = torch._C.StorageBase.__new__

    def new(cls: type, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None:
            return new_storage(cls, *args, **kwargs)
        if torch.device(device).type != "npu":
            return new_storage(cls, *args, device=device, **kwargs)  # type: ignore[call-arg]
        host = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage(*args))
        return tensors.on_device(host, npu_device.get(device)).untyped_storage()

    torch.UntypedStorage.__new__ = new  # type: ignore[method-assign]


def _patch_pin_memory() -> None:
    """Pinned memory is ordinary memory here."""
    torch.Tensor.pin_memory = lambda self, device=None: self.clone()  # type: ignore[method-assign]


def _patch_double() -> None:
    """Tensor.double() gives float32 on the device, with a warning, as torch_npu's does."""
    double = torch.Tensor.double

    @functools.wraps(double)
    def double_or_float(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.device.type != "npu":
            return double(self, *args, **kwargs)
        warnings.warn("Device do not support double dtype now, dtype cast replace with float.", stacklevel=2)
        return self.float()

    torch.Tensor.double = double_or_float  # type: ignore[method-assign]


def _patch_module_to() -> None:
    """nn.Module.to() on which the fault to:stay acts."""
    to = torch.nn.Module.to

    @functools.wraps(to)
    def to_or_stay(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type == "npu" and faults.modules_stay_on_the_cpu():
            return self
        return to(self, *args, **kwargs)

    torch.nn.Module.to = to_or_stay  # type: ignore[method-assign, assignment]
