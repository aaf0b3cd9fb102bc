"""The performance run: what is timed, how often, and that what was timed is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.logs import Records, find, read_records
from torch import Tensor

import accuracy_run_perf
from common.cli import machine
from common.device import devices
from common.device.ranks import Rank
from common.encoder import transformers_models
from common.log.writer import RunLog
from common.performance import printed, timing
from common.performance.limit import TimedProduct
from common.performance.sweep import Measurement
from common.performance.timing import Pass

Forward = Callable[[Tensor], Any]


@pytest.fixture
def run(tiny_vit: Path, tmp_path: Path) -> Callable[..., Records]:
    """A perf run of a tiny ViT in this process, on the CPU; its records."""

    def perf(*arguments: object, batch_sizes: tuple[int | str, ...] = (1, 2)) -> Records:
        common_arguments = ["--model", tiny_vit, "--device", "cpu", "--log-dir", tmp_path]
        sizes = ["--batch-sizes", *batch_sizes, "--iterations", 6, "--warmup", 1]
        assert accuracy_run_perf.main([str(a) for a in (*common_arguments, *sizes, *arguments)]) == 0
        return read_records(tmp_path / "benchmark.log")

    return perf


def break_forward(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Tensor, Forward], Any]) -> None:
    """Let a function decide what the transformers encoder gives for its pixel_values."""
    forward = transformers_models.TransformersModule.forward
    monkeypatch.setattr(
        transformers_models.TransformersModule,
        "forward",
        lambda self, pixels: broken(pixels, lambda x: forward(self, x)),
    )


def test_every_batch_size_has_its_raw_samples(run: Callable[..., Records]) -> None:
    records = run(batch_sizes=("3,1,", 2))
    assert records[0]["batch_sizes"] == [1, 2, 3]
    for batch_size in (1, 2, 3):
        row = find(records, "perf", batch_size=batch_size)
        latency = find(records, "latencies", **{"batch_size": batch_size, "pass": "latency"})
        throughput = find(records, "latencies", **{"batch_size": batch_size, "pass": "throughput"})
        end_to_end = find(records, "latencies", **{"batch_size": batch_size, "pass": "end_to_end"})
        assert (row["status"], row["n"], len(latency["samples_ms"]), len(end_to_end["samples_ms"])) == ("ok", 6, 6, 6)
        assert (latency["calls"], throughput["calls"], end_to_end["calls"]) == (1, 1, 1)
        assert row["p50_latency_ms"] in latency["samples_ms"]
        assert row["p95_latency_ms"] is None


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


@dataclass(frozen=True)
class First(Rank):
    """The first of two ranks; the second says of every batch size that it ended so."""

    count: int = 2
    status: str = "ok"

    def gather(self, value: Any) -> list[Any]:
        return [value, [replace(share, device="npu:1", status=self.status) for share in value]]


@pytest.mark.parametrize(
    ("status", "alone", "words"),
    [
        ("ok", True, "batch 2: 400.00 images/s on 2 ranks (200.00, 200.00), scaling efficiency 100.0%"),
        ("oom", True, "batch 2: not measured by all ranks"),
        ("ok", False, "batch 2: not measured by all ranks"),
    ],
)
def test_ranks_have_a_total_only_where_all_of_them_measured(
    status: str, alone: bool, words: str, tmp_path: Path
) -> None:
    timed = [
        Pass(name, lambda turn: pytest.fail("it is over"), torch.device("cpu"))
        for name in ("latency", "throughput", "end_to_end")
    ]
    timed[1].samples_ms = [10.0]
    subject: Any = SimpleNamespace(mode="eager")
    measurement = Measurement(subject, 2, (timed[0], timed[1], timed[2]), alone=timed[1] if alone else None)
    with RunLog(tmp_path / "benchmark.log", "accuracy_run_perf.py", []) as log:
        printed.report_ranks(log, First(status=status), [measurement])
    assert words in (tmp_path / "benchmark.log").read_text().splitlines()
    record = find(read_records(tmp_path / "benchmark.log"), "ranks", batch_size=2)
    assert record["status"] == ("ok" if status == "ok" and alone else "error")
    assert [(share["device"], share["status"]) for share in record["shares"]] == [("cpu", "ok"), ("npu:1", status)]


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
    assert [len(seen[size]) for size in (2, 4)] == [timing.ROTATION] * 2


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


def test_batch_sizes_are_interleaved(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the warm-ups each round visits every size, so that a drift of the machine hits all of them."""
    sizes: list[int] = []

    def watch(pixels: Tensor, forward: Forward) -> Any:
        if not sizes or sizes[-1] != len(pixels):
            sizes.append(len(pixels))
        return forward(pixels)

    break_forward(monkeypatch, watch)
    run(batch_sizes=(2, 3))
    assert sizes[-2 * timing.ROUNDS :] == [2, 3] * timing.ROUNDS


def test_end_to_end_starts_from_the_files(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every timed call decodes its images again; the other passes decode nothing."""
    from common.images import decoding

    decoded = 0
    load = decoding.Sample.load

    def count(sample: decoding.Sample) -> Any:
        nonlocal decoded
        decoded += 1
        return load(sample)

    monkeypatch.setattr(decoding.Sample, "load", count)
    records = run(batch_sizes=(2,))
    ahead = 2 + timing.ROTATION - 1
    assert decoded == ahead + 2 * len(find(records, "latencies", **{"pass": "end_to_end"})["samples_ms"])


def test_an_end_to_end_output_is_verified_too(run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch) -> None:
    from common.images import decoding

    load = decoding.Sample.load
    loads = 0

    def upside_down_later(sample: decoding.Sample) -> Any:
        nonlocal loads
        loads += 1
        return load(sample).rotate(180 if loads > 1 + timing.ROTATION else 0)

    monkeypatch.setattr(decoding.Sample, "load", upside_down_later)
    assert find(run(batch_sizes=(1,)), "perf", batch_size=1)["output_relative_l2"] > 0.01


def test_the_figures_stand_beside_the_limit(run: Callable[..., Records]) -> None:
    records = run()
    (limit,) = (record for record in records if record["event"] == "limit")
    assert limit["phase"] == "during"
    tflops = limit["gemm_tflops"]
    gflop = find(records, "model")["gflop_per_image"]
    for row in (r for r in records if r["event"] == "perf"):
        assert row["limit_tflops"] == tflops
        assert row["achieved_tflops"] == pytest.approx(row["throughput_ips"] * gflop / 1000)
        assert row["percent_of_limit"] == pytest.approx(row["achieved_tflops"] / tflops)
        assert 0 < row["percent_of_limit"] < 1


def test_the_limit_is_measured_beside_every_batch_size_of_every_round(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    run_pass, add_windows = Pass.run, TimedProduct.measure

    def watch_pass(self: Pass, *arguments: Any) -> Any:
        steps.append(self.name)
        return run_pass(self, *arguments)

    def watch_product(self: TimedProduct, *arguments: Any) -> None:
        if steps[-1] != "limit":
            steps.append("limit")
        add_windows(self, *arguments)

    monkeypatch.setattr(Pass, "run", watch_pass)
    monkeypatch.setattr(TimedProduct, "measure", watch_product)
    limit = find(run(), "limit")
    assert steps == ["latency", "throughput", "end_to_end", "limit"] * 2 * timing.ROUNDS  # of two batch sizes
    for shape in limit["shapes"]:
        assert len(shape["windows_a_round"]) == timing.ROUNDS
        assert sum(shape["windows_a_round"]) == len(shape["samples_ms"])


@pytest.mark.parametrize(
    ("slow_rounds", "words"), [((), "is faster than the device can be"), ((0, 1), "an unsteady limit")]
)
def test_what_is_beyond_the_limit_is_warned_of(
    slow_rounds: tuple[int, ...],
    words: str,
    run: Callable[..., Records],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products that take as long in each round, and so too long; or much longer in some of them."""

    def pretend(self: TimedProduct, round_index: int, *arguments: Any) -> None:
        self.calls = 1
        self.by_round[round_index] = [1e9 if round_index in slow_rounds else 1e7]

    monkeypatch.setattr(TimedProduct, "measure", pretend)
    limit = find(run(), "limit")
    assert limit["spread"] == pytest.approx(0.99 if slow_rounds else 0.0)
    lines = (tmp_path / "benchmark.log").read_text().splitlines()
    assert sum(words in line for line in lines) == 2  # batch sizes
    assert sum(" fastest_of_limit: " in line for line in lines) == 2
    assert sum("the limit is unsteady" in line for line in lines) == bool(slow_rounds)


def test_operations_that_cannot_be_counted_leave_the_limit_out(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(pixels: Tensor, forward: Forward) -> Any:
        float(pixels.sum())
        return forward(pixels)

    break_forward(monkeypatch, look)
    records = run()
    assert not [record for record in records if record["event"] == "limit"]
    assert find(records, "perf", batch_size=1)["percent_of_limit"] is None
    assert "operations can't be counted" in capsys.readouterr().out


def test_start_up_is_apart_from_the_figures(run: Callable[..., Records]) -> None:
    startup = find(run(), "startup")
    assert all(startup[key] > 0 for key in ("load_ms", "place_ms", "first_call_ms"))


def test_the_machine_is_recorded_before_and_after(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRONG_MEMORY_OPT", "1")
    monkeypatch.setattr(machine, "load_average", lambda: 1e6)
    records = run()
    start, end = [record for record in records if record["event"] == "machine"]
    places = [record["event"] for record in records]
    assert (start["phase"], end["phase"]) == ("start", "end")
    assert places.index("machine") < places.index("startup")
    assert places[-2:] == ["machine", "run_end"]
    assert start["variables"]["STRONG_MEMORY_OPT"] == "1"
    assert "variables" not in end
    assert start["foreign_memory_mb"] is None
    output = capsys.readouterr().out
    assert "STRONG_MEMORY_OPT is set, and has no effect: torch_npu does not read it" in output
    assert output.count("warning: other processes used the CPUs") == 2


def test_memory_of_others_is_what_no_tensor_of_ours_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1000 MiB 300 are free, and 200 are this process's."""
    mib = 2**20
    card = SimpleNamespace(mem_get_info=lambda _: (300 * mib, 1000 * mib), memory_reserved=lambda _: 200 * mib)
    monkeypatch.setattr(devices, "device_module", lambda _: card)
    assert devices.foreign_memory_mb(torch.device("cuda")) == 500.0
    assert devices.foreign_memory_mb(torch.device("cpu")) is None
    monkeypatch.setattr(devices, "device_module", lambda _: SimpleNamespace())
    assert devices.foreign_memory_mb(torch.device("cuda")) is None, "an old torch_npu does not say"
