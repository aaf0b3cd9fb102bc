"""The physical limit: the operations that an encoder asks for, and how many of them a second the device sustains."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, conv_flop, mm_flop

from common.device import devices
from common.device.meta import on_meta
from common.log import formulas
from common.log.events import Cost, Limit, Product, Windows
from common.performance.timing import ROUNDS, Budget

aten = torch.ops.aten
# The operators of a forward pass that multiply and add, by the name of the record.
OPERATORS = {
    "matmul": (aten.mm, aten.addmm),
    "conv": (aten.convolution,),
    "attention": (aten.bmm, aten.baddbmm),
}
COVERAGE = 0.9  # of the encoder's matrix products, by operations: the shapes that are measured
MOST_SHAPES = 6
MOST_ROWS = 4096  # more rows run no faster, and take memory
WINDOWS = 6  # of a round: short ones, the best of them escapes what else the machine does
FEWEST_WINDOWS = 3  # of a round, whatever they take
WINDOW_MS = 10.0
SHARE = 0.4  # of the seconds of a pass: for all windows of all rounds

Shape = tuple[int, int, int]  # rows, inner, columns: [rows, inner] x [inner, columns]


@dataclass(frozen=True)
class Work:
    """What an encoder computes for one image: 1e9 floating-point operations by operator (a multiplication and an
    addition are two), and the operations of each shape of matrix product; those of each module by its qualified name,
    with all that is in it.
    """

    gflop_by_operator: dict[str, float]
    shapes: dict[Shape, float]
    gflop_by_module: dict[str, float] = field(default_factory=dict)

    @property
    def gflop(self) -> float:
        return sum(self.gflop_by_operator.values())

    @property
    def cost(self) -> Cost:
        return Cost(gflop_per_image=self.gflop, gflop_by_operator=self.gflop_by_operator)

    def main_shapes(self) -> list[Shape]:
        """The shapes with the most operations, until they cover most of them all."""
        chosen: list[Shape] = []
        covered, total = 0.0, sum(self.shapes.values())
        for shape, flop in Counter(self.shapes).most_common(MOST_SHAPES):
            if covered >= COVERAGE * total:
                break
            chosen.append(shape)
            covered += flop
        return chosen


def count_operations(module: nn.Module, input_size: Sequence[int]) -> Work:
    """Count the operations for one image of `input_size` [3, H, W] with PyTorch's counter; nothing is computed.

    On meta tensors, because there attention is taken apart into products that the counter knows; the CPU's fused one
    counts as nothing. Raises RuntimeError where the encoder computes with values that meta tensors do not have.
    """
    shapes: Counter[Shape] = Counter()

    def noting(formula: Callable[..., int], shape_of: Callable[..., Shape | None]) -> Callable[..., int]:
        def flop(*arguments: Any, out_val: Tensor) -> int:
            found = formula(*arguments, out_val=out_val)
            if shape := shape_of(*arguments, out_val):
                shapes[shape] += found
            return found

        flop._get_raw = True  # type: ignore[attr-defined]  # how the counter is told to hand over tensors
        return flop

    mapping = {
        aten.mm: noting(mm_flop, lambda a, b, _: (*a.shape, b.shape[1])),
        aten.addmm: noting(addmm_flop, lambda bias, a, b, _: (*a.shape, b.shape[1])),
        aten.convolution: noting(conv_flop, _convolution_shape),
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with torch.inference_mode(), counter:
        on_meta(module)(torch.empty(1, *input_size, device="meta"))
    by_module = counter.get_flop_counts()
    counts = by_module["Global"]
    flop = {name: sum(counts.get(operator, 0) for operator in operators) for name, operators in OPERATORS.items()}
    flop["other"] = counter.get_total_flops() - sum(flop.values())
    # The counter's names begin with the class of the outermost module.
    each = {name.partition(".")[2]: sum(found.values()) / 1e9 for name, found in by_module.items()}
    return Work({name: value / 1e9 for name, value in flop.items()}, dict(shapes), each)


def _convolution_shape(x: Tensor, weight: Tensor, *arguments: Any) -> Shape | None:
    """The matrix product that a convolution is; None for a grouped or transposed one, which is not one."""
    *_, transposed, _, groups, out = arguments
    if groups != 1 or transposed:
        return None
    return out.numel() // out.shape[1], weight[0].numel(), out.shape[1]


@dataclass
class TimedProduct:
    """One of the encoder's matrix products on a device, and the times of its windows in each round.

    `rows`, `inner`, `columns` are its sizes; where memory holds fewer rows only, there are fewer.
    """

    gflop: float
    rows: int
    inner: int
    columns: int
    device: torch.device
    dtype: torch.dtype
    calls: int = 0  # of a window; 0 before the first
    by_round: list[list[float]] = field(default_factory=lambda: [[] for _ in range(ROUNDS)])

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """On the host: on the device they would take the memory of what is timed."""
        left, right = torch.randn(self.rows, self.inner), torch.randn(self.columns, self.inner)
        return left.to(self.dtype), right.to(self.dtype)

    def measure(self, round_index: int, fewest: int, most: int, max_seconds: float) -> None:
        """Add windows to a round: `fewest` whatever they take, then up to `most` within the seconds."""
        while True:
            try:
                return self._add_windows(self.by_round[round_index], fewest, most, max_seconds)
            except RuntimeError as error:
                if self.rows == 1 or not devices.is_out_of_memory(error):
                    raise
            self.rows //= 2
            self.calls = 0
            for samples_ms in self.by_round:  # those of more rows
                samples_ms.clear()
            devices.empty_cache(self.device)

    def _add_windows(self, samples_ms: list[float], fewest: int, most: int, max_seconds: float) -> None:
        left, right = self.factors
        multiply = partial(F.linear, left[: self.rows].to(self.device), right.to(self.device))
        self.calls = self.calls or calls_of_window(multiply, self.device)
        add_windows(samples_ms, multiply, self.device, self.calls, fewest, most, max_seconds)

    @property
    def product(self) -> Product:
        samples_ms = [sample for each in self.by_round for sample in each]
        return Product(
            gflop=self.gflop,
            shape=[self.rows, self.inner, self.columns],
            windows=Windows(calls=self.calls, samples_ms=samples_ms),
            windows_a_round=list(map(len, self.by_round)),
        )


class Meter:
    """The encoder's main matrix products at a batch size, timed in every round of the sweep, beside its passes.

    So the limit and what it bounds see the same machine, however busy that is.
    """

    def __init__(self, work: Work, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.products = [
            TimedProduct(work.shapes[shape] / 1e9, min(rows * batch_size, MOST_ROWS), inner, columns, device, dtype)
            for shape in work.main_shapes()
            for rows, inner, columns in [shape]
        ]

    def measure(self, round_index: int, visits: int, budget: Budget) -> None:
        """Time each product in one of so many visits of a round: each alone, in windows of calls queued back to back.

        All visits of all rounds keep to a share of a pass's seconds, but each round has its fewest windows.
        """
        fewest, most = (math.ceil(windows / visits) for windows in (FEWEST_WINDOWS, WINDOWS))
        seconds = SHARE * budget.seconds_a_round / visits / max(1, len(self.products))
        with devices.failures_of(self.device, "at the limit's matrix products"):
            for product in self.products:
                product.measure(round_index, fewest, most, seconds)

    @property
    def limit(self) -> Limit:
        """What was measured, in 1e12 operations a second."""
        shapes = [each.product for each in self.products]
        found = Limit(
            phase="during",
            dtype=devices.dtype_name(self.dtype),
            gemm_tflops=formulas.gemm_tflops(shapes),
            shapes=shapes,
        )
        return replace(found, spread=formulas.spread_of([found]))


def calls_of_window(call: Callable[[], Any], device: torch.device, window_ms: float = WINDOW_MS) -> int:
    """How many calls a window has, by the fastest of three: the first allocates and chooses a kernel."""
    fastest_ms = min(_time_calls(call, device, 1) for _ in range(3))
    return max(1, round(window_ms / fastest_ms))


def add_windows(
    samples_ms: list[float],
    call: Callable[[], Any],
    device: torch.device,
    calls: int,
    fewest: int,
    most: int,
    max_seconds: float,
) -> None:
    """Add the times in ms of windows of so many calls: `fewest` whatever they take, then up to `most` within the
    seconds.
    """
    end = time.perf_counter() + max_seconds
    added = 0
    while added < fewest or (added < most and time.perf_counter() < end):
        samples_ms.append(_time_calls(call, device, calls))
        added += 1


def _time_calls(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    """The time of calls in ms, from an idle device to an element of the last result's first tensor on the host.

    Not the timer of the passes: a synchronisation that is lost there must stand out against this limit.
    """
    with torch.inference_mode():
        devices.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        devices.synchronize(device)
        first = next(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        first[(-1,) * first.ndim].item()
        return (time.perf_counter() - start) * 1000
