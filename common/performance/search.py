"""The search for batch sizes: each twice the one before, until throughput hardly grows or the memory is out."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from tqdm import tqdm

from common.device import devices
from common.device.ranks import Rank
from common.errors import first_line
from common.log import formulas
from common.log.events import Search, SearchStep
from common.log.writer import RunLog
from common.performance import timing
from common.performance.sweep import failure_of
from common.performance.timing import ROTATION, ROUNDS, Budget, Pass

WINDOWS = ROUNDS  # of a batch size; the best counts, which escapes what else the machine does


def search(log: RunLog, rank: Rank, module: nn.Module, pixel_values: Tensor, budget: Budget) -> list[int]:
    """The batch sizes that an eager encoder takes, by copies of the first of pixel_values [N, 3, H, W] on its device.

    The first rank tries them, prints and records it; the others wait.
    """
    found: list[int] = rank.gather(_search(log, module, pixel_values, budget) if rank.index == 0 else None)[0]
    return found


def _search(log: RunLog, module: nn.Module, pixel_values: Tensor, budget: Budget) -> list[int]:
    steps: list[SearchStep] = []
    log.line()
    for step in tqdm(_steps(module, pixel_values[:1], budget, steps), "batch sizes", unit="size", disable=None):
        if step.status == "ok":
            gain = formulas.gain_of(steps)
            more = "" if gain is None else f", {abs(gain):.1%} {'more' if gain >= 0 else 'less'} than the best before"
            log.line(f"search batch {step.batch_size}: {formulas.best_window_ips(step):.2f} images/s{more}")
        else:
            log.line(f"search batch {step.batch_size}: {step.status} ({step.reason})")
    log.record(Search(steps=steps))
    return formulas.sizes_of(steps)


def _steps(module: nn.Module, image: Tensor, budget: Budget, steps: list[SearchStep]) -> Iterator[SearchStep]:
    """One batch size after the other, each added to `steps` too."""
    size = 1
    while not steps or not formulas.ends_search(steps):
        steps.append(try_size(module, image, size, budget))
        yield steps[-1]
        size *= 2


def try_size(module: nn.Module, image: Tensor, size: int, budget: Budget) -> SearchStep:
    """The throughput of a batch size, in the memory that the sweep will take of it: with the inputs of all turns, and
    a batch that is copied in.
    """
    try:
        inputs = image.repeat(size + ROTATION - 1, 1, 1, 1)
        devices.forward(module, inputs[:size].cpu().to(inputs))
        timed = Pass("search", lambda turn: devices.forward(module, inputs[turn : turn + size]), image.device)
        latency_ms = timing.warm_up(timed.call, image.device, budget).latency_ms
        timed.calls = max(1, budget.window(latency_ms) // WINDOWS)
        timed.run_windows(WINDOWS)
    except RuntimeError as error:
        found = SearchStep(batch_size=size, status=failure_of(error, image.device), reason=first_line(error))
    else:
        return SearchStep(batch_size=size, status="ok", windows=timed.windows)
    devices.empty_cache(image.device)
    return found
