"""The meta device: a module's forward without memory and without computing."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


def on_meta(module: T) -> T:
    """A copy of the module whose weights and buffers are on meta; the module keeps its own.

    Modules and weights with two names stay one. (torch.func.functional_call leaves such a module on meta.)
    """

    def to_meta(tensor: Tensor) -> Tensor:
        empty = torch.empty_like(tensor, device="meta")
        return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

    replaced = {id(tensor): to_meta(tensor) for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, replaced)
