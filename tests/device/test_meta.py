"""Modules on meta: shapes come out, and the module itself keeps its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.device.meta import on_meta


class TwoNames(nn.Module):
    """One layer by two names, as CoaT has them, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.tied(self.again(self.first(x))))


def test_a_module_with_two_names_keeps_its_weights() -> None:
    module = TwoNames().eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    there = on_meta(module)
    assert there(torch.empty(3, 4, device="meta")).shape == (3, 4)
    assert all(tensor.is_meta for tensor in there.state_dict().values())
    assert there.again is there.first
    assert there.tied.weight is there.first.weight
    after = module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
