"""The operators that need a kernel of their own on the simulated device, and their registration."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_npu import device as npu_device
from torch_npu import dispatch, tensors

aten = torch.ops.aten
_libraries: list[torch.library.Library] = []  # registrations live as long as these objects

# CPU kernels that only make another tensor over the same storage serve any device as they are.
_METADATA_ONLY = (
    aten.as_strided.default,
    aten.view.default,
    aten._reshape_alias.default,
    aten.unfold.default,
    aten.view_as_real.default,
    aten.view_as_complex.default,
    aten.set_.source_Storage_storage_offset,
)
# torch would compose these of smaller operators, as it does not on the CPU: taken whole, their
# results equal the CPU's to the bit.  (Taken whole they have no derivative; nothing here trains.)
_TAKEN_WHOLE = (
    aten.native_layer_norm.default,
    aten.native_group_norm.default,
    aten.native_batch_norm.default,
    aten.linear.default,
    aten.scaled_dot_product_attention.default,
)


def register() -> None:
    """Give the device its kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of every kernel that replaces another
        _register_aten()
        _register_npu()


def _register_aten() -> None:
    everything = _library("_", "IMPL")
    everything.fallback(dispatch.fallback, "PrivateUse1")
    library = _library("aten", "IMPL")
    own: dict[str, Callable[..., Any]] = {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "_to_copy": _to_copy,
        "_copy_from": _copy_from,
        "_copy_from_and_resize": _copy_from_and_resize,
        "resize_": _resize_,
        "set_.source_Storage": _set_storage,
        "set_.source_Tensor": _set_tensor,
        "convolution_overrideable": _convolution,
    }
    for name, kernel in own.items():
        library.impl(name, kernel, "PrivateUse1")
    for op in _METADATA_ONLY:
        library.impl(op, _unchanged(op), "PrivateUse1")
    for op in _TAKEN_WHOLE:
        library.impl(op, _whole(op), "PrivateUse1")


def _register_npu() -> None:
    """``torch_npu.npu_gelu``: unlike native GELU it always honours ``approximate``."""
    library = _library("npu", "FRAGMENT")
    library.define('npu_gelu(Tensor self, *, str approximate="none") -> Tensor')
    library.impl("npu_gelu", _npu_gelu, "PrivateUse1")


def _library(namespace: str, kind: str) -> torch.library.Library:
    library = torch.library.Library(namespace, kind)
    _libraries.append(library)
    return library


def _unchanged(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: op.redispatch(tensors.CPU_KEY, *args, **kwargs)


def _whole(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: dispatch.fallback(op, *args, **kwargs)


def _npu_gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return dispatch.run(aten.gelu.default, "npu_gelu", [x], {"approximate": approximate})


def _convolution(*args: Any) -> torch.Tensor:
    """A backend of torch's own gets convolutions under this name; the CPU's kernel has another."""
    return dispatch.run(aten.convolution.default, "convolution", args, {})


# ---------------------------------------------------------------------------------- allocation
def _empty(
    size: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    target = npu_device.get(device)
    dtype = dtype or torch.get_default_dtype()
    target.check_room(math.prod(size) * dtype.itemsize)  # before the host allocates that much
    memory_format = memory_format or torch.contiguous_format
    return tensors.on_device(torch.empty(tuple(size), dtype=dtype, device="cpu", memory_format=memory_format), target)


def _empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    target = npu_device.get(device)
    dtype = dtype or torch.get_default_dtype()
    elements = 0 if 0 in size else 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    target.check_room(elements * dtype.itemsize)
    return tensors.on_device(torch.empty_strided(tuple(size), tuple(stride), dtype=dtype, device="cpu"), target)


def _resize_(
    tensor: torch.Tensor, size: Sequence[int], memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    shape = torch.empty(tuple(size), device="meta", memory_format=memory_format or torch.contiguous_format)
    offset = int(tensor.storage_offset())
    elements = offset + shape.numel()
    storage = tensor.untyped_storage()
    if elements * tensor.element_size() > storage.nbytes():
        grown = _empty((elements,), dtype=tensor.dtype, device=tensor.device)
        if tensor.numel():
            tensors.on_host(grown)[: tensor.numel()].copy_(tensors.on_host(tensor).flatten())
        storage = grown.untyped_storage()
    return _set(tensor, storage, offset, list(shape.size()), list(shape.stride()))


def _set(tensor: torch.Tensor, storage: Any, offset: int, size: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    op = aten.set_.source_Storage_storage_offset
    return op.redispatch(tensors.CPU_KEY, tensor, storage, offset, size, stride)


def _set_storage(tensor: torch.Tensor, storage: Any) -> torch.Tensor:
    return _set(tensor, storage, 0, [storage.nbytes() // tensor.element_size()], [1])


def _set_tensor(tensor: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    offset = int(source.storage_offset())
    return _set(tensor, source.untyped_storage(), offset, source.size(), source.stride())


# ------------------------------------------------------------------------------------ transfers
def _to_copy(tensor: torch.Tensor, *, non_blocking: bool = False, **options: Any) -> torch.Tensor:
    """Tensor.to(): torch would ask for pinned memory, which there is none of, if it need not wait."""
    if non_blocking and options.get("device") == torch.device("cpu"):
        return torch.empty_like(tensor, **options).copy_(tensor, non_blocking=True)
    return aten._to_copy.default.redispatch(tensors.CPU_KEY, tensor, non_blocking=non_blocking, **options)


def _copy_from(src: torch.Tensor, dst: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copy to, from or between devices; only a blocking copy to the host makes the host wait."""
    device = npu_device.get((src if src.device.type == "npu" else dst).device)
    dispatch.launch("copy", device)
    if dst.device.type == "cpu" and not non_blocking:
        device.wait()
    target = tensors.on_host(dst) if dst.device.type == "npu" else dst
    target.copy_(tensors.on_host(src) if src.device.type == "npu" else src)
    return dst


def _copy_from_and_resize(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    dst.resize_(src.shape)
    return _copy_from(src, dst)
