"""What every run on a device begins and ends with: choosing it, its numerics, and what is recorded of both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import environment
from common.device import devices, fallback
from common.device.numerics import Numerics, in_force
from common.encoder import weights
from common.encoder.base import Encoder
from common.log.runlog import NoLog, RunLog


@dataclass(frozen=True)
class Session:
    """A device with a dtype and its numerics in force, and the log that its run writes."""

    device: torch.device
    dtype: torch.dtype
    numerics: Numerics
    log: RunLog

    def record(self, encoder: Encoder, output: Tensor, weights_sha256: str | None, **more: Any) -> None:
        """Write the `env` and `model` records, once the encoder has given an output; `more` is what this run adds."""
        record_environment(self.log, encoder.module, output)
        self.log.record("model", **encoder.fields(weights_sha256), **self.numerics.fields(), **more)
        if not output.isfinite().all():
            self._blame_weights(encoder)

    def _blame_weights(self, encoder: Encoder) -> None:
        """Name the weights that are NaN or infinite. Gigabytes take seconds: only where the output is not finite."""
        names = weights.nonfinite_names(encoder.module)
        if names:
            shown = weights.some_of(names)
            self.log.line(f"warning: {len(names)} weights hold NaN or infinity: {shown}")
            self.log.record("nonfinite_weights", tensors=names)


@contextmanager
def start(log: RunLog, device: str, dtype: str, numerics: str) -> Iterator[Session]:
    """Choose the device, put the numerics in force for the block and probe them; at its end say what fell back."""
    chosen = devices.select_device(device)
    name = devices.describe_device(chosen)
    if not isinstance(log, NoLog):
        environment.write_check(log.folder, device=str(chosen), device_name=name)
    log.line(f"Device: {chosen} ({name}), {dtype}")
    with (
        fallback.noticed(chosen.type) as fallen_back,
        in_force(numerics, chosen, getattr(torch, dtype)) as found,
    ):
        found.report(log)
        yield Session(chosen, getattr(torch, dtype), found, log)
    if fallen_back:
        log.line(f"warning: these operators ran on the CPU, not on {chosen}: {', '.join(sorted(fallen_back))}")
        log.record("fallback", operators=sorted(fallen_back))


def record_environment(log: RunLog, module: nn.Module, output: Tensor) -> None:
    """Write the `env` record. The device is read from a parameter and an output, not from the flag."""
    device = output.device
    name = devices.describe_device(device)
    facts: dict[str, Any] = environment.host_facts()
    facts |= {
        "device": str(device),
        "parameters_device": str(next(module.parameters()).device),
        "device_name": name,
        "simulated": device.type == "npu" and environment.names_a_simulation(name, facts["torch_npu"]),
        "device_count": 0 if device.type == "cpu" else devices.device_module(device).device_count(),
        "cpu_threads": torch.get_num_threads(),
    }
    if device.type == "npu":
        npu = devices.device_module(device)
        facts["cann"] = _cann_version(npu) or facts["cann"]
        facts["allow_hf32"] = {"conv": npu.conv.allow_hf32, "matmul": npu.matmul.allow_hf32}
        facts["fallback_disabled"] = os.environ.get("TORCH_NPU_FALLBACK_CPU_DISABLE") == "1"
    log.record("env", **facts)


def _cann_version(npu: ModuleType) -> str | None:
    """What torch_npu says of the CANN that it runs on; None where this torch_npu does not say."""
    get_version = getattr(getattr(npu, "utils", None), "get_cann_version", None)
    return str(get_version()) if get_version else None
