"""The performance run: what is timed, how often, and that what was timed is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import accuracy_run_perf
import common
import transformers_encoders
from accuracy_run_perf import Limits
from logs import Records, find, read_records

Forward = Callable[[Tensor], Any]


@pytest.fixture
def run(tiny_vit: Path, tmp_path: Path) -> Callable[..., Records]:
    """A perf run of a tiny ViT in this process, on the CPU; its records."""

    def perf(*arguments: object, batch_sizes: tuple[int, ...] = (1, 2)) -> Records:
        common_arguments = ["--model", tiny_vit, "--device", "cpu", "--log-dir", tmp_path]
        sizes = ["--batch-sizes", *batch_sizes, "--iterations", 6, "--warmup", 1]
        assert accuracy_run_perf.main([str(a) for a in (*common_arguments, *sizes, *arguments)]) == 0
        return read_records(tmp_path / "benchmark.log")

    return perf


class Twice(torch.nn.Module):
    """The smallest encoder: its input as both outputs. `events` says when it ran."""

    def __init__(self, events: list[str] | None = None) -> None:
        super().__init__()
        self.events = [] if events is None else events

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.events.append("forward")
        return pixels, pixels


def break_forward(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Tensor, Forward], Any]) -> None:
    """Let a function decide what the transformers encoder gives for its pixel_values."""
    forward = transformers_encoders.TransformersModule.forward
    monkeypatch.setattr(
        transformers_encoders.TransformersModule,
        "forward",
        lambda self, pixels: broken(pixels, lambda x: forward(self, x)),
    )


def test_every_batch_size_has_its_raw_samples(run: Callable[..., Records]) -> None:
    records = run(batch_sizes=(1, 2, 3))
    assert records[0]["batch_sizes"] == [1, 2, 3]
    for batch_size in (1, 2, 3):
        row = find(records, "perf", batch_size=batch_size)
        latency = find(records, "latencies", **{"batch_size": batch_size, "pass": "latency"})
        throughput = find(records, "latencies", **{"batch_size": batch_size, "pass": "throughput"})
        assert (row["status"], row["n"], len(latency["samples_ms"])) == ("ok", 6, 6)
        assert (latency["calls"], throughput["calls"]) == (1, 1)
        assert row["p50_latency_ms"] in latency["samples_ms"]
        assert row["p95_latency_ms"] is None


def test_the_seconds_beat_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(accuracy_run_perf.time, "perf_counter", lambda: float(next(clock)))
    samples, _ = accuracy_run_perf.time_latency(Twice(), [torch.ones(1, 2)], Limits(1, 1000, 10))
    assert 1 < len(samples) < 10
    samples, _ = accuracy_run_perf.time_latency(Twice(), [torch.ones(1, 2)], Limits(1, 1000, 0.1))
    assert len(samples) == 1


@pytest.mark.parametrize(
    ("limits", "latency_ms", "calls"),
    [
        (Limits(1, 100, 5), 1.0, 20),
        (Limits(1, 100, 5), 100.0, 10),
        (Limits(1, 3, 5), 1.0, 1),
        (Limits(1, 9, 1), 9e9, 1),
    ],
)
def test_windows_keep_to_the_iterations_and_the_seconds(limits: Limits, latency_ms: float, calls: int) -> None:
    samples, found, _ = accuracy_run_perf.time_throughput(Twice(), [torch.ones(1, 2)], limits, latency_ms)
    assert (found, len(samples)) == (calls, accuracy_run_perf.WINDOWS)


def test_windows_end_with_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the calls turn out slower than their latency was, windows are left out, but not the first."""
    clock = iter(range(1000))
    monkeypatch.setattr(accuracy_run_perf.time, "perf_counter", lambda: float(next(clock)))
    samples, _, _ = accuracy_run_perf.time_throughput(Twice(), [torch.ones(1, 2)], Limits(1, 100, 5), 1.0)
    assert 1 < len(samples) < accuracy_run_perf.WINDOWS


def test_out_of_memory_is_a_row_and_the_sweep_goes_on(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(pixels: Tensor, forward: Forward) -> Any:
        if len(pixels) == 2:
            raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")
        return forward(pixels)

    break_forward(monkeypatch, too_large)
    records = run(batch_sizes=(1, 2, 3))
    assert [find(records, "perf", batch_size=size)["status"] for size in (1, 2, 3)] == ["ok", "oom", "ok"]


def test_a_failing_operator_is_an_error_row(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pixels: Tensor, forward: Forward) -> Any:
        if len(pixels) == 2:
            raise RuntimeError("operator not supported")
        return forward(pixels)

    break_forward(monkeypatch, refuse)
    row = find(run(), "perf", batch_size=2)
    assert (row["status"], row["reason"]) == ("error", "operator not supported")


def test_a_batch_that_computes_something_else_is_noticed(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_last_image(pixels: Tensor, forward: Forward) -> Any:
        embedding, hidden_state = forward(pixels)
        if len(pixels) > 1:
            embedding = embedding.clone()
            embedding[-1] *= 1.1
        return embedding, hidden_state

    assert find(run(), "perf", batch_size=2)["output_relative_l2"] < 1e-5
    break_forward(monkeypatch, wrong_last_image)
    assert find(run(), "perf", batch_size=2)["output_relative_l2"] == pytest.approx(0.1, rel=1e-3)


def test_the_hidden_state_and_the_queued_calls_are_verified_too(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_token(pixels: Tensor, forward: Forward) -> Any:
        embedding, hidden_state = forward(pixels)
        return embedding, hidden_state * (1.1 if len(pixels) > 1 else 1)

    calls = 0

    def wrong_last_call(pixels: Tensor, forward: Forward) -> Any:
        nonlocal calls
        embedding, hidden_state = forward(pixels)
        calls += len(pixels) == 2
        return embedding * (1.1 if calls > 7 else 1), hidden_state  # after one warm-up and six timed calls

    for broken in (wrong_token, wrong_last_call):
        with monkeypatch.context() as patch:
            break_forward(patch, broken)
            assert find(run(), "perf", batch_size=2)["output_relative_l2"] == pytest.approx(0.1, rel=1e-3)


def test_nan_in_a_timed_output_is_counted(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    def nan_in_batches(pixels: Tensor, forward: Forward) -> Any:
        embedding, hidden_state = forward(pixels)
        return (embedding * torch.nan if len(pixels) > 1 else embedding), hidden_state

    break_forward(monkeypatch, nan_in_batches)
    row = find(run(), "perf", batch_size=2)
    assert row["output_relative_l2"] is None
    assert row["nonfinite"] > 0


def test_the_inputs_rotate(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[float]] = defaultdict(set)

    def watch(pixels: Tensor, forward: Forward) -> Any:
        seen[len(pixels)].add(float(pixels.sum()))
        return forward(pixels)

    break_forward(monkeypatch, watch)
    run(batch_sizes=(2, 4))
    assert [len(seen[size]) for size in (2, 4)] == [accuracy_run_perf.ROTATION] * 2


def test_the_fingerprint_is_the_accuracy_runs(run: Callable[..., Records], tiny_vit: Path, tmp_path: Path) -> None:
    import accuracy_run

    arguments = ["--model", tiny_vit, "--device", "cpu", "--samples", 1, "--log-dir", tmp_path]
    assert accuracy_run.main([str(a) for a in arguments]) == 0
    sample = find(read_records(tmp_path / "accuracy.log"), "sample", output="embedding")
    for row in (r for r in run() if r["event"] == "perf"):
        assert row["image_sha256"] == sample["image_sha256"]
        assert row["fingerprint"] == pytest.approx(sample["fingerprint"], rel=1e-4)


def test_a_cpu_has_no_baseline_but_itself(run: Callable[..., Records]) -> None:
    assert not [record for record in run("--cpu-baseline") if record["event"] == "speedup"]


def test_every_time_is_synchronised_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of events around each timed call: synchronise, start, forward, synchronise, stop."""
    events: list[str] = []
    monkeypatch.setattr(common, "synchronize", lambda device: events.append("synchronize"))
    monkeypatch.setattr(accuracy_run_perf.time, "perf_counter", lambda: float(events.append("clock") or len(events)))
    accuracy_run_perf.time_throughput(
        Twice(events), [torch.ones(1, 2)], Limits(1, 2 * accuracy_run_perf.WINDOWS, 1e3), 1
    )
    assert events[:7] == ["clock", "synchronize", "clock", "forward", "forward", "synchronize", "clock"]
    events.clear()
    accuracy_run_perf.time_latency(Twice(events), [torch.ones(1, 2)], Limits(1, 1, 1))
    assert events == ["clock", "synchronize", "clock", "forward", "synchronize", "clock"]
