"""Where the time goes: each kind of an encoder's modules timed alone, on the input that it gets in a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from common.accuracy.diagnosis.blocks import Call
from common.device import devices
from common.device.ranks import Rank
from common.errors import first_line
from common.log import formulas
from common.log.events import EAGER, Kind, Limit, Part, Perf, Windows
from common.log.formulas import FORWARD
from common.log.writer import RunLog
from common.performance import printed
from common.performance.kinds import Unit, find_units
from common.performance.limit import WINDOW_MS, Work, add_windows, calls_of_window
from common.performance.timing import ROUNDS, Budget

MOST_WINDOWS = 3  # of a part in a round; at least one, whatever it takes

Signature = tuple[Any, ...]


@dataclass
class TimedPart:
    """Units of a kind that are built alike and get inputs of the same shape: the first stands for all.

    `stand_ins` are what the units in it gave: while it is timed they give that, and compute nothing.
    """

    kind: str
    name: str
    module: nn.Module
    arguments: Call
    count: int = 0
    calls: int = 0  # of a window; 0 before the first
    samples_ms: list[float] = field(default_factory=list)
    stand_ins: dict[nn.Module, list[Any]] = field(default_factory=dict)

    def measure(self, device: torch.device, window_ms: float, max_seconds: float) -> None:
        """Add windows of calls queued back to back, each from an idle device to an element on the host."""
        args, kwargs = self.arguments
        call = partial(self.module, *args, **kwargs)
        with torch.inference_mode(), standing_in(self.stand_ins):
            self.calls = self.calls or calls_of_window(call, device, window_ms)
            add_windows(self.samples_ms, call, device, self.calls, 1, MOST_WINDOWS, max_seconds)

    @property
    def part(self) -> Part:
        return Part(module=self.name, count=self.count, windows=Windows(calls=self.calls, samples_ms=self.samples_ms))


def explain(
    log: RunLog,
    rank: Rank,
    module: nn.Module,
    pixel_values: Tensor,
    rows: Sequence[Perf],
    budget: Budget,
    work: Work | None,
    limit: Limit | None,
) -> None:
    """Print and record the kinds of an eager encoder for pixel_values [N, 3, H, W] on its device, at batch size 1 and
    at the best of `rows`. The first rank does it, and the others wait.
    """
    timed = {row.batch_size: row.timed.figures.throughput_ips for row in rows if row.timed and row.case.mode == EAGER}
    best = max(timed, key=lambda size: timed[size], default=1)
    for size in sorted({1, best} & timed.keys()) if rank.index == 0 else ():
        try:
            kinds = measure(module, pixel_values[:size], budget, work, [limit.gemm_tflops] if limit else [])
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            log.line(f"warning: the kinds at batch size {size} need more memory ({first_line(error)})")
            devices.empty_cache(pixel_values.device)
            continue
        printed.report_kinds(log, kinds)
    rank.gather(None)


def measure(
    module: nn.Module, pixel_values: Tensor, budget: Budget, work: Work | None, limits_tflops: Sequence[float]
) -> list[Kind]:
    """The kinds of an encoder for pixel_values [B, 3, H, W] on its device; the first is the whole forward.

    All parts are timed in each round, so that a drift of the machine hits all alike, and for together about as long as
    the whole, so that what else it does hits all alike too. A round takes about the seconds of a pass's, but each part
    has a window in it. Raises RuntimeError where the memory does not suffice.
    """
    units = find_units(module, pixel_values[:1])
    whole = TimedPart(FORWARD, "", module, ((pixel_values,), {}), count=1)
    parts = [whole, *capture(module, units, pixel_values)]
    steps = [part for _ in range(ROUNDS) for part in parts]
    for part in tqdm(steps, f"kinds at batch size {len(pixel_values)}", unit="step", disable=None):
        window_ms = max(WINDOW_MS, min(whole.samples_ms, default=0.0) / len(parts))
        part.measure(pixel_values.device, window_ms, budget.seconds_a_round / len(parts))
    gflop = {} if work is None else {FORWARD: work.gflop, **gflop_by_kind(units, work)}
    kinds = [
        _kind_of([part for part in parts if part.kind == name], len(pixel_values), gflop.get(name, 0.0))
        for name in dict.fromkeys(part.kind for part in parts)
    ]
    return formulas.with_shares(kinds, limits_tflops)


def _kind_of(parts: Sequence[TimedPart], batch_size: int, gflop_per_image: float) -> Kind:
    """What was timed of a kind; the figures that follow are yet to come."""
    return Kind(
        name=parts[0].kind,
        batch_size=batch_size,
        count=0,
        classes=sorted({type(part.module).__name__ for part in parts}),
        ms=0.0,
        share=0.0,
        gflop=gflop_per_image * batch_size or None,
        percent_of_limit=None,
        parts=[part.part for part in parts],
    )


def gflop_by_kind(units: Sequence[Unit], work: Work) -> dict[str, float]:
    """1e9 operations for an image in the units of each kind, without those of the units in them."""
    found: dict[str, float] = {}
    kinds = {unit.name: unit.kind for unit in units}
    for unit in units:
        gflop = work.gflop_by_module.get(unit.name, 0.0)
        found[unit.kind] = found.get(unit.kind, 0.0) + gflop
        if unit.around is not None:
            found[kinds[unit.around]] -= gflop
    return found


# ------------------------------------------------------------------------------------------------------- the inputs
def capture(module: nn.Module, units: Sequence[Unit], pixel_values: Tensor) -> list[TimedPart]:
    """One part for all units that are alike, with a copy of the first one's input in a forward of pixel_values."""
    captured = _Capture()
    handles: list[RemovableHandle] = []
    try:
        for unit in units:
            handles.append(unit.module.register_forward_pre_hook(partial(captured.enter, unit), with_kwargs=True))
            handles.append(unit.module.register_forward_hook(partial(captured.leave, unit)))
        devices.forward(module, pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return list(captured.parts.values())


class _Capture:
    """What the units of a forward get, and what those in others give. Only the first of alike ones is copied, and of
    outputs of the same layout one: their values are of no account to the time.
    """

    def __init__(self) -> None:
        self.parts: dict[Signature, TimedPart] = {}
        self._open: dict[str, TimedPart] = {}  # those that are being captured, by the name of their unit
        self._outputs: dict[Signature, Tensor] = {}

    def enter(self, unit: Unit, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layouts = tuple(map(_layout, tree_leaves((args, kwargs))))
        signature = (unit.kind, type(module), repr(module), layouts)
        if signature not in self.parts:
            arguments = tree_map(_copy, (args, kwargs))
            self.parts[signature] = self._open[unit.name] = TimedPart(unit.kind, unit.name, module, arguments)
        self.parts[signature].count += 1

    def leave(self, unit: Unit, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._open.pop(unit.name, None)
        if unit.around in self._open:
            self._open[unit.around].stand_ins.setdefault(module, []).append(tree_map(self._shared, output))

    def _shared(self, value: Any) -> Any:
        return self._outputs.setdefault(_layout(value), _copy(value)) if isinstance(value, Tensor) else value


def _layout(value: Any) -> Signature:
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.stride()
    return type(value), value if isinstance(value, (bool, int, float, str)) else None


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def standing_in(stand_ins: dict[nn.Module, list[Any]]) -> Iterator[None]:
    """Within the block these modules give what they gave in turn, and compute nothing."""
    own = {module: vars(module).get("forward") for module in stand_ins}
    try:
        for module, outputs in stand_ins.items():
            module.forward = _giving(outputs)
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


def _giving(outputs: Sequence[Any]) -> Callable[..., Any]:
    turns = cycle(outputs)
    return lambda *args, **kwargs: next(turns)
