"""The simulated devices: the memory they have handed out and the kernels they still have to run."""

import time

import torch

from torch_npu.report import activity
from torch_npu.settings import MIB, settings

ALLOCATION_BYTES = 512  # torch_npu's allocator, like CUDA's, rounds every block up to this


class Device:
    """One NPU.  Kernels queue on it: ``busy_until`` is when the last one will have finished."""

    def __init__(self, index: int, physical_id: int) -> None:
        self.index = index
        self.physical_id = physical_id
        self.capacity = settings.memory_bytes
        self.allocated = 0
        self.peak = 0
        self.busy_until = 0.0  # on time.perf_counter()'s clock

    def launch(self, operator: str) -> None:
        """Queue a kernel behind those already there, without waiting for it."""
        activity.operators[operator] += 1
        activity.kernels_by_device[self.physical_id] += 1
        seconds = settings.operator_seconds.get(operator, settings.kernel_seconds)
        if seconds:
            self.busy_until = max(self.busy_until, time.perf_counter()) + seconds

    def wait(self, until: float | None = None) -> None:
        """Make the host wait for ``until``, by default for all queued kernels."""
        activity.synchronisations += 1
        remaining = (self.busy_until if until is None else until) - time.perf_counter()
        delay = max(remaining, 0) + settings.sync_seconds
        if delay > 0:
            time.sleep(delay)

    def check_room(self, nbytes: int) -> None:
        """Raise torch.OutOfMemoryError unless ``nbytes`` more would fit."""
        if self.allocated + nbytes > self.capacity:
            raise self.out_of_memory(nbytes)

    def reserve(self, nbytes: int) -> int:
        """Count a block that holds ``nbytes``; returns the block's size, to be released later."""
        block = -(-nbytes // ALLOCATION_BYTES) * ALLOCATION_BYTES
        self.check_room(block)
        self.allocated += block
        self.peak = max(self.peak, self.allocated)
        return block

    def release(self, block: int) -> None:
        """Count a block as free again."""
        self.allocated -= block

    def out_of_memory(self, nbytes: int) -> torch.OutOfMemoryError:
        """The error torch_npu's allocator raises, in its words."""
        allocated = _readable(self.allocated)
        return torch.OutOfMemoryError(
            f"NPU out of memory. Tried to allocate {_readable(nbytes)} (NPU {self.index}; "
            f"{_readable(self.capacity)} total capacity; {allocated} already allocated; "
            f"{allocated} current active; {_readable(self.capacity - self.allocated)} free; "
            f"{allocated} reserved in total by PyTorch) If reserved memory is >> allocated memory "
            "try setting max_split_size_mb to avoid fragmentation."
        )


def _readable(nbytes: int) -> str:
    gib = 1024 * MIB
    return f"{nbytes / gib:.2f} GiB" if nbytes >= gib else f"{nbytes / MIB:.2f} MiB"


devices = [Device(index, physical_id) for index, physical_id in enumerate(settings.device_ids)]
_current_index = 0


def current_index() -> int:
    """Index of the device that ``torch.device("npu")`` means."""
    return _current_index


def set_current(device: torch.device | str | int) -> None:
    """Make ``device`` the one that ``torch.device("npu")`` means."""
    global _current_index
    _current_index = get(device).index


def get(device: torch.device | str | int | None = None) -> Device:
    """The device meant by a torch.device, a string, an index or None (the current device)."""
    if device is None:
        index = _current_index
    elif isinstance(device, int):
        index = device
    else:
        device = torch.device(device)
        if device.type != "npu":
            raise ValueError(f"Expected a npu device, but got: {device}")
        index = _current_index if device.index is None else device.index
    if not 0 <= index < len(devices):
        raise RuntimeError(f"Invalid device ID: {index} ({len(devices)} simulated NPU(s) visible)")
    return devices[index]
