"""The environment variables that configure the simulated NPU, read once, at import.

Its own:
    SIMULATED_NPU_DEVICES    number of devices (1)
    SIMULATED_NPU_MEMORY_MB  memory of each device in MiB (1024)
    SIMULATED_NPU_NAME       what get_device_name() answers; must contain SIM (Ascend910B-SIM)
    SIMULATED_NPU_KERNEL_US  device time of each kernel in microseconds (0); kernels queue, and only
                             a synchronisation (synchronize, Event, .cpu(), .item()) waits for them.
                             Operators by their ATen names may differ: 500,gelu=5000,linear=900
    SIMULATED_NPU_SYNC_US    what a synchronisation costs the host beyond the waiting, in microseconds (0)
    SIMULATED_NPU_HF32       1: honour torch.npu.{conv,matmul}.allow_hf32; 0: compute in fp32;
                             always: in HF32 whatever they say, as a device without the switch (1)
    SIMULATED_NPU_GELU       tanh: native GELU computes tanh whatever ``approximate`` asks;
                             exact: it computes what is asked (tanh)
    SIMULATED_NPU_FAULT      faults to inject, see faults.py (none)
    SIMULATED_NPU_REPORT     file to write a JSON report to at exit, see report.py (none)

torch_npu's and CANN's, with the meaning their documentation gives:
    ASCEND_RT_VISIBLE_DEVICES       the devices this process may use, renumbered from 0
    TORCH_NPU_USE_COMPATIBLE_IMPL   1: native GELU computes what ``approximate`` asks
    TORCH_NPU_FALLBACK_CPU_DISABLE  1: an operator that would fall back to the CPU raises
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "SIMULATED_NPU_"
MIB = 1024 * 1024

DEFAULTS = {
    "DEVICES": "1",
    "MEMORY_MB": "1024",
    "NAME": "Ascend910B-SIM",
    "KERNEL_US": "0",
    "SYNC_US": "0",
    "HF32": "1",
    "GELU": "tanh",
    "FAULT": "",
    "REPORT": "",
}
HF32 = {"0": "never", "1": "honoured", "always": "always"}


@dataclass(frozen=True)
class Settings:
    """What one process asks of the simulated NPU."""

    device_ids: tuple[int, ...]  # the physical device behind npu:0, npu:1, ...
    memory_bytes: int
    device_name: str
    kernel_seconds: float
    operator_seconds: dict[str, float]  # of those that differ, by their ATen names
    sync_seconds: float
    hf32: str  # honoured, never, always
    gelu_ignores_approximate: bool
    fault: str
    report: str
    cpu_fallback_disabled: bool


def visible_devices(visible: str | None, count: int) -> tuple[int, ...]:
    """Device ids selected by ASCEND_RT_VISIBLE_DEVICES; ``None`` (unset) selects all ``count``.

    CANN reads the comma-separated ids up to the first that is not a valid id; a space is enough to
    make one invalid.
    """
    if visible is None:
        return tuple(range(count))
    ids: list[int] = []
    for text in visible.split(","):
        if not re.fullmatch("[0-9]+", text) or int(text) >= count:
            break
        ids.append(int(text))
    return tuple(ids)


def read(environ: Mapping[str, str]) -> Settings:
    """Settings from ``environ``; ValueError for a variable or value that has no meaning here."""
    unknown = sorted(k for k in environ if k.startswith(PREFIX) and k.removeprefix(PREFIX) not in DEFAULTS)
    if unknown:
        raise ValueError(f"unknown variable {unknown[0]}; known: {', '.join(PREFIX + k for k in DEFAULTS)}")
    value = {name: environ.get(PREFIX + name, default) for name, default in DEFAULTS.items()}
    if "SIM" not in value["NAME"]:
        raise ValueError(f"{PREFIX}NAME={value['NAME']}: must contain SIM, or logs could pass for hardware's")
    if value["HF32"] not in HF32:
        raise ValueError(f"{PREFIX}HF32={value['HF32']}: must be 0, 1 or always")
    if value["GELU"] not in ("tanh", "exact"):
        raise ValueError(f"{PREFIX}GELU={value['GELU']}: must be tanh or exact")
    kernel_us, *others = value["KERNEL_US"].split(",")
    compatible = environ.get("TORCH_NPU_USE_COMPATIBLE_IMPL") == "1"
    return Settings(
        device_ids=visible_devices(environ.get("ASCEND_RT_VISIBLE_DEVICES"), int(value["DEVICES"])),
        memory_bytes=int(float(value["MEMORY_MB"]) * MIB),
        device_name=value["NAME"],
        kernel_seconds=float(kernel_us) * 1e-6,
        operator_seconds={name: float(us) * 1e-6 for name, _, us in (other.partition("=") for other in others)},
        sync_seconds=float(value["SYNC_US"]) * 1e-6,
        hf32=HF32[value["HF32"]],
        gelu_ignores_approximate=value["GELU"] == "tanh" and not compatible,
        fault=value["FAULT"],
        report=value["REPORT"],
        cpu_fallback_disabled=environ.get("TORCH_NPU_FALLBACK_CPU_DISABLE") == "1",
    )


settings = read(os.environ)
