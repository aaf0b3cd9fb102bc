"""What limits a performance run and what spoils it, in words: each from the events that lead to it."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from helpers.events import example
from helpers.words import in_both

from common.log import formulas
from common.log.bottlenecks import conclude_bound, conclude_kinds, doubts_of_machine
from common.log.conclusions import Words
from common.log.events import Kind, Machine, Part, Perf, Timed, Windows
from common.log.formulas import FORWARD, with_shares
from common.log.reader import UnjudgeableError
from common.log.schema import encode


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


# ------------------------------------------------------------------------------------------------ where the time goes
def kinds(
    times_ms: dict[str, Any], gflop: dict[str, float], limit: float | None = 1.0, whole: Any = 100.0
) -> list[Kind]:
    """The kinds of a forward of 100 ms by their times in ms, or by those of their windows, and their operations."""

    def kind(name: str, windows_ms: Any, operations: float | None) -> Kind:
        samples_ms = windows_ms if isinstance(windows_ms, list) else [windows_ms]
        parts = [Part(module=name, count=1, windows=Windows(calls=1, samples_ms=samples_ms))]
        return example(Kind, name=name, parts=[encode(part) for part in parts], gflop=operations, classes=["C"])

    total = sum(gflop.values()) or None
    parts = [kind(name, ms, gflop.get(name)) for name, ms in times_ms.items()]
    return with_shares([kind(FORWARD, 100.0, total), *parts], [] if limit is None else [limit])


OPERATIONS = {"attention": 35.0, "mlp": 60.0, "patch_embed": 5.0}  # of 100 GFLOP: in 100 ms 1 TFLOP/s
OF_TIME: dict[str, list[Kind]] = {
    "limited by matrix products near their limit: 90.0% of the time at 88.9% of it": kinds(
        {"attention": 35.0, "mlp": 50.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, 1.25
    ),
    "limited by matrix products below their limit: 90.0% of the time at 55.6% of it; most is lost in attention (C), "
    "45.0% at 38.9%": kinds({"attention": 45.0, "mlp": 40.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, 2.0),
    "limited by matrix products: 90.0% of the time, without a limit beside them": kinds(
        {"attention": 35.0, "mlp": 50.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, None
    ),
    "limited by one kind that stands out, activation (C): 40.0% of the time for 0.0% of the operations": kinds(
        {"attention": 20.0, "mlp": 30.0, "patch_embed": 5.0, "activation": 40.0}, OPERATIONS
    ),
    "limited by one kind that stands out, attention (C): 75.0% of the time for 35.0% of the operations": kinds(
        {"attention": 75.0, "mlp": 14.0, "patch_embed": 2.0, "norm": 5.0}, OPERATIONS
    ),
    "limited by one kind that stands out, patch_embed (C): 30.0% of the time for 5.0% of the operations": kinds(
        {"attention": 25.0, "mlp": 30.0, "patch_embed": 30.0, "norm": 5.0}, OPERATIONS
    ),
    "limited by element-wise operators, so by memory: norm (C), activation (C) take 48.0% of the time, matrix products "
    "42.0%": kinds({"attention": 20.0, "mlp": 22.0, "norm": 24.0, "activation": 24.0}, OPERATIONS),
    "limited by overhead between the kinds: 60.0% of the time, matrix products 35.0%, element-wise operators "
    "5.0%": kinds({"attention": 15.0, "mlp": 20.0, "norm": 5.0}, OPERATIONS),
    "no kind can be told to limit it: alone they take 130.0% of the time of the whole forward": kinds(
        {"attention": 50.0, "mlp": 70.0, "norm": 10.0}, OPERATIONS
    ),
    "the largest share is that of mlp (C), 50.0% of the time; operations can't be counted": kinds(
        {"attention": 40.0, "mlp": 50.0, "norm": 5.0}, {}
    ),
    "undecided, the machine was busy: the best windows and the median ones say different things": kinds(
        {"attention": [10.0, 35.0, 36.0], "mlp": [10.0, 50.0, 50.0], "norm": 5.0}, OPERATIONS
    ),
}


@pytest.mark.parametrize("english", OF_TIME)
def test_where_the_time_goes_in_words(english: str) -> None:
    in_both(conclude_kinds(OF_TIME[english]), english)


@pytest.mark.parametrize("lost", [FORWARD, "mlp"])
def test_kinds_without_the_whole_or_parts_say_nothing(lost: str) -> None:
    found = [kind for kind in kinds({"mlp": 80.0}, OPERATIONS) if kind.name != lost]
    with pytest.raises(UnjudgeableError, match="no whole forward, or no kind"):
        conclude_kinds(found)


@pytest.mark.parametrize("windows_ms", [[], [0.0], [1e308, 1e308]])
def test_kinds_of_no_time_or_of_any_are_no_conclusion(windows_ms: list[float]) -> None:
    whole, part, other = kinds({"mlp": 80.0, "norm": 10.0}, OPERATIONS)
    timed = [replace(each, windows=Windows(calls=1, samples_ms=windows_ms)) for each in (*whole.parts, *whole.parts)]
    with pytest.raises(UnjudgeableError, match="kind records: "):
        conclude_kinds([replace(whole, parts=timed), part, other])


@pytest.mark.parametrize("seed", range(300))
def test_what_is_said_of_the_time_never_contradicts_its_figures(seed: int) -> None:
    """Each sentence with the condition under which it is true, held to the records that it is made of."""
    random = Random(seed)
    shares = {name: random.expovariate(1) for name in ("attention", "mlp", "patch_embed", "norm", "activation")}
    scale = 100 * random.uniform(0.2, 1.5) / sum(shares.values())
    limit = 10 ** random.uniform(-0.5, 1.5)
    found = kinds({name: share * scale for name, share in shares.items()}, OPERATIONS, limit)
    words = conclude_kinds(found).en
    whole, *others = found
    products = sum(kind.share for kind in others if kind.gflop)
    elementwise = sum(kind.share for kind in others if not kind.gflop)
    left = 1 - products - elementwise
    reached = 100.0 / (products * 100.0) / limit  # all operations in the time of the matrix products
    said = next((kind for kind in others if f"stands out, {kind.name} " in words), whole)
    far_above = said is not whole and said.share >= 0.25 and said.share >= 1.5 * (said.gflop or 0.0) / 100
    conditions = {
        "no kind can be told": left <= -0.25,
        "stands out": far_above and left > -0.25,
        "overhead between": left > max(products, elementwise),
        "element-wise operators, so by memory": elementwise >= max(products, left),
        "near their limit": products >= max(elementwise, left) and reached >= 0.7,
        "below their limit": products >= max(elementwise, left) and reached < 0.7,
    }
    (sentence,) = (sentence for sentence in conditions if sentence in words)
    assert conditions[sentence], (words, found)


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
