"""The physical limit: the operations that an encoder asks for, and how many of them a second the device sustains."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, conv_flop, mm_flop

from common.device import devices
from common.device.meta import on_meta
from common.log.events import Cost, Product, Windows

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
WINDOWS = 15  # short ones: the best of them escapes what else the machine does
FEWEST_WINDOWS = 5  # whatever they take
WINDOW_MS = 10.0

Shape = tuple[int, int, int]  # rows, inner, columns: [rows, inner] x [inner, columns]


@dataclass(frozen=True)
class Work:
    """What an encoder computes for one image: 1e9 floating-point operations by operator (a multiplication and an
    addition are two), and the operations of each shape of matrix product.
    """

    gflop_by_operator: dict[str, float]
    shapes: dict[Shape, float]

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
    counts = counter.get_flop_counts()["Global"]
    flop = {name: sum(counts.get(operator, 0) for operator in operators) for name, operators in OPERATORS.items()}
    flop["other"] = counter.get_total_flops() - sum(flop.values())
    return Work({name: value / 1e9 for name, value in flop.items()}, dict(shapes))


def _convolution_shape(x: Tensor, weight: Tensor, *arguments: Any) -> Shape | None:
    """The matrix product that a convolution is; None for a grouped or transposed one, which is not one."""
    *_, transposed, _, groups, out = arguments
    if groups != 1 or transposed:
        return None
    return out.numel() // out.shape[1], weight[0].numel(), out.shape[1]


def measure(work: Work, batch_size: int, device: torch.device, dtype: torch.dtype, max_seconds: float) -> list[Product]:
    """Time the encoder's main matrix products at a batch size, each alone in windows of calls queued back to back.

    All shapes together keep to `max_seconds`, but each has five windows. Where memory holds fewer rows only, there are
    fewer.
    """
    chosen = work.main_shapes()
    products = []
    for shape in chosen:
        rows, windows = _time_product(shape, batch_size, device, dtype, max_seconds / len(chosen))
        products.append(Product(gflop=work.shapes[shape] / 1e9, shape=[rows, *shape[1:]], windows=windows))
    return products


def _time_product(
    shape: Shape, batch_size: int, device: torch.device, dtype: torch.dtype, max_seconds: float
) -> tuple[int, Windows]:
    """How many rows memory held, and the windows of their product."""
    rows, inner, columns = shape
    rows = min(rows * batch_size, MOST_ROWS)
    while True:
        try:
            left = torch.randn(rows, inner).to(device, dtype)
            right = torch.randn(columns, inner).to(device, dtype)
            return rows, _time_windows(partial(F.linear, left, right), device, max_seconds)
        except RuntimeError as error:
            if rows == 1 or not devices.is_out_of_memory(error):
                raise
        rows //= 2
        devices.empty_cache(device)


def _time_windows(multiply: Callable[[], Tensor], device: torch.device, max_seconds: float) -> Windows:
    """Windows of as many calls."""
    end = time.perf_counter() + max_seconds
    fastest_ms = min(_time_calls(multiply, device, 1) for _ in range(3))  # the first allocates and chooses a kernel
    calls = max(1, round(WINDOW_MS / fastest_ms))
    samples_ms: list[float] = []
    while len(samples_ms) < FEWEST_WINDOWS or (len(samples_ms) < WINDOWS and time.perf_counter() < end):
        samples_ms.append(_time_calls(multiply, device, calls))
    return Windows(calls=calls, samples_ms=samples_ms)


def _time_calls(multiply: Callable[[], Tensor], device: torch.device, calls: int) -> float:
    """The time of calls in ms, from an idle device to an element of the result on the host.

    Not the timer of the passes: a synchronisation that is lost there must stand out against this limit.
    """
    with torch.inference_mode():
        devices.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            result = multiply()
        devices.synchronize(device)
        result[-1, -1].item()
        return (time.perf_counter() - start) * 1000
