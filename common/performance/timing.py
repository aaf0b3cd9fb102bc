"""Timed calls of an encoder on a device: warm-up until stable, and passes whose every time is synchronised."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import torch

from common.device import devices
from common.device.devices import Outputs
from common.log.events import Startup, Windows

ROTATION = 4  # different inputs in turn, so that no cache answers for the device
ROUNDS = 5  # of the sweep over the batch sizes
WARMUP_WINDOWS = 10  # at most
WARMUP_AGREEMENT = 0.05  # of two windows' medians

Call = Callable[[int], Outputs]  # runs the encoder on the input of this turn, 0 ... ROTATION - 1


@dataclass(frozen=True)
class Budget:
    """How long to measure: calls of a warm-up window; timed calls and seconds of a pass over one batch size.

    Whichever of calls and seconds is reached first ends a pass, but it has one sample at least.
    """

    warmup: int
    iterations: int
    max_seconds: float

    def iterations_until(self, round_index: int) -> int:
        """The timed calls of a pass after this round, such that all rounds together have `iterations`."""
        return math.ceil(self.iterations * (round_index + 1) / ROUNDS)

    @property
    def seconds_a_round(self) -> float:
        return self.max_seconds / ROUNDS

    def seconds_until(self, round_index: int) -> float:
        return self.max_seconds * (round_index + 1) / ROUNDS

    def window(self, latency_ms: float) -> int:
        """The calls of a throughput window, one a round: within the iterations and, at this latency, the seconds."""
        affordable = self.max_seconds * 1000 / latency_ms
        return max(1, int(min(self.iterations, affordable) / ROUNDS))


@dataclass
class Warmup:
    """What the untimed calls of one batch size took: the first (a compilation, a first read of the weights), and
    the median of the last window, in ms. `stable` says whether the last two windows agreed.
    """

    first_call_ms: float
    latency_ms: float
    calls: int
    stable: bool


@dataclass
class Pass:
    """One pass over one batch size: a sample is the time in ms of `calls` calls, queued back to back.

    `fleeting`: a call's outputs may lie where the next one writes (a graph's memory); they are copied in between.
    """

    name: str
    call: Call
    device: torch.device
    calls: int = 1
    fleeting: bool = False
    samples_ms: list[float] = field(default_factory=list)
    issued_ms: list[float] = field(default_factory=list)  # of each sample the time until its last call returned
    turns: Iterator[int] = field(default_factory=lambda: cycle(range(ROTATION)))

    @property
    def windows(self) -> Windows:
        return Windows(calls=self.calls, samples_ms=self.samples_ms)

    @property
    def issue(self) -> Windows | None:
        """How long its calls took to issue; None on a CPU, which has no queue: there a call returns when it is done."""
        return None if self.device.type == "cpu" else Windows(calls=self.calls, samples_ms=self.issued_ms)

    @property
    def seconds(self) -> float:
        return math.fsum(self.samples_ms) / 1000

    def run(self, budget: Budget, round_index: int) -> dict[int, Outputs]:
        """Sample until this round's share of the budget is used; the last outputs of each turn that ran."""
        outputs: dict[int, Outputs] = {}
        while not self.samples_ms or (
            len(self.samples_ms) * self.calls < budget.iterations_until(round_index)
            and self.seconds < budget.seconds_until(round_index)
        ):
            self.samples_ms.append(self.sample(outputs))
        return outputs

    def run_all(self, budget: Budget) -> None:
        """Sample until the whole budget is used."""
        self.run(budget, ROUNDS - 1)

    def run_windows(self, count: int) -> None:
        """Take so many samples, whatever they take."""
        for _ in range(count):
            self.samples_ms.append(self.sample({}))

    def sample(self, outputs: dict[int, Outputs]) -> float:
        """The time of `calls` calls in ms, synchronised on both sides; the outputs of each turn are kept, of fleeting
        ones the last's.
        """
        made: dict[int, Outputs] = {} if self.fleeting else outputs
        devices.synchronize(self.device)
        start = time.perf_counter()
        for _ in range(self.calls):
            turn = next(self.turns)
            made[turn] = self.call(turn)
        self.issued_ms.append((time.perf_counter() - start) * 1000)
        finish(made[turn])
        elapsed_ms = (time.perf_counter() - start) * 1000
        if self.fleeting:
            embedding, hidden_state = made[turn]
            outputs[turn] = embedding.clone(), hidden_state.clone()
        return elapsed_ms


class Stopwatch:
    """The times in ms of steps that happen once, by name."""

    def __init__(self) -> None:
        self.times_ms: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times_ms[name] = (time.perf_counter() - start) * 1000

    def startup(self) -> Startup:
        return Startup(**self.times_ms)


def finish(outputs: Outputs) -> None:
    """Wait for the device, then read an element: a synchronisation that is lost can't hide in the timer."""
    embedding, _ = outputs
    devices.synchronize(embedding.device)
    embedding.flatten()[-1].item()


def warm_up(call: Call, device: torch.device, budget: Budget) -> Warmup:
    """Run `call` until the medians of two windows agree, but not longer than the budget of a pass."""
    calls = Pass("warmup", call, device)
    first_call_ms = calls.sample({})
    end = time.perf_counter() + budget.max_seconds
    medians: list[float] = []
    stable = False
    while not stable and len(medians) < WARMUP_WINDOWS:
        window: list[float] = []
        while len(window) < budget.warmup and time.perf_counter() < end:
            window.append(calls.sample({}))
        calls.samples_ms += window
        if len(window) < budget.warmup:
            break
        medians.append(statistics.median(window))
        stable = len(medians) > 1 and abs(medians[-1] / medians[-2] - 1) <= WARMUP_AGREEMENT
    latency_ms = medians[-1] if medians else min([first_call_ms, *calls.samples_ms])
    return Warmup(first_call_ms, latency_ms, 1 + len(calls.samples_ms), stable)
