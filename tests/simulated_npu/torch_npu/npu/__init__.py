"""``torch.npu``: the part of it that an inference or benchmark script uses, as in torch.cuda."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torch_npu import device as _device
from torch_npu.npu import utils as utils
from torch_npu.numerics import conv as conv
from torch_npu.numerics import matmul as matmul
from torch_npu.settings import MIB, settings

DeviceLike = torch.device | str | int | None


# ------------------------------------------------------------------------------------- devices
def is_available() -> bool:
    """Whether at least one device is visible."""
    return bool(_device.devices)


def is_initialized() -> bool:
    """There is nothing to initialise."""
    return True


def init() -> None:
    """There is nothing to initialise."""


_lazy_init = init


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    """Number of visible devices."""
    return len(_device.devices)


def current_device() -> int:
    """Index of the current device."""
    return _device.current_index()


def set_device(device: DeviceLike) -> None:
    """Make ``device`` current."""
    if device is not None:
        _device.set_current(device)


@contextlib.contextmanager
def device(device: DeviceLike) -> Iterator[None]:
    """Make ``device`` current for the duration of a ``with`` block."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


def get_device_name(device: DeviceLike = None) -> str:
    """The device's name, which says SIM; AssertionError for a device that is not there."""
    return get_device_properties(device).name


@dataclass(frozen=True)
class DeviceProperties:
    """The properties torch_npu tells of a device."""

    name: str
    total_memory: int  # bytes
    cube_core_num: int = 24
    vector_core_num: int = 48
    L2_cache_size: int = 192 * MIB


def get_device_properties(device: DeviceLike = None) -> DeviceProperties:
    """The device's properties; AssertionError for a device that is not there."""
    try:
        found = _device.get(device)
    except RuntimeError as error:
        raise AssertionError("Invalid device id") from error
    return DeviceProperties(settings.device_name, found.capacity)


def get_device_capability(device: DeviceLike = None) -> None:
    """Ascend has no compute capability: torch_npu answers None."""


# --------------------------------------------------------------------------- synchronisation
def synchronize(device: DeviceLike = None) -> None:
    """Wait for every kernel queued on ``device``."""
    _device.get(device).wait()


class Stream:
    """A device's queue of kernels; each simulated device has one."""

    stream_id = 0

    def __init__(self, device: DeviceLike = None, priority: int = 0, **_: Any) -> None:
        self._queue = _device.get(device)
        self.device_index = self._queue.index
        self.device = torch.device("npu", self.device_index)

    def synchronize(self) -> None:
        """Wait for every kernel queued."""
        self._queue.wait()

    def query(self) -> bool:
        """Whether every kernel queued has finished."""
        return time.perf_counter() >= self._queue.busy_until

    def wait_stream(self, stream: "Stream") -> None:
        """One queue is always in order."""

    def wait_event(self, event: "Event") -> None:
        """One queue is always in order."""

    def record_event(self, event: "Event | None" = None) -> "Event":
        """Record ``event``, or a new one, behind the kernels queued."""
        event = event or Event()
        event.record(self)
        return event


class Event:
    """A mark in a device's queue of kernels."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.enable_timing = enable_timing
        self._queue = _device.get()
        self._reached_at: float | None = None  # on time.perf_counter()'s clock

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of the kernels queued now."""
        self._queue = _device.get(None if stream is None else stream.device)
        self._reached_at = max(time.perf_counter(), self._queue.busy_until)

    def query(self) -> bool:
        """Whether the device has reached the mark."""
        return self._reached_at is None or time.perf_counter() >= self._reached_at

    def synchronize(self) -> None:
        """Wait until the device reaches the mark."""
        if self._reached_at is not None:
            self._queue.wait(self._reached_at)

    def wait(self, stream: Stream | None = None) -> None:
        """One queue is always in order."""

    def elapsed_time(self, end_event: "Event") -> float:
        """Milliseconds of device time between two recorded events; waits for the second."""
        if not (self.enable_timing and end_event.enable_timing):
            raise RuntimeError("Both events must be created with enable_timing=True")
        if self._reached_at is None or end_event._reached_at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time")
        end_event.synchronize()
        return (end_event._reached_at - self._reached_at) * 1e3


def current_stream(device: DeviceLike = None) -> Stream:
    """The device's only stream."""
    return Stream(device)


default_stream = current_stream


def set_stream(stream: Stream) -> None:
    """There is one stream."""


@contextlib.contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """There is one stream."""
    yield


# ------------------------------------------------------------------------------------- memory
def memory_allocated(device: DeviceLike = None) -> int:
    """Bytes held by tensors on ``device``."""
    return _device.get(device).allocated


def max_memory_allocated(device: DeviceLike = None) -> int:
    """Most bytes held by tensors since the start or the last reset_peak_memory_stats()."""
    return _device.get(device).peak


# nothing is cached: a freed block returns to the device at once
memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def reset_peak_memory_stats(device: DeviceLike = None) -> None:
    """Let max_memory_allocated() start anew from what is held now."""
    found = _device.get(device)
    found.peak = found.allocated


reset_max_memory_allocated = reset_peak_memory_stats


def memory_stats(device: DeviceLike = None) -> dict[str, int]:
    """The counters of the caching allocator that exist here."""
    found = _device.get(device)
    return {
        "allocated_bytes.all.current": found.allocated,
        "allocated_bytes.all.peak": found.peak,
        "reserved_bytes.all.current": found.allocated,
        "reserved_bytes.all.peak": found.peak,
    }


def mem_get_info(device: DeviceLike = None) -> tuple[int, int]:
    """Free and total bytes."""
    found = _device.get(device)
    return found.capacity - found.allocated, found.capacity


def empty_cache() -> None:
    """Nothing is cached."""


# ------------------------------------------------------------------------------------- options
def is_bf16_supported(including_emulation: bool = False) -> bool:
    """As on an Ascend 910B."""
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    """What torch.autocast("npu") may compute in."""
    return [torch.float16, torch.bfloat16, torch.float32]


def manual_seed(seed: int) -> None:
    """The device draws from the CPU's generator, which torch.manual_seed() seeds."""


manual_seed_all = manual_seed


def set_compile_mode(jit_compile: bool = False) -> None:
    """Nothing is compiled."""


def set_option(option: dict[str, str]) -> None:
    """No option has an effect here."""


class _Config:
    """``torch.npu.config``: as in torch_npu its options can be set, not read; none has an effect here."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        pass


config = _Config()
