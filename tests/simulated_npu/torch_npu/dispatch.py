"""How an operator runs on the simulated device: by the CPU's kernel, over the same memory."""

from collections.abc import Sequence
from typing import Any

import torch

from torch_npu import device as npu_device
from torch_npu import faults, tensors
from torch_npu.device import Device
from torch_npu.module_forward import outermost, tensors_in
from torch_npu.numerics import as_the_device_computes

# operators that take a host tensor beside device tensors, as on a real device
_MIXED_DEVICES_ALLOWED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "copy"}
# no torch_npu has a kernel for these
_WITHOUT_KERNEL = {"special_erfcx"}
# the cube unit computes no float64
_CUBE_OPERATORS = {"mm", "bmm", "addmm", "baddbmm", "linear", "convolution", "scaled_dot_product_attention"}


def fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """The kernel of every operator that has none of its own; registered for the whole device."""
    return run(op, op._schema.name.rpartition("::")[2], args, kwargs)


def run(op: Any, operator: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run ``op`` on the device of its tensors (or of its ``device`` argument).

    ``operator`` is the name under which it is counted, computed and made to fail.
    """
    device = _device_of(operator, args, kwargs)
    launch(operator, device)
    firing = faults.for_call(operator)
    faults.before_kernel(firing, operator, device)
    if operator in _WITHOUT_KERNEL:
        faults.fall_back(operator, device)
    if operator in _CUBE_OPERATORS and any(tensor.dtype == torch.float64 for tensor in tensors_in(list(args))):
        raise RuntimeError(f"call aclnn{operator} failed, detail: EZ1001: a tensor of DT_DOUBLE is not supported")

    memory = _SharedMemory(device)
    host_args = [memory.on_host(arg) for arg in args]
    host_kwargs = {name: memory.on_host(value) for name, value in kwargs.items()}
    if kwargs.get("device") is not None:
        host_kwargs["device"] = torch.device("cpu")
    unsized = memory.replace_unsized_outputs(host_kwargs, kwargs)
    host_args, host_kwargs = as_the_device_computes(operator, host_args, host_kwargs)
    result = op(*host_args, **host_kwargs)
    faults.after_kernel(firing, result)
    for output, computed in unsized:
        output.resize_(computed.shape)
        tensors.on_host(output).copy_(computed)
    return memory.on_device(result)


def launch(operator: str, device: Device) -> None:
    """Queue ``operator`` on ``device``, inside whichever module forward is running."""
    outermost.kernel_launched()
    device.launch(operator)


def _device_of(operator: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Device:
    """Where the operator runs; RuntimeError when its tensors are on more than one device."""
    given = list(tensors_in([args, kwargs]))
    on_npu = [tensor for tensor in given if tensor.device.type == "npu"]
    if not on_npu:
        return npu_device.get(kwargs.get("device"))
    device = npu_device.get(on_npu[0].device)
    strays = {str(tensor.device) for tensor in on_npu} - {f"npu:{device.index}"}
    if operator not in _MIXED_DEVICES_ALLOWED:
        # a 0-dimensional host tensor is a number and may go anywhere
        strays |= {str(tensor.device) for tensor in given if tensor.device.type != "npu" and tensor.dim()}
    if strays:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"npu:{device.index} and {min(strays)}! (in aten::{operator})"
        )
    return device


class _SharedMemory:
    """The tensors of one call, each known under both devices."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.host_by_npu: dict[int, torch.Tensor] = {}  # by id() of the npu tensor
        self.npu_by_host: dict[int, torch.Tensor] = {}  # by id() of the host tensor

    def on_host(self, value: Any) -> Any:
        """``value`` with every npu tensor replaced by a host tensor over its memory."""
        if isinstance(value, torch.Tensor) and value.device.type == "npu":
            if id(value) not in self.host_by_npu:
                host = tensors.on_host(value)
                self.host_by_npu[id(value)] = host
                self.npu_by_host[id(host)] = value
            return self.host_by_npu[id(value)]
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(self.on_host(item) for item in value)
        return value

    def replace_unsized_outputs(
        self, host_kwargs: dict[str, Any], kwargs: dict[str, Any]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Let empty ``out=`` tensors be computed aside, since a shared memory cannot grow.

        Returns (npu tensor, host tensor that will hold its content) pairs.
        """
        unsized = []
        for name, value in kwargs.items():
            if name.startswith("out") and isinstance(value, torch.Tensor) and not value.numel():
                host_kwargs[name] = torch.empty(0, dtype=value.dtype)
                self.npu_by_host[id(host_kwargs[name])] = value
                unsized.append((value, host_kwargs[name]))
        return unsized

    def on_device(self, value: Any) -> Any:
        """A kernel's host result as the device's (views never come here: they are metadata only)."""
        if isinstance(value, torch.Tensor):
            if id(value) in self.npu_by_host:  # in-place and out= operators return their argument
                return self.npu_by_host[id(value)]
            if value.device.type != "cpu":
                return value
            return tensors.on_device(value, self.device)
        if isinstance(value, (list, tuple)):
            return type(value)(self.on_device(item) for item in value)
        if value is not None and self.host_by_npu:
            self.device.wait()  # item(), equal(): the host reads a value, so it has to wait for it
        return value
