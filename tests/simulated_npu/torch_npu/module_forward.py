"""Which outermost ``nn.Module`` forward is running: faults fire only inside one."""

import functools
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from torch_npu.report import activity


class OutermostForward(threading.local):
    """The outermost module call running in this thread."""

    depth = 0  # 0: no module is running
    batch_size: int | None = None  # leading dimension of the first tensor given to the module
    index: int | None = None  # among the forwards that used a device; None before the first kernel

    def __init__(self) -> None:
        self.fault_calls: Counter[str] = Counter()  # calls of each fault's operator so far
        self.running: list[torch.nn.Module] = []  # from the outermost module to the innermost

    def enter(self, module: torch.nn.Module, inputs: Iterable[Any]) -> None:
        """``module`` is called with ``inputs``."""
        if self.depth == 0:
            _name_parts(module)
            first = next(tensors_in(inputs), None)
            self.batch_size = first.shape[0] if first is not None and first.dim() else None
            self.index = None
            self.fault_calls.clear()
        self.depth += 1
        self.running.append(module)

    def leave(self) -> None:
        """A module returned or raised."""
        self.depth -= 1
        self.running.pop()

    def is_inside(self, name: str) -> bool:
        """Whether a module is running whose qualified name is ``name`` or ends with it, after a dot."""
        return any(f".{_names.get(module, '')}".endswith(f".{name}") for module in self.running)

    def kernel_launched(self) -> None:
        """Count this forward as one of the device's, at its first kernel."""
        if self.depth and self.index is None:
            self.index = activity.forwards
            activity.forwards += 1


outermost = OutermostForward()
_names: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()


def _name_parts(module: torch.nn.Module) -> None:
    """Give ``module``'s parts, itself included, their names in it; a name once given stays.

    So a block keeps the name that it has in the model when it is run alone later.
    """
    if module not in _names:
        for name, part in module.named_modules():
            _names.setdefault(part, name)


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors in ``values``, at any depth of lists, tuples and mappings, in order."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
        elif isinstance(value, Mapping):
            yield from tensors_in(value.values())


def track_module_calls() -> None:
    """Wrap ``nn.Module.__call__``.  (torch's global forward pre-hooks never see keyword inputs.)"""
    call = torch.nn.Module.__call__

    @functools.wraps(call)
    def tracked(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        outermost.enter(self, (args, kwargs))
        try:
            return call(self, *args, **kwargs)
        finally:
            outermost.leave()

    torch.nn.Module.__call__ = tracked  # type: ignore[method-assign]
