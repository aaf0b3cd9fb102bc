"""Devices, on the CPU and on meta: what a device can't do is the user's to know, what we did wrong is a traceback."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.device import devices, numerics
from common.device.devices import Outputs
from common.errors import UserError

CPU = torch.device("cpu")
META = torch.device("meta")  # a device that is there on every machine, and is not the CPU
NO_MEMORY = "NPU out of memory. Tried to allocate 2.00 GiB"


class Immovable(nn.Linear):
    """A layer whose move to a device fails with these words."""

    def __init__(self, words: str) -> None:
        super().__init__(1, 1)
        self.words = words

    def to(self, *arguments: object, **keywords: object) -> Immovable:  # type: ignore[override]
        raise RuntimeError(self.words)


class Straying(nn.Module):
    """An encoder that leaves its hidden_state on another device."""

    def forward(self, pixel_values: Tensor) -> Outputs:
        return pixel_values.mean((2, 3)), pixel_values.flatten(2).to(META)


def test_weights_that_the_memory_does_not_hold_are_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^cpu has too little memory for the weights in float16$"):
        devices.place(Immovable(NO_MEMORY), CPU, torch.float16)


def test_another_failure_of_a_move_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^operator not supported$"):
        devices.place(Immovable("operator not supported"), CPU, torch.float16)


def test_outputs_on_another_device_than_the_input_are_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^the input is on cpu, but the outputs are on meta$"):
        devices.encode(Straying(), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("device", "words", "told"),
    [
        (CPU, NO_MEMORY, "cpu is out of memory at batch size 2"),
        (META, NO_MEMORY, "meta is out of memory at batch size 2"),
        (META, "operator not supported\nin a long story", "meta failed at batch size 2: operator not supported"),
    ],
)
def test_a_devices_failure_is_one_line(device: torch.device, words: str, told: str) -> None:
    with pytest.raises(UserError) as caught, devices.failures_of(device, "at batch size 2"):
        raise RuntimeError(words)
    assert str(caught.value) == told


def test_a_failure_on_the_cpu_that_is_not_its_memorys_is_ours() -> None:
    error = RuntimeError("operator not supported")
    with pytest.raises(RuntimeError) as caught, devices.failures_of(CPU, "at batch size 2"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("mode", "allowed"), [("strict", False), ("fast", True)])
def test_strict_switches_tf32_off_on_cuda(mode: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switches are there without a CUDA device; only the probe asks one. By default that of products is off."""
    probe = numerics.probe
    monkeypatch.setattr(numerics, "probe", lambda device, dtype: probe(CPU, dtype))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with numerics.in_force(mode, torch.device("cuda"), torch.float16):
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is False
