"""What every run on a device begins and ends with: choosing it, its numerics, and what is recorded of both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from common.cli import environment, machine
from common.device import chips, devices, fallback
from common.device.numerics import Numerics, in_force
from common.encoder import weights
from common.encoder.base import Encoder
from common.log.bottlenecks import doubts_of_machine
from common.log.events import (
    PLACEBOS,
    AllowHf32,
    Cost,
    Env,
    Fallback,
    Machine,
    MachineSettings,
    Model,
    NonfiniteWeights,
    Npu,
    names_a_simulation,
)
from common.log.writer import NoLog, RunLog


@dataclass(frozen=True)
class Session:
    """A device with a dtype and its numerics in force, and the log that its run writes."""

    device: torch.device
    dtype: torch.dtype
    numerics: Numerics
    log: RunLog

    def record(
        self,
        encoder: Encoder,
        output: Tensor,
        *,
        hashed: bool = True,
        references: Iterable[str] | None = None,
        cost: Cost | None = None,
    ) -> tuple[Env, Model]:
        """Write the `env` and `model` events, and return them, once the encoder has given an output."""
        env, model = (
            describe_environment(encoder.module, output),
            Model(
                model=encoder.model,
                library=encoder.library,
                architecture=encoder.architecture,
                params=encoder.params,
                classifier=encoder.label is not None,
                weights_source=encoder.weights_source,
                weights_sha256=encoder.weights_sha256 if hashed else None,
                missing_keys=len(encoder.keys.missing),
                unexpected_keys=len(encoder.keys.unexpected),
                left_out_keys=len(encoder.keys.left_out),
                dtype=devices.dtype_name(next(encoder.module.parameters()).dtype),
                input_size=encoder.input_size,
                preprocess=encoder.preprocessing,
                numerics=self.numerics.mode,
                operators=sorted(self.numerics.operators),
                embedding_is=encoder.embedding_is,
                hub=encoder.hub,
                revision=encoder.revision,
                asked_size=encoder.asked_size,
                structure=encoder.structure or None,
                weights_changes=encoder.keys.changes or None,
                references=None if references is None else sorted(references),
                cost=cost,
            ),
        )
        self.log.record(env)
        self.log.record(model)
        if not output.isfinite().all():
            self._blame_weights(encoder)
        return env, model

    def record_machine(self, phase: str) -> None:
        """Write the `machine` event of the run's start or end, and warn of what spoils its figures."""
        settings = None
        if phase == "start":
            settings = MachineSettings(
                variables=machine.variables(),
                allocator=machine.preloaded_allocator(),
                governor=machine.frequency_policy("scaling_governor"),
                frequency_driver=machine.frequency_policy("scaling_driver"),
                allow_internal_format=chips.allows_internal_format(self.device),
            )
        found = Machine(
            phase=phase,
            foreign_memory_mb=devices.foreign_memory_mb(self.device),
            load_average=machine.load_average(),
            own_load=machine.own_load(),
            settings=settings,
        )
        for placebo in PLACEBOS:
            if settings and placebo in settings.variables:
                self.log.line(f"{placebo} is set, and has no effect: torch_npu does not read it")
        for words in doubts_of_machine(found, self.device.type, os.cpu_count()):
            self.log.line(f"warning: {words.en}")
        self.log.record(found)

    def _blame_weights(self, encoder: Encoder) -> None:
        """Name the weights that are NaN or infinite. Gigabytes take seconds: only where the output is not finite."""
        names = weights.nonfinite_names(encoder.module)
        if names:
            shown = weights.some_of(names)
            self.log.line(f"warning: {len(names)} weights hold NaN or infinity: {shown}")
            self.log.record(NonfiniteWeights(tensors=names))


@contextmanager
def start(log: RunLog, device: str, dtype: str, numerics: str) -> Iterator[Session]:
    """Choose the device, put the numerics in force for the block and probe them; at its end say what fell back."""
    chosen = devices.select_device(device)
    name = devices.describe_device(chosen)
    if not isinstance(log, NoLog):
        environment.write_check(log.folder, device=str(chosen), device_name=name)
    log.line(f"Device: {chosen} ({name}), {dtype}")
    for warning in chips.warnings_of(chosen, name, dtype):
        log.line(f"warning: {warning}")
    with (
        devices.late_failures_of(chosen),
        fallback.noticed(chosen.type) as fallen_back,
        in_force(numerics, chosen, getattr(torch, dtype)) as found,
    ):
        found.report(log)
        yield Session(chosen, getattr(torch, dtype), found, log)
    if fallen_back:
        log.line(f"warning: these operators ran on the CPU, not on {chosen}: {', '.join(sorted(fallen_back))}")
        log.record(Fallback(operators=sorted(fallen_back)))


def describe_environment(module: nn.Module, output: Tensor) -> Env:
    """The `env` event. The device is read from a parameter and an output, not from the flag."""
    device = output.device
    name, host, npu = devices.describe_device(device), environment.describe_host(), None
    if device.type == "npu":
        torch_npu = devices.device_module(device)
        host = replace(host, cann=_cann_version(torch_npu) or host.cann)
        cube_math_type = getattr(torch_npu.matmul, "cube_math_type", None)
        npu = Npu(
            allow_hf32=AllowHf32(conv=torch_npu.conv.allow_hf32, matmul=torch_npu.matmul.allow_hf32),
            fallback_disabled=fallback.is_disabled(device),
            cube_math_type=None if cube_math_type is None else cube_math_type.name,
            compatible_impl=os.environ.get("TORCH_NPU_USE_COMPATIBLE_IMPL"),
            jit_compile=chips.compiles_operators(device),
        )
    return Env(
        host=host,
        device=str(device),
        parameters_device=str(next(module.parameters()).device),
        device_name=name,
        simulated=device.type == "npu" and names_a_simulation(name, host.packages.torch_npu, host.cann),
        device_count=0 if device.type == "cpu" else devices.device_module(device).device_count(),
        cpu_threads=torch.get_num_threads(),
        npu=npu,
    )


def _cann_version(npu: ModuleType) -> str | None:
    """What torch_npu says of the CANN that it runs on; None where this torch_npu does not say."""
    get_version = getattr(getattr(npu, "utils", None), "get_cann_version", None)
    return str(get_version()) if get_version else None
