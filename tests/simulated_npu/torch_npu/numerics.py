"""Where an Ascend computes differently from fp32 on a CPU: HF32 and GELU, as torch_npu documents."""

from typing import Any

import torch

from torch_npu.settings import settings

HF32_MANTISSA_BITS = 11  # fp32 has 23, TF32 10
_CONVOLUTIONS = {"convolution"}
# position of the first factor among the operator's arguments; what comes before is the bias
_FIRST_FACTOR = {
    "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "linear": 0,
    "addmm": 1, "baddbmm": 1, "addmv": 1, "addbmm": 1,
}  # fmt: skip


class Hf32Switch:
    """``torch.npu.conv`` and ``torch.npu.matmul``: whether those operators may compute in HF32."""

    __slots__ = ("_allow_hf32",)

    def __init__(self, allow_hf32: bool) -> None:
        self._allow_hf32 = allow_hf32

    @property
    def allow_hf32(self) -> bool:
        """True lets fp32 inputs be rounded to HF32; torch_npu takes a bool and nothing else."""
        return self._allow_hf32

    @allow_hf32.setter
    def allow_hf32(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"allow_hf32 must be a bool, but got {type(value).__name__}")
        self._allow_hf32 = value


conv = Hf32Switch(True)
matmul = Hf32Switch(False)


def round_to_hf32(tensor: torch.Tensor) -> torch.Tensor:
    """The fp32 ``tensor`` with its mantissa rounded to 11 bits, halves away from zero."""
    bits = tensor.contiguous().view(torch.int32)
    dropped = 23 - HF32_MANTISSA_BITS
    rounded = (bits + (1 << (dropped - 1))) & ~((1 << dropped) - 1)
    return torch.where(torch.isfinite(tensor), rounded.view(torch.float32), tensor)


def _in_hf32(switch: Hf32Switch) -> bool:
    return settings.hf32 == "always" or (settings.hf32 == "honoured" and switch.allow_hf32)


def as_the_device_computes(operator: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with which the CPU's kernel gives what the NPU's would."""
    if operator in ("gelu", "gelu_") and settings.gelu_ignores_approximate:
        return args, kwargs | {"approximate": "tanh"}
    if operator in _CONVOLUTIONS and _in_hf32(conv):
        first = 0
    elif operator.rstrip("_") in _FIRST_FACTOR and _in_hf32(matmul):
        first = _FIRST_FACTOR[operator.rstrip("_")]
    else:
        return args, kwargs
    factors = [
        round_to_hf32(arg) if isinstance(arg, torch.Tensor) and arg.dtype == torch.float32 else arg
        for arg in args[first : first + 2]
    ]
    return args[:first] + factors + args[first + 2 :], kwargs
