"""Devices: choosing one, and placing and running an encoder on it."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.cli import environment
from common.cli.launch import why_torch_npu_fails
from common.cli.options import ACCELERATORS
from common.errors import LONGEST_REASON, DeviceError, UserError, first_line

MIB = 1024 * 1024
# In what torch and torch_npu raise for a device.
DRIVER_WORDS = ("NPU", "ACL", "ERR0", "aclnn", "error code", "CUDA", "cuDNN", "CUBLAS")
CANN_CODE = re.compile(r"(E[A-Z]?\d{4,5}: |\[Error\]: )")
Outputs = tuple[Tensor, Tensor]  # embedding [B, D], hidden_state [B, T, C]


def select_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `npu`, `npu:1` ... names; auto takes the first of DEVICE_KINDS that is there.

    Raises UserError, saying what is missing, for an explicit device that is not there: never a silent fallback.
    """
    if name == "auto":
        name = next((kind for kind in ACCELERATORS if _why_absent(kind, 0) is None), "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    reason = _why_absent(kind, int(index or 0))
    if reason:
        raise UserError(f"--device {name}: {reason}; --device cpu runs without it")
    device = torch.device(kind, int(index or 0))
    with failures_of(device, "to start"):
        device_module(device).set_device(device)
        synchronize(device)
    return device


def _why_absent(kind: str, index: int) -> str | None:
    """Why the device can't be used; None where it can."""
    if kind == "npu":
        if importlib.util.find_spec("torch_npu") is None:
            return "torch_npu is not installed (it comes with the Ascend container, not from requirements.txt)"
        try:
            importlib.import_module("torch_npu")  # registers torch.npu where torch did not load it by itself
        except Exception as error:  # a half installed CANN is a plain Exception of torch_npu's
            return why_torch_npu_fails(error)
    module = getattr(torch, kind)
    owner = "torch_npu" if kind == "npu" else "torch"
    with failures_of(torch.device(kind, index), "to start"):
        count = module.device_count() if module.is_available() else 0
    if index < count:
        return None
    visible = environment.visible_devices()
    found = f"{count} {kind.upper()} device{'' if count == 1 else 's'}{f' with {visible}' if visible else ''}"
    order = "; CANN wants the devices in ascending order there" if environment.descends(visible) else ""
    return f"{owner} {environment.package_version(owner)} finds {found}{order}"


def device_module(device: torch.device) -> ModuleType:
    """What torch has for a kind of device: torch.npu, torch.cuda, torch.cpu."""
    module: ModuleType = torch.get_device_module(device)
    return module


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all that was queued on it."""
    if device.type != "cpu":
        device_module(device).synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    if device.type != "cpu":
        device_module(device).reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """MiB of device memory that tensors took at most since `reset_peak_memory`; None on the CPU, which has no count."""
    if device.type == "cpu":
        return None
    return float(device_module(device).max_memory_allocated(device)) / MIB


def foreign_memory_mb(device: torch.device) -> float | None:
    """MiB of device memory in use that this process's tensors and their cache do not hold; None on the CPU.

    What the driver takes for this process is among it: some hundred MiB.
    """
    module = device_module(device)
    if device.type == "cpu" or not hasattr(module, "mem_get_info"):
        return None
    free, total = module.mem_get_info(device)
    return max(0.0, float(total - free - module.memory_reserved(device))) / MIB


def empty_cache(device: torch.device) -> None:
    """Give cached device memory back, after an out of memory."""
    if device.type != "cpu":
        device_module(device).empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """By type, and by words for torch_npu's older branches, which raise a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def describe_device(device: torch.device) -> str:
    return environment.cpu_model() or "CPU" if device.type == "cpu" else device_module(device).get_device_name(device)


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move the encoder to the device and dtype, in place, and make sure that it arrived.

    Raises UserError when the memory does not suffice or a part of the encoder is elsewhere.
    """
    try:
        module.to(device, dtype)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{device} has too little memory for the weights in {dtype_name(dtype)}") from error
    elsewhere = {str(tensor.device) for tensor in module.state_dict().values() if tensor.device != device}
    if elsewhere:
        raise UserError(f"asked for {device}, but weights are on {', '.join(sorted(elsewhere))}")


def copied(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """As `place`, of a copy: the module stays where it is. Weights that need no move are shared by both."""
    shared = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) if isinstance(tensor, nn.Parameter) else tensor
        for tensor in (*module.parameters(), *module.buffers())
    }
    made = copy.deepcopy(module, shared)
    place(made, device, dtype)
    return made


def forward(module: nn.Module, pixel_values: Tensor) -> Outputs:
    """Run the encoder on pixel_values [B, 3, H, W], which are on its device, without autograd."""
    with torch.inference_mode():
        outputs: Outputs = module(pixel_values)
    return outputs


def encode(module: nn.Module, pixel_values: Tensor) -> Outputs:
    """As `forward`, with a device's failure and outputs on another device reported as a UserError."""
    device = pixel_values.device
    with failures_of(device, f"at batch size {len(pixel_values)}"):
        outputs = forward(module, pixel_values)
    elsewhere = {str(output.device) for output in outputs if output.device != device}
    if elsewhere:
        raise UserError(f"the input is on {device}, but the outputs are on {', '.join(sorted(elsewhere))}")
    return outputs


def encode_singly(
    module: nn.Module, pixel_values: Tensor, device: torch.device, dtype: torch.dtype
) -> Iterator[Outputs]:
    """The outputs of each image of pixel_values [N, 3, H, W] alone, as they come, by an encoder on the device."""
    for pixels in tqdm(pixel_values[:, None], f"{device} {dtype_name(dtype)}", unit="image", disable=None):
        yield encode(module, pixels.to(device, dtype))


@contextmanager
def failures_of(device: torch.device, doing: str) -> Iterator[None]:
    """Report what the device can't do in the block as a DeviceError. On the CPU only memory is no fault of ours."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise DeviceError(f"{device} is out of memory {doing}") from error
        if device.type == "cpu":
            raise
        raise DeviceError(f"{device} failed {doing}: {_reason(error)}") from error


def is_told_by_a_driver(error: RuntimeError, device: torch.device) -> bool:
    return device.type != "cpu" and any(word in str(error) for word in DRIVER_WORDS)


@contextmanager
def late_failures_of(device: torch.device) -> Iterator[None]:
    """Likewise for a whole run, of what torch's driver says so plainly.

    An operator that failed is told of by any later call that waits for the device, a copy or a reading too.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_told_by_a_driver(error, device) and not (is_out_of_memory(error) and device.type != "cpu"):
            raise
        with failures_of(device, "during the run"):
            raise


def _reason(error: RuntimeError) -> str:
    """The error in a line, with what CANN says of it further down, and without what it says of asynchronous calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines[1:] if CANN_CODE.match(line)), "")
    return f"{first_line(error)}{f' ({told})' if told else ''}"[: 2 * LONGEST_REASON]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
