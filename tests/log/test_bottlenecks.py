"""What limits a performance run and what spoils it, in words: each from the events that lead to it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from helpers.events import example
from helpers.words import in_both

from common.log import formulas
from common.log.bottlenecks import conclude_bound, doubts_of_machine
from common.log.conclusions import Words
from common.log.events import Machine, Perf, Timed, Windows


# ------------------------------------------------------------------------------------------ what a latency is spent on
def rows(*measured: tuple[int, float, float | None]) -> list[Perf]:
    """Batch sizes with five equal latencies and the time that each was issued in."""
    found = []
    for size, latency_ms, issue_ms in measured:
        latency = Windows(calls=1, samples_ms=[latency_ms] * 5)
        issued = None if issue_ms is None else Windows(calls=1, samples_ms=[issue_ms] * 5)
        issue = formulas.issue_figures(issued, latency)
        figures = formulas.summarize_passes(size, latency, latency, latency, issue=issue)
        found.append(Perf(batch_size=size, status="ok", timed=replace(example(Timed), figures=figures)))
    return found


OF_BOUNDS: dict[str, tuple[list[Perf], int, bool]] = {
    "issued in 31.400 of 32.200 ms: the host is the limit; batch 4 takes 15% more time for 4 images instead of 1; "
    "--compile may help": (rows((1, 32.2, 31.4), (4, 37.03, 31.4)), 1, False),
    "issued in 31.400 of 32.200 ms: the host is the limit; --compile may help": (rows((1, 32.2, 31.4)), 1, False),
    "issued in 31.400 of 32.200 ms: the host is the limit; batch 8 takes no more time for 8 images instead of 2": (
        rows((2, 32.2, 31.4), (8, 32.2, 31.4)),
        2,
        True,
    ),
    "issued in 31.400 of 32.200 ms: the host is the limit": (rows((1, 32.2, 31.4), (4, 128.8, 31.4)), 1, True),
    "issued in 20.000 of 30.000 ms: host and device share it": (rows((1, 30.0, 20.0)), 1, False),
    "issued in 3.000 of 30.000 ms: the device is the limit": (rows((1, 30.0, 3.0)), 1, False),
    "issued in 95.000 of 100.000 ms, at batch 1 in 3.000 ms: it may have waited for a full queue, then the device is "
    "the limit": (rows((1, 30.0, 3.0), (16, 100.0, 95.0)), 16, False),
}


@pytest.mark.parametrize("english", OF_BOUNDS)
def test_bounds_in_words(english: str) -> None:
    in_both(conclude_bound(*OF_BOUNDS[english]) or Words("", ""), english)


def test_what_is_not_known_of_a_bound_is_not_said() -> None:
    few = Windows(calls=1, samples_ms=[10.0] * 4)
    figures = formulas.summarize_passes(1, few, few, few, issue=formulas.issue_figures(few, few))
    unbounded = [Perf(batch_size=1, status="ok", timed=replace(example(Timed), figures=figures))]
    failed = [*rows((1, 10.0, 5.0)), Perf(batch_size=4, status="oom")]
    assert conclude_bound(unbounded, 1, False) is None
    assert conclude_bound(rows((1, 10.0, None)), 1, False) is None
    assert conclude_bound(failed, 4, False) is None


# ---------------------------------------------------------------------------------------------- the machine's state
CALM: dict[str, Any] = {
    "phase": "start",
    "foreign_memory_mb": 500.0,
    "load_average": 3.5,
    "own_load": 0.5,
    "variables": {"ASCEND_LAUNCH_BLOCKING": "0", "TASK_QUEUE_ENABLE": "2"},
    "governor": "performance",
}
SPOILERS = [
    ({"variables": {"ASCEND_LAUNCH_BLOCKING": "1"}}, "npu", "ASCEND_LAUNCH_BLOCKING=1"),
    ({"variables": {"ASCEND_LAUNCH_BLOCKING": "1"}}, "cuda", None),
    ({"variables": {"CUDA_LAUNCH_BLOCKING": "1"}}, "cuda", "CUDA_LAUNCH_BLOCKING=1"),
    ({"variables": {"TASK_QUEUE_ENABLE": "0"}}, "npu", "TASK_QUEUE_ENABLE=0"),
    ({"variables": {"TASK_QUEUE_ENABLE": "0"}}, "cpu", None),
    ({"variables": {"NPU_FP16_MATMUL": "1"}}, "npu", None),
    ({"foreign_memory_mb": 900.0}, "npu", None),
    ({"foreign_memory_mb": 901.0}, "npu", "901 MiB"),
    ({"foreign_memory_mb": None}, "npu", None),
    ({"load_average": 4.5}, "cpu", None),  # 4.0 by others, on 8 CPUs
    ({"load_average": 4.7}, "cpu", "load 4.7 on 8, 0.5 its own"),
    ({"load_average": 4.7, "own_load": 0.8}, "cpu", None),
    ({"load_average": None}, "cpu", None),
    ({"governor": "powersave", "frequency_driver": "cppc_cpufreq"}, "npu", "powersave"),
    ({"governor": "powersave", "frequency_driver": "intel_pstate"}, "npu", None),
]


@pytest.mark.parametrize(("changes", "kind", "said"), SPOILERS)
def test_what_spoils_a_figure_is_said_and_nothing_else(changes: dict[str, Any], kind: str, said: str | None) -> None:
    found = list(doubts_of_machine(example(Machine, **{**CALM, **changes}), kind, 8))
    assert len(found) == (said is not None)
    for words in found:
        assert said in words.en
        assert sorted(re.findall(r"[\d.]*\d", words.en)) == sorted(re.findall(r"[\d.]*\d", words.zh))
        assert re.search("[\u4e00-\u9fff]", words.zh)


def test_a_machine_of_unknown_cpus_is_not_said_to_be_busy() -> None:
    assert list(doubts_of_machine(example(Machine, **{**CALM, "load_average": 1e9}), "cpu", None)) == []
