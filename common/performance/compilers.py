"""The backends of torch.compile: those that there are, and an encoder as one of them makes it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from common.cli.options import DEVICE_KINDS
from common.errors import UserError, first_line

TORCHAIR = "torchair"  # a package that comes with torch_npu, and gives a backend without a name of its own
FOR_TESTS = ("TESTING_ONLY", "minifier", "crossref")  # of PyTorch itself, in the names of such backends


def choose(wanted: Sequence[str], device: torch.device) -> list[str]:
    """The names of the backends that are wanted, each once; without any the one of the kind of device.

    Raises UserError for one that is not there.
    """
    from torch._dynamo import list_backends

    names = list(dict.fromkeys(wanted)) or [DEVICE_KINDS[device.type].compiler]
    listed = list_backends(())
    for name in names:
        if name == TORCHAIR:
            _torchair()
        elif name not in listed:
            known = [each for each in listed if not any(word in each for word in FOR_TESTS)]
            known += [TORCHAIR] if device.type == "npu" else []
            raise UserError(f"--compile {name}: torch.compile has no such backend; there are {', '.join(known)}")
    return names


def compiled(module: nn.Module, name: str, shapes: int) -> nn.Module:
    """The encoder as torch.compile makes it with a backend: for each of so many shapes when it first comes.

    `shapes` counts those of all backends for this encoder.
    """
    import torch._dynamo

    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name in torch 2.6
    setattr(config, limit, max(getattr(config, limit), 2 * shapes))
    setattr(config, f"fail_on_{limit.replace('size_', '')}_hit", True)  # else torch.compile runs eagerly, unsaid
    backend = _torchair() if name == TORCHAIR else name
    made: Any = torch.compile(module, backend=backend, dynamic=False)
    return cast(nn.Module, made)


def why(error: BaseException) -> str:
    """Why a backend failed, in a line: torch.compile wraps the error that says it."""
    cause = getattr(error, "inner_exception", None) or error
    return f"{type(cause).__name__}: {first_line(cause)}"


def _torchair() -> Any:
    try:
        return importlib.import_module(TORCHAIR).get_npu_backend()
    except Exception as error:  # torch_npu puts a stand-in in its place, which raises errors of its own
        raise UserError(f"--compile on an NPU needs TorchAir: {first_line(error)}") from error
