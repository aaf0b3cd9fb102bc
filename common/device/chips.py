"""What is known of Ascend's chips by their names, before anything is computed: what a user must know who waits for it.

Names are those of `torch.npu.get_device_name`: Ascend910B4 (A2), Ascend910_9362 (A3), Ascend310P3, Ascend910A.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import torch

from common.device.devices import device_module

# 310, 310P and the first 910: their cube unit has no float32, and CANN gives it float16 (cubeMathType 2).
WITHOUT_FLOAT32 = re.compile(r"Ascend(310|910(A|ProA?|ProB|PremiumA)?$)")


def warnings_of(device: torch.device, name: str, dtype: str) -> Iterator[str]:
    """What a chip can't do that is asked of it."""
    if device.type != "npu":
        return
    if WITHOUT_FLOAT32.match(name) and dtype == "float32":
        yield (
            f"{name} multiplies matrices and convolves in float16, whatever the dtype: strict float32 will be refused. "
            "--numerics fast measures what it computes, --dtype float16 asks for it"
        )
    if compiles_operators(device):
        yield (
            f"{name} compiles operators when they are first called: the first calls take minutes. "
            "ACL_OP_COMPILER_CACHE_MODE=enable keeps them for the next run"
        )


def compiles_operators(device: torch.device) -> bool | None:
    """Whether operators are compiled just in time; None where this torch_npu does not say."""
    is_off = getattr(device_module(device), "is_jit_compile_false", None)
    return None if is_off is None else not is_off()


def allows_internal_format(device: torch.device) -> bool | None:
    """Whether tensors may have Ascend's own layouts; None where no torch_npu says. Its `config` can only be set."""
    read = getattr(getattr(sys.modules.get("torch_npu"), "_C", None), "_npu_getOption", None)
    option = read("ALLOW_INTERNAL_FORMAT") if device.type == "npu" and read else None
    return option.decode() == "enable" if option else None
