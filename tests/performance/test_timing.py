"""Timed calls: synchronised on both sides, within their budget, warmed up until they are stable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from common.device import devices
from common.performance import timing
from common.performance.timing import ROTATION, ROUNDS, Budget, Pass

CPU = torch.device("cpu")
Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time in seconds, which calls move on; nobody waits for it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


class Calls:
    """A call that takes the given times in turn, in ms, and then the last of them for ever."""

    def __init__(self, clock: Clock, *times_ms: float) -> None:
        self.clock, self.times_ms, self.turns = clock, list(times_ms), list[int]()

    def __call__(self, turn: int) -> tuple[Tensor, Tensor]:
        self.turns.append(turn)
        self.clock[0] += self.times_ms[min(len(self.turns), len(self.times_ms)) - 1] / 1000
        return torch.ones(1, 2), torch.ones(1, 2)


def run_rounds(timed: Pass, budget: Budget) -> list[int]:
    """How many samples the pass has after each round."""
    counts = []
    for round_index in range(ROUNDS):
        timed.run(budget, round_index)
        counts.append(len(timed.samples_ms))
    return counts


def test_every_sample_is_synchronised_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronise, start, the calls, what issuing took, synchronise, read an element, stop."""
    events: list[str] = []
    reading = torch.Tensor.item
    monkeypatch.setattr(devices, "synchronize", lambda device: events.append("synchronize"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(events.append("clock") or len(events)))
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: events.append("read") or reading(tensor))

    def call(turn: int) -> tuple[Tensor, Tensor]:
        events.append("call")
        return torch.ones(1, 2), torch.ones(1, 2)

    Pass("throughput", call, CPU, calls=2).sample({})
    assert events == ["synchronize", "clock", "call", "call", "clock", "synchronize", "read", "clock"]


def test_a_sample_is_the_time_of_its_calls_in_ms(clock: Clock) -> None:
    assert Pass("throughput", Calls(clock, 10.0, 30.0), CPU, calls=3).sample({}) == pytest.approx(70.0)


def test_the_iterations_are_spread_over_the_rounds(clock: Clock) -> None:
    counts = run_rounds(Pass("latency", Calls(clock, 1.0), CPU), Budget(1, 12, 1e9))
    assert counts == [3, 5, 8, 10, 12]
    assert run_rounds(Pass("latency", Calls(clock, 1.0), CPU), Budget(1, 1, 1e9)) == [1] * ROUNDS


def test_the_seconds_beat_the_iterations_but_one_sample_there_is(clock: Clock) -> None:
    counts = run_rounds(Pass("latency", Calls(clock, 500.0), CPU), Budget(1, 1000, 5.0))
    assert counts == [2, 4, 6, 8, 10]
    assert run_rounds(Pass("latency", Calls(clock, 3000.0), CPU), Budget(1, 1000, 5.0)) == [1, 1, 1, 2, 2]
    assert run_rounds(Pass("latency", Calls(clock, 1e6), CPU), Budget(1, 1000, 5.0)) == [1] * ROUNDS


@pytest.mark.parametrize(
    ("iterations", "max_seconds", "latency_ms", "calls"),
    [(100, 5.0, 1.0, 20), (100, 5.0, 100.0, 10), (3, 5.0, 1.0, 1), (9, 1.0, 9e9, 1)],
)
def test_windows_keep_to_the_iterations_and_the_seconds(
    iterations: int, max_seconds: float, latency_ms: float, calls: int
) -> None:
    assert Budget(1, iterations, max_seconds).window(latency_ms) == calls


def test_one_window_a_round(clock: Clock) -> None:
    budget = Budget(1, 100, 5.0)
    assert run_rounds(Pass("throughput", Calls(clock, 1.0), CPU, calls=budget.window(1.0)), budget) == [1, 2, 3, 4, 5]


def test_inputs_rotate_from_round_to_round(clock: Clock) -> None:
    calls = Calls(clock, 1.0)
    run_rounds(Pass("latency", calls, CPU), Budget(1, 10, 1e9))
    assert calls.turns == [turn % ROTATION for turn in range(10)]


def test_the_last_outputs_of_each_turn_are_kept() -> None:
    numbers: Iterator[int] = iter(range(100))

    def call(turn: int) -> tuple[Tensor, Tensor]:
        number = torch.tensor([[float(next(numbers))]])
        return number, number

    outputs = Pass("latency", call, CPU).run(Budget(1, 10 * ROUNDS, 1e9), 0)
    assert {turn: int(embedding) for turn, (embedding, _) in outputs.items()} == {0: 8, 1: 9, 2: 6, 3: 7}


# -------------------------------------------------------------------------------------------------------- warm-up
def test_warm_up_ends_when_two_windows_agree(clock: Clock) -> None:
    warmup = timing.warm_up(Calls(clock, 900.0, 100.0, 80.0, 60.0, 40.0, 20.0, 19.5), CPU, Budget(2, 1, 1e9))
    assert warmup.first_call_ms == pytest.approx(900.0)
    assert warmup.stable
    assert warmup.latency_ms == pytest.approx(19.5)
    assert warmup.calls == 1 + 4 * 2  # the windows' medians are 90, 50, 19.75 and 19.5


def test_warm_up_that_never_settles_is_capped(clock: Clock) -> None:
    warmup = timing.warm_up(Calls(clock, *(2.0**-k for k in range(500))), CPU, Budget(3, 1, 1e9))
    assert not warmup.stable
    assert warmup.calls == 1 + 3 * timing.WARMUP_WINDOWS


@pytest.mark.parametrize(("max_seconds", "calls"), [(5.0, 3), (0.5, 2), (25.0, 7)])
def test_warm_up_keeps_to_the_seconds(max_seconds: float, calls: int, clock: Clock) -> None:
    warmup = timing.warm_up(Calls(clock, 3000.0), CPU, Budget(3, 1, max_seconds))
    assert (warmup.calls, warmup.latency_ms) == (calls, pytest.approx(3000.0))
