"""Ranks: the processes that torchrun started, one device each. Without torchrun there is one.

torch is imported where it is needed only: a rank must know itself before its log is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from common.cli.options import DEVICE_KINDS
from common.errors import UserError

PATIENCE = timedelta(days=1)  # of a rank that is done: torchrun ends all of them when one dies


@dataclass(frozen=True)
class Rank:
    """One of `count` processes; `local` counts those of this machine, and so its device; `node` the machines."""

    index: int = 0
    count: int = 1
    local: int = 0
    node: int = 0

    @classmethod
    def of_this_process(cls) -> Rank:
        """As torchrun says in the environment."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
        if not all(name in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    def device(self, name: str) -> str:
        """The device of this rank, where `name` is a kind of device. Raises UserError for one card for all ranks."""
        if self.count == 1 or name == "cpu":
            return name
        if ":" in name:
            raise UserError(f"--device {name} is one device, but torchrun started {self.count} ranks: give its kind")
        return f"{name}:{self.local}"

    def share(self, length: int) -> range:
        """The indices of this rank's share, every `count`-th: all shares together are each index once."""
        return range(self.index, length, self.count)

    @contextmanager
    def connected(self, device_type: str) -> Iterator[None]:
        """Within the block the ranks can meet."""
        if self.count == 1:
            yield
            return
        import torch.distributed as dist

        backend = DEVICE_KINDS[device_type].backend
        # What ranks tell each other are a few numbers on the CPU, by gloo; hccl comes with torch_npu.
        own = device_type != "cpu" and dist.is_backend_available(backend)
        dist.init_process_group(f"cpu:gloo,{device_type}:{backend}" if own else "gloo", timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order; all ranks wait for each other."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values
