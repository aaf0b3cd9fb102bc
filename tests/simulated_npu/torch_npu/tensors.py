"""One memory under two devices.

A DLPack capsule names its device in two integers.  Rewriting them between export and import makes
a host tensor an ``npu:N`` tensor over the same memory, or the reverse, without a copy.
"""

import ctypes
import weakref

import torch

from torch_npu.device import Device

CPU_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_DL_CPU, _DL_EXT_DEV = 1, 12  # DLPack's codes for the host and for torch's PrivateUse1


class _DLTensorHead(ctypes.Structure):
    """The first fields of DLPack's DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
    ]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A host tensor over an ``npu`` tensor's memory."""
    return _relabel(tensor, _DL_CPU, 0)


def on_device(host: torch.Tensor, device: Device) -> torch.Tensor:
    """An ``npu`` tensor over ``host``'s memory, counted as allocated until its storage is freed."""
    block = device.reserve(host.untyped_storage().nbytes())
    tensor = _relabel(host, _DL_EXT_DEV, device.index)
    # The capsule keeps ``host`` alive exactly as long as the npu storage lives.
    weakref.finalize(host, device.release, block).atexit = False
    return tensor


def _relabel(tensor: torch.Tensor, dl_device: int, index: int) -> torch.Tensor:
    capsule = torch._C._to_dlpack(tensor)
    head = _DLTensorHead.from_address(_capsule_pointer(capsule, b"dltensor"))
    head.device_type, head.device_id = dl_device, index
    relabelled = torch._C._from_dlpack(capsule)
    if relabelled.stride() != tensor.stride():  # DLPack normalises the strides of size-1 dimensions
        as_strided = torch.ops.aten.as_strided.default  # the CPU's kernel serves any device: metadata only
        return as_strided.redispatch(CPU_KEY, relabelled, tensor.size(), tensor.stride(), 0)
    return relabelled
