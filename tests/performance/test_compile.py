"""Modes: eager and the backends of torch.compile in the same rounds, and batch sizes that are searched for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import Records, find, read_records
from helpers.npu_runs import CHECK, PERF, VIT
from torch import Tensor

import accuracy_run_perf
from common.encoder import transformers_models
from common.errors import UserError
from common.log import formulas
from common.log.events import SearchStep, Windows
from common.performance import compilers, timing
from common.performance.timing import Pass


@pytest.fixture
def run(tiny_vit: Path, tmp_path: Path) -> Callable[..., Records]:
    """A perf run of a tiny ViT in this process, on the CPU; its records."""

    def perf(*arguments: object) -> Records:
        quick = ["--model", tiny_vit, "--device", "cpu", "--log-dir", tmp_path, "--iterations", 6, "--warmup", 1]
        assert accuracy_run_perf.main([str(argument) for argument in (*quick, *arguments)]) == 0
        return read_records(tmp_path / "benchmark.log")

    return perf


@pytest.fixture
def quiet_compiler() -> Iterator[None]:
    """Its own messages to pytest's handler take longer than all the rest."""
    torch.compiler.reset()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


Backend = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]


def replace_backend(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """Whatever backend is named, this one compiles."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_with(module, backend=backend, dynamic=False))


@pytest.mark.usefixtures("quiet_compiler")
@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_a_compiled_encoder_is_timed_beside_the_eager_one_and_compared_with_it(
    scale: float, run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch size is compiled once; what the compiled encoder computes is held to the eager one's outputs."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.extend(len(value) for value in inputs if value.ndim == 4 and value.shape[1:] == (3, 32, 32))
        return lambda *arguments: [output * scale for output in graph.forward(*arguments)]

    replace_backend(monkeypatch, backend)
    records = run("--compile", "--batch-sizes", 1, 2)
    assert sorted(compiled) == [1, 2]
    assert records[0]["backends"] == []
    rows = [record for record in records if record["event"] == "perf"]
    assert [(row["mode"], row["batch_size"]) for row in rows] == [
        *(("eager", 1), ("eager", 2)),
        *(("compile:inductor", 1), ("compile:inductor", 2)),
    ]
    for row in rows:
        expected = scale - 1 if row["mode"] != "eager" else 0.0
        assert row["output_relative_l2"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("quiet_compiler")
def test_torchs_own_backend_gives_the_eager_outputs_and_a_backend_that_fails_is_a_row(
    run: Callable[..., Records], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run("--compile", "eager", "relu_compile_error_TESTING_ONLY", "tvm", "--batch-sizes", 1)
    by_mode = {row["mode"]: row for row in records if row["event"] == "perf"}
    assert by_mode["compile:eager"]["output_relative_l2"] == 0
    assert by_mode["compile:tvm"]["status"] == "error"
    assert by_mode["compile:tvm"]["reason"].startswith("ImportError: Please install apache-tvm")
    table = capsys.readouterr().out.partition("of eager")[2]
    assert [line.split()[-1] for line in table.splitlines()[1:5]] == list(by_mode)


@pytest.mark.usefixtures("quiet_compiler")
def test_outputs_that_the_next_call_overwrites_are_compared_before(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA graphs and NPU graphs do: every call of a shape gives the same memory."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        memory: list[Tensor] = []

        def replay(*arguments: Any) -> list[Tensor]:
            made = graph.forward(*arguments)
            if not memory:
                memory.extend(output.clone() for output in made)
            for kept, output in zip(memory, made, strict=True):
                kept.copy_(output)
            return memory

        return replay

    replace_backend(monkeypatch, backend)
    row = find(run("--compile", "cudagraphs", "--batch-sizes", 1), "perf", mode="compile:cudagraphs")
    assert row["output_relative_l2"] == 0


@pytest.mark.usefixtures("quiet_compiler")
def test_a_compiler_has_room_for_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit torch.compile would run eagerly, without a word; here it has room, and then says so."""
    backends: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        backends.append(1)
        return graph.forward

    with monkeypatch.context() as patch:
        replace_backend(patch, backend)
        module = compilers.compiled(torch.nn.ReLU(), "inductor", 12)
    for size in range(1, 13):
        module(torch.ones(size))
    assert len(backends) == 12
    with pytest.raises(Exception, match=r"(?i)limit"):
        for size in range(13, 30):
            module(torch.ones(size))


def test_the_backends_are_torchs_and_a_device_has_its_own() -> None:
    cpu = torch.device("cpu")
    assert compilers.choose([], cpu) == ["inductor"]
    assert compilers.choose(["eager", "inductor", "eager"], cpu) == ["eager", "inductor"]
    with pytest.raises(UserError) as error:
        compilers.choose(["inductor", "turbo"], cpu)
    assert str(error.value).startswith("--compile turbo: ")
    assert set(torch._dynamo.list_backends()) <= set(str(error.value).partition("there are ")[2].split(", "))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------ the search
def tried(size: int, ips: float) -> SearchStep:
    """A batch size with this throughput in the best of its windows, each of two calls."""
    best_ms = 1000 * 2 * size / ips
    windows = Windows(calls=2, samples_ms=[3 * best_ms, best_ms, 2 * best_ms])
    return SearchStep(batch_size=size, status="ok", windows=windows)


def test_a_search_ends_below_five_percent_more() -> None:
    assert formulas.best_window_ips(tried(4, 100.0)) == pytest.approx(100.0)
    assert not formulas.ends_search([tried(1, 100.0)])
    assert not formulas.ends_search([tried(1, 100.0), tried(2, 105.5)])
    assert formulas.ends_search([tried(1, 100.0), tried(2, 104.5)])
    assert formulas.ends_search([tried(1, 100.0), tried(2, 120.0), tried(4, 121.0)])
    assert formulas.ends_search([tried(1, 100.0), SearchStep(batch_size=2, status="oom")])
    assert formulas.ends_search([SearchStep(batch_size=1, status="error")])


def test_the_best_batch_size_and_the_smallest_that_is_nearly_as_good() -> None:
    assert formulas.best_sizes({1: 10.0, 2: 94.0, 4: 96.0, 8: 100.0, 16: 99.0}) == (8, 4)
    assert formulas.best_sizes({1: 10.0}) == (1, 1)


def test_a_search_on_the_cpu_ends_by_the_gain(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder that takes as long for each further image as for the first: two at once gain nothing."""
    forward = transformers_models.TransformersModule.forward

    def slowly(self: Any, pixels: Tensor) -> Any:
        time.sleep(0.01 * len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(transformers_models.TransformersModule, "forward", slowly)
    records = run("--batch-sizes", "auto", 3)
    steps = find(records, "search")["steps"]
    rates = [step["batch_size"] * step["calls"] / min(step["samples_ms"]) for step in steps]
    assert [step["batch_size"] for step in steps] == [2**turn for turn in range(len(steps))]
    assert rates[-1] < 1.05 * max(rates[:-1])
    assert all(rate >= 1.05 * max(rates[:turn]) for turn, rate in enumerate(rates[1:-1], 1))
    sizes = [record["batch_size"] for record in records if record["event"] == "perf"]
    assert sizes == sorted({1, 3, *(step["batch_size"] for step in steps)})
    assert "best batch size: " in capsys.readouterr().out


@needs_simulated_npu
def test_a_search_ends_before_the_memory_is_out(forks: Forks, tmp_path: Path) -> None:
    """In 13 MiB the ViT and a batch of 8 fit, and none of 16. Kernels take as long whatever their images are."""
    small = {"SIMULATED_NPU_MEMORY_MB": 13, "SIMULATED_NPU_KERNEL_US": 1000}
    run = forks.run(
        *PERF,
        "--batch-sizes",
        "auto",
        "--no-cpu-baseline",
        "--iterations",
        5,
        "--max-seconds",
        60,
        *VIT,
        cwd=tmp_path,
        **small,
    )
    assert run.code == 0, run.stderr
    records = read_records(tmp_path / "logs" / "benchmark.log")
    assert [(step["batch_size"], step["status"]) for step in find(records, "search")["steps"]] == [
        *((1, "ok"), (2, "ok"), (4, "ok"), (8, "ok")),
        (16, "oom"),
    ]
    rows = [(record["batch_size"], record["status"]) for record in records if record["event"] == "perf"]
    assert rows == [(1, "ok"), (2, "ok"), (4, "ok"), (8, "ok")]
    assert forks.run(*CHECK, "--only", "perf", "logs/benchmark.log", cwd=tmp_path).code == 0


def test_a_pass_keeps_the_last_of_fleeting_outputs() -> None:
    """Of a window only the last call's are there still; each sample is copied, so that the next can't change it."""
    memory = torch.zeros(1)

    def call(turn: int) -> tuple[Tensor, Tensor]:
        memory.fill_(turn)
        return memory, memory

    timed = Pass("throughput", call, torch.device("cpu"), calls=2, fleeting=True)
    outputs = timed.run(timing.Budget(1, 20, 10.0), 0)
    assert {turn: float(embedding) for turn, (embedding, _) in outputs.items()} == {1: 1.0, 3: 3.0}
