"""The NPU path, on the simulated NPU: the scripts unmodified, as processes; every fault is noticed, no sound run is.

A simulated NPU proves what the program does with a device and what its checks can see, nothing about Ascend hardware.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, Finished, Runner
from forks import SIMULATED_NPU, Forks, needs_simulated_npu

from logs import Records, find, read_records

pytestmark = needs_simulated_npu

VIT = ("--model", "timm/test_vit", "--weights", "random")  # three blocks, exact GELU, seeded weights
ON_NPU = ("--device", "npu")
ACCURACY = ("accuracy_run.py", *ON_NPU, "--samples", "2")
PERF = ("accuracy_run_perf.py", *ON_NPU, "--iterations", "5", "--warmup", "1", "--max-seconds", "0.2")
CHECK = ("check_accuracy_run_perf.py", "--allow-random-weights", "--require-device", "npu")
SIZES = ("--batch-sizes", "1", "2")
MEMORY_MB = 13  # holds the ViT and a batch of 8, but none of 16


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


def fired(report: Path) -> int:
    """How often the simulator's faults fired inside a model."""
    return sum(json.loads(report.read_text())["faults"].values()) if report.exists() else 0


# ---------------------------------------------------------------------------------------------- the whole chain
def test_the_chain_as_plain_processes(run_script: Runner, tmp_path: Path) -> None:
    """The reference's commands, with nothing prepared: torch finds torch_npu by itself."""
    env = {"PYTHONPATH": str(SIMULATED_NPU)}
    accuracy = run_script(*ACCURACY, "--model", "demo", env=env)
    perf = run_script(*PERF, "--model", "demo", *SIZES, env=env)
    assert (accuracy.code, perf.code) == (0, 0), accuracy.stderr + perf.stderr
    check = run_script("check_accuracy_run_perf.py", "--require-device", "npu")
    assert (check.code, check.verdict) == (0, "OVERALL: PASS"), check.stdout
    assert "simulated" in check.stdout.splitlines()[-2]
    assert "speedup: " in perf.stdout


def test_a_reference_of_the_cpu_serves_the_npu(forks: Forks, tmp_path: Path) -> None:
    """Saved on the CPU, used on the NPU with golden beside it, tied by the checker to a perf run of its images."""
    file = ("--device", "cpu", "--samples", 2, "--save-reference", "vit.safetensors")
    assert forks.run("accuracy_run.py", *VIT, *file, cwd=tmp_path).code == 0
    run = forks.run(*ACCURACY, *VIT, "--reference", "vit.safetensors", "--golden", cwd=tmp_path)
    assert run.code == 0, run.stderr
    saved = read_records(tmp_path / "logs" / "accuracy.log")
    assert {r["reference"] for r in saved if r["event"] == "accuracy"} == {"float32", "float64"}

    assert forks.run(*ACCURACY, *VIT, "--golden", cwd=tmp_path).code == 0
    computed = read_records(tmp_path / "logs" / "accuracy.log")
    for event, fields in (("accuracy", {"output": "embedding", "reference": "float64"}), ("noise_floor", {})):
        assert find(saved, event, **fields)["relative_l2"] == find(computed, event, **fields)["relative_l2"]

    assert forks.run(*PERF, *SIZES, *VIT, cwd=tmp_path).code == 0
    for log in ("logs/accuracy.log", "logs/accuracy.prev.log"):
        check = forks.run(*CHECK, log, "logs/benchmark.log", cwd=tmp_path)
        assert check.code == 0, check.stdout


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_chain_on_a_tiny_vit_gives_the_cpus_bits(
    library: str, forks: Forks, tiny_timm: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_timm if library == "timm" else tiny_vit)
    assert forks.run(*ACCURACY, *model, cwd=tmp_path, SIMULATED_NPU_GELU="exact").code == 0
    assert forks.run(*PERF, *SIZES, *model, cwd=tmp_path, SIMULATED_NPU_GELU="exact").code == 0
    check = forks.run("check_accuracy_run_perf.py", "--require-device", "npu", cwd=tmp_path)
    assert check.code == 0, check.stdout
    assert "simulated" in check.stdout.splitlines()[-2]
    for sample in (r for r in read_records(tmp_path / "logs" / "accuracy.log") if r["event"] == "sample"):
        assert sample["max_abs_error"] == 0
        assert sample["device"] == "npu:0"


def test_two_processes_on_two_devices(forks: Forks, tmp_path: Path) -> None:
    """npu:1 of two; with one visible, it is npu:0, and npu:1 is not there."""
    both = {"SIMULATED_NPU_DEVICES": 2}
    run = forks.run(
        "inference.py", *VIT, "--device", "npu:1", cwd=tmp_path, SIMULATED_NPU_REPORT=tmp_path / "report", **both
    )
    assert run.code == 0, run.stderr
    assert find(read_records(tmp_path / "logs" / "inference.log"), "env")["device"] == "npu:1"
    assert list(json.loads((tmp_path / "report").read_text())["kernels_by_device"]) == ["1"]

    one = {**both, "ASCEND_RT_VISIBLE_DEVICES": 1}
    assert forks.run("inference.py", *VIT, "--device", "npu", cwd=tmp_path, **one).code == 0
    absent = forks.run("inference.py", *VIT, "--device", "npu:1", cwd=tmp_path, **one)
    assert absent.code == 2
    assert "finds 1 NPU device with ASCEND_RT_VISIBLE_DEVICES=1" in absent.stderr
    none = forks.run("inference.py", *VIT, "--device", "npu", cwd=tmp_path, SIMULATED_NPU_DEVICES=0)
    assert (none.code, none.stderr.count("\n")) == (2, 1)


def test_auto_takes_the_npu_and_says_so(forks: Forks, tmp_path: Path) -> None:
    run = forks.run("inference.py", *VIT, cwd=tmp_path)
    assert "Device: npu:0 (Ascend910B-SIM)" in run.stdout
    check = (tmp_path / "logs" / "env_check.log").read_text()
    assert "Ascend910B-SIM" in check
    for name in ("cann", "npu_driver", "npu-smi"):
        assert name in check


@pytest.mark.parametrize("package", ["raises", "lacks a library"])
def test_torch_npu_without_cann_says_how_to_mend_it(package: str, run_script: Runner, tmp_path: Path) -> None:
    """As on a machine where torch_npu was installed and CANN was not: importing torch itself fails."""
    text = {
        "raises": "raise RuntimeError('CANN is not there')",
        "lacks a library": "raise ImportError('libhccl.so: cannot open shared object file')",
    }[package]
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text(text)
    entry = next(SIMULATED_NPU.glob("*.dist-info"))
    shutil.copytree(entry, tmp_path / entry.name)
    env = {"PYTHONPATH": str(tmp_path)}
    failed = run_script("inference.py", *VIT, *ON_NPU, env=env)
    assert failed.code == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert "set_env.sh" in failed.stderr
    assert (tmp_path / "logs" / "env_check.log").exists()
    if package == "raises":  # the CPU needs no torch_npu
        assert run_script("inference.py", *VIT, "--device", "cpu", env=env).code == 0


# ------------------------------------------------------------------------------------------------------ numerics
def numerics(folder: Path) -> dict[str, object]:
    return find(read_records(folder / "logs" / "accuracy.log"), "numerics")


def test_fast_reads_the_devices_defaults(forks: Forks, tmp_path: Path) -> None:
    assert forks.run(*ACCURACY, *VIT, "--numerics", "fast", cwd=tmp_path).code == 0
    found = numerics(tmp_path)
    assert (found["conv_mantissa_bits"], found["gelu"], found["gelu_replaced"]) == (11, "tanh", False)
    assert (found["matmul_mantissa_bits"], found["attention_mantissa_bits"]) == (23, 23)


@pytest.mark.parametrize(("compatible", "replaced"), [("1", False), ("0", True)])
def test_strict_reads_float32_and_erf(compatible: str, replaced: bool, forks: Forks, tmp_path: Path) -> None:
    """By torch_npu's switch, or by the formula where the switch has no effect."""
    run = forks.run(*ACCURACY, *VIT, cwd=tmp_path, TORCH_NPU_USE_COMPATIBLE_IMPL=compatible)
    assert run.code == 0, run.stderr
    found = numerics(tmp_path)
    assert (found["conv_mantissa_bits"], found["gelu"], found["gelu_replaced"]) == (23, "erf", replaced)
    for output in ("embedding", "hidden_state"):
        worst = find(read_records(tmp_path / "logs" / "accuracy.log"), "accuracy", output=output)
        assert worst["relative_l2"] <= (1e-5 if replaced else 0)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_formula_reaches_every_library(
    library: str, forks: Forks, tiny_timm: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_timm if library == "timm" else tiny_vit)
    strict = {"TORCH_NPU_USE_COMPATIBLE_IMPL": "0"}
    assert forks.run(*ACCURACY, *model, cwd=tmp_path, SIMULATED_NPU_REPORT=tmp_path / "strict", **strict).code == 0
    worst = find(read_records(tmp_path / "logs" / "accuracy.log"), "accuracy", output="embedding")
    assert worst["relative_l2"] <= 1e-5
    fast = ("--numerics", "fast")
    assert forks.run(*ACCURACY, *model, *fast, cwd=tmp_path, SIMULATED_NPU_REPORT=tmp_path / "fast").code == 0
    assert gelus(tmp_path / "fast") > gelus(tmp_path / "strict")


def gelus(report: Path) -> int:
    return int(json.loads(report.read_text())["operators"].get("gelu", 0))


def test_strict_that_the_device_contradicts_is_an_error(forks: Forks, tmp_path: Path) -> None:
    stubborn = {"SIMULATED_NPU_HF32": "always"}
    for script in (ACCURACY, (*PERF, *SIZES), ("inference.py", *ON_NPU)):
        run = forks.run(*script, *VIT, cwd=tmp_path, **stubborn)
        assert run.code == 2
        assert "conv_mantissa_bits is 11, not 23" in run.stderr
    assert forks.run(*CHECK, cwd=tmp_path).code == 2
    assert forks.run(*ACCURACY, *VIT, "--numerics", "fast", cwd=tmp_path, **stubborn).code == 0


def test_half_precision_is_probed_as_such(forks: Forks, tmp_path: Path) -> None:
    assert forks.run(*ACCURACY, *VIT, "--dtype", "float16", cwd=tmp_path).code == 0
    assert numerics(tmp_path)["matmul_mantissa_bits"] == 10


def test_a_cpu_with_a_reduced_mode_is_no_reference(forks: Forks, tmp_path: Path) -> None:
    """A sitecustomize stands for a CPU library that rounds: the linear layers of the process lose their last bits."""
    script = tmp_path / "rounding.py"
    script.write_text(
        "import runpy, sys, torch, torch.nn.functional as F\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import numerics\n"
        "through = numerics._through_matmul\n"
        "numerics._through_matmul = lambda v: through(v.bfloat16().float() if v.device.type == 'cpu' else v)\n"
        "sys.argv = ['accuracy_run.py', *sys.argv[2:]]\n"
        "runpy.run_path(sys.path[0] + '/accuracy_run.py', run_name='__main__')\n"
    )
    run = forks.run(script, ROOT, *ACCURACY[1:], *VIT, cwd=tmp_path)
    assert run.code == 2
    assert "no float32 reference: matmul_mantissa_bits is 7, not 23" in run.stderr


# ------------------------------------------------------------------------------------------------------ fallback
def test_a_fallback_raises_unless_the_user_allows_it(forks: Forks, tmp_path: Path) -> None:
    fault = {"SIMULATED_NPU_FAULT": "cat:fallback"}
    refused = forks.run(*ACCURACY, *VIT, cwd=tmp_path, **fault)
    assert refused.code == 2
    assert "fallback" in refused.stderr

    allowed = {**fault, "TORCH_NPU_FALLBACK_CPU_DISABLE": "0"}
    run = forks.run(*ACCURACY, *VIT, cwd=tmp_path, **allowed)
    assert run.code == 0
    assert "will fall back to run on the CPU" in run.stderr  # passed on, not swallowed
    assert find(read_records(tmp_path / "logs" / "accuracy.log"), "fallback")["operators"] == ["aten::cat"]
    assert forks.run(*PERF, *SIZES, *VIT, cwd=tmp_path, **allowed).code == 0
    check = forks.run(*CHECK, cwd=tmp_path)
    assert check.code == 0
    assert "warning: operators ran on the CPU: ['aten::cat']" in check.stdout


# ------------------------------------------------------------------------------------------------ synchronisation
KERNEL_MS, SYNC_MS = 3.0, 20.0


def time_slow_kernels(
    forks: Forks, folder: Path, script: Path | str = PERF[0], kernel_ms: float = KERNEL_MS, sync_ms: float = 0.0
) -> Records:
    """The records of a perf run at batch size 1 on a device whose kernels and synchronisations take this long."""
    slow = {"SIMULATED_NPU_KERNEL_US": int(kernel_ms * 1000), "SIMULATED_NPU_SYNC_US": int(sync_ms * 1000)}
    arguments = (*PERF[1:], *VIT, "--batch-sizes", 1, "--no-cpu-baseline")
    run = forks.run(script, *arguments, cwd=folder, SIMULATED_NPU_REPORT=folder / "report", **slow)
    assert run.code == 0, run.stderr
    return read_records(folder / "logs" / "benchmark.log")


def kernels_of_a_forward(folder: Path) -> int:
    """Those that only the model launches, at least: the limit's matrix products launch linear too."""
    report = json.loads((folder / "report").read_text())
    return int(sum(report["operators"][name] for name in ("native_layer_norm", "gelu", "add")) // report["forwards"])


def without_synchronisation(folder: Path, what: str) -> Path:
    """A copy of the scripts in which a line of the timer is missing; the path of the perf script."""
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    timer = (folder / "timing.py").read_text()
    assert timer.count(what) == 1
    (folder / "timing.py").write_text(timer.replace(what, ""))
    return folder / PERF[0]


def test_the_three_passes_hold_the_time_of_their_kernels(forks: Forks, tmp_path: Path) -> None:
    """Queued calls share the cost of a synchronisation; those that are synchronised pay it each."""
    records = time_slow_kernels(forks, tmp_path, sync_ms=SYNC_MS)
    kernels_ms = kernels_of_a_forward(tmp_path) * KERNEL_MS
    assert kernels_ms > 20 * KERNEL_MS
    samples_ms = {r["pass"]: [ms / r["calls"] for ms in r["samples_ms"]] for r in records if r["event"] == "latencies"}
    assert min(samples_ms["latency"]) >= kernels_ms + SYNC_MS
    assert min(samples_ms["throughput"]) >= kernels_ms
    assert min(samples_ms["end_to_end"]) >= kernels_ms + SYNC_MS


def test_queued_calls_take_less_than_the_sum_of_their_latencies(forks: Forks, tmp_path: Path) -> None:
    arguments = ("--batch-sizes", 1, "--no-cpu-baseline", "--iterations", 20, "--max-seconds", 5, "--warmup", 1)
    slow = {"SIMULATED_NPU_KERNEL_US": 100, "SIMULATED_NPU_SYNC_US": 20_000}
    assert forks.run(PERF[0], *ON_NPU, *VIT, *arguments, cwd=tmp_path, **slow).code == 0
    row = find(read_records(tmp_path / "logs" / "benchmark.log"), "perf", batch_size=1)
    window = find(read_records(tmp_path / "logs" / "benchmark.log"), "latencies", **{"pass": "throughput"})
    assert window["calls"] > 1
    assert min(window["samples_ms"]) < window["calls"] * row["avg_latency_ms"]
    assert row["throughput_ips"] > 1000 / row["avg_latency_ms"]


def test_a_timer_that_does_not_finish_measures_less_than_its_kernels(forks: Forks, tmp_path: Path) -> None:
    script = without_synchronisation(tmp_path, "        finish(outputs[turn])\n")
    row = find(time_slow_kernels(forks, tmp_path, script), "perf", batch_size=1)
    assert row["min_latency_ms"] < kernels_of_a_forward(tmp_path) * KERNEL_MS


def test_a_lost_synchronisation_is_more_than_the_device_can(forks: Forks, tmp_path: Path) -> None:
    """The rule of 105 %: the run is flagged, and the checker fails it."""
    script = without_synchronisation(tmp_path, "        finish(outputs[turn])\n")
    records = time_slow_kernels(forks, tmp_path, script, kernel_ms=6.0)
    assert find(records, "perf", batch_size=1)["percent_of_limit"] > 1.05
    assert "more than the device can" in (tmp_path / "logs" / "benchmark.log").read_text()
    check = forks.run(*CHECK, "logs/benchmark.log", cwd=tmp_path)
    assert any("percent_of_limit" in row and row.endswith("FAIL") for row in check.stdout.splitlines())


def test_reading_an_element_stands_in_for_a_lost_synchronisation(forks: Forks, tmp_path: Path) -> None:
    script = without_synchronisation(tmp_path, "    common.synchronize(embedding.device)\n")
    row = find(time_slow_kernels(forks, tmp_path, script), "perf", batch_size=1)
    assert row["min_latency_ms"] >= kernels_of_a_forward(tmp_path) * KERNEL_MS


def test_out_of_memory_is_a_row_and_the_smaller_batches_stand(forks: Forks, tmp_path: Path) -> None:
    sizes = ("--batch-sizes", 1, 4, 8, 16, "--no-cpu-baseline")
    run = forks.run(*PERF, *sizes, *VIT, cwd=tmp_path, SIMULATED_NPU_MEMORY_MB=MEMORY_MB)
    assert run.code == 0, run.stderr
    rows = [record for record in read_records(tmp_path / "logs" / "benchmark.log") if record["event"] == "perf"]
    assert [(row["batch_size"], row["status"]) for row in rows] == [(1, "ok"), (4, "ok"), (8, "ok"), (16, "oom")]
    assert [row["peak_memory_mb"] for row in rows[:3]] == sorted(row["peak_memory_mb"] for row in rows[:3])
    check = forks.run(*CHECK, "logs/benchmark.log", cwd=tmp_path)
    failed = [row.split()[:3] for row in check.stdout.splitlines() if row.endswith("FAIL")]
    assert failed == [["batch", "16", "status"]]


def test_a_compiler_that_is_missing_is_an_error(forks: Forks, tmp_path: Path) -> None:
    run = forks.run(*PERF, *SIZES, *VIT, "--compile", cwd=tmp_path)
    assert (run.code, run.stderr.count("\n")) == (2, 1)
    assert "--compile on an NPU needs TorchAir" in run.stderr


# -------------------------------------------------------------------------------------------------- explanations
def accuracy_records(folder: Path) -> Records:
    return read_records(folder / "logs" / "accuracy.log")


def best_cause(folder: Path) -> str:
    (best,) = [record for record in accuracy_records(folder) if record["event"] == "cause" and record["best"]]
    return str(best["cause"])


def blamed_blocks(folder: Path) -> list[str]:
    layers = [record for record in accuracy_records(folder) if record["event"] == "layer"]
    assert len(layers) == 6
    return [layer["name"] for layer in layers if layer["blamed"]]


@pytest.mark.parametrize(
    ("arguments", "environment", "cause"),
    [
        (("--numerics", "fast"), {"SIMULATED_NPU_GELU": "exact"}, "conv_hf32"),
        (("--numerics", "fast"), {"SIMULATED_NPU_HF32": "0"}, "gelu_tanh"),
        (("--numerics", "fast"), {}, "conv_hf32+gelu_tanh"),
        (("--dtype", "bfloat16"), {}, "bfloat16"),
        ((), {"SIMULATED_NPU_FAULT": "layer_norm:scale=1.01"}, "unexplained"),
    ],
)
def test_explain_names_the_cause_in_force(
    arguments: tuple[str, ...], environment: dict[str, str], cause: str, forks: Forks, tmp_path: Path
) -> None:
    run = forks.run(*ACCURACY, *VIT, *arguments, "--explain", cwd=tmp_path, **environment)
    assert run.code == 0, run.stderr
    assert best_cause(tmp_path) == cause
    assert "\ncause: " in run.stdout
    assert "\nblocks: " in run.stdout


def test_a_fail_is_explained_and_its_block_blamed_without_being_asked(forks: Forks, tmp_path: Path) -> None:
    fault = {"SIMULATED_NPU_FAULT": "layer_norm:scale=1.1;module=blocks.1"}
    assert forks.run(*ACCURACY, *VIT, cwd=tmp_path, **fault).code == 0
    assert find(accuracy_records(tmp_path), "accuracy")["result"] == "FAIL"
    assert best_cause(tmp_path) == "unexplained"
    assert blamed_blocks(tmp_path) == ["model.blocks.1"]


def test_a_pass_is_explained_only_on_request(forks: Forks, tmp_path: Path) -> None:
    assert forks.run(*ACCURACY, *VIT, cwd=tmp_path).code == 0
    assert not [r for r in accuracy_records(tmp_path) if r["event"] in ("cause", "layer")]


def test_an_error_far_above_float32_noise_is_a_warning_that_passes(forks: Forks, tmp_path: Path) -> None:
    fault = {"SIMULATED_NPU_FAULT": "layer_norm:scale=1.001"}
    run = forks.run(*ACCURACY, *VIT, cwd=tmp_path, **fault)
    assert find(accuracy_records(tmp_path), "accuracy")["result"] == "PASS"
    assert "far above the noise of float32" in run.stdout
    assert forks.run(*PERF, *SIZES, *VIT, cwd=tmp_path).code == 0
    check = forks.run(*CHECK, cwd=tmp_path)
    assert check.code == 0
    assert "warning: embedding errs by" in check.stdout


def test_bfloat16_is_held_to_its_expected_error(forks: Forks, tmp_path: Path) -> None:
    """Its rounding passes by twice the emulated expectation; the same error again does not."""
    for script in (ACCURACY, (*PERF, *SIZES)):
        assert forks.run(*script, *VIT, "--dtype", "bfloat16", cwd=tmp_path).code == 0
    accuracy = find(accuracy_records(tmp_path), "accuracy", output="embedding")
    assert 0.004 < accuracy["expected_relative_l2"] < 0.05
    assert accuracy["threshold"] == 2 * accuracy["expected_relative_l2"]
    check = forks.run(*CHECK, cwd=tmp_path)
    assert check.code == 0, check.stdout
    fault = {"SIMULATED_NPU_FAULT": "linear:noise=0.1"}
    assert forks.run(*ACCURACY, *VIT, "--dtype", "bfloat16", cwd=tmp_path, **fault).code == 0
    assert forks.run(*CHECK, cwd=tmp_path).code == 1


# ---------------------------------------------------------------------------------------------- faults, and none
@dataclass(frozen=True)
class Fault:
    """A fault, in which runs it acts (accuracy, perf), with which numerics, and what of the verdict must name it."""

    text: str
    named: str
    runs: tuple[str, ...] = ("accuracy", "perf")
    fast: bool = False  # strict replaces the GELU operator, so its faults act on fast alone
    sizes: tuple[str, ...] = ("1", "2")


PERF_ONLY, ACCURACY_ONLY = ("perf",), ("accuracy",)
FAULTS = [
    Fault("gelu:nan", "NaN or infinite", fast=True),
    Fault("layer_norm:nan", "NaN or infinite"),
    Fault("attention:nan", "NaN or infinite"),
    Fault("conv:nan", "NaN or infinite"),
    Fault("linear:nan", "NaN or infinite"),
    Fault("layer_norm:inf", "NaN or infinite"),
    Fault("attention:inf", "NaN or infinite"),
    Fault("layer_norm:scale=1.02", "relative_l2"),
    Fault("gelu:scale=1.02", "relative_l2", fast=True),
    Fault("linear:scale=1.02", "relative_l2"),
    Fault("conv:scale=1.1", "relative_l2"),
    Fault("attention:zero", "relative_l2"),
    Fault("attention:zero;head=0", "relative_l2"),
    Fault("attention:zero;call=1", "relative_l2"),
    Fault("gelu:zero;call=2", "relative_l2", fast=True),
    Fault("conv:zero", "relative_l2"),
    Fault("linear:noise=0.1", "relative_l2"),
    Fault("layer_norm:noise=0.1", "relative_l2"),
    Fault("attention:noise=0.5", "relative_l2"),
    Fault("linear:raise", "status 'error'"),
    Fault("attention:raise", "status 'error'"),
    Fault("gelu:raise", "status 'error'", fast=True),
    Fault("linear:fallback", "status 'error'"),
    Fault("linear:oom", "status 'error'"),
    Fault("linear:oom;batch=8", "batch 8 status", PERF_ONLY, sizes=("1", "8")),
    Fault("attention:raise;batch=2", "batch 2 status", PERF_ONLY),
    Fault("to:stay", "status 'error'"),
    Fault("to:stay", "status 'error'", PERF_ONLY),
    Fault("layer_norm:nan", "output_relative_l2", PERF_ONLY),
    Fault("linear:scale=1.02", "same embedding", PERF_ONLY),
    Fault("gelu:zero", "same embedding", PERF_ONLY, fast=True),
    Fault("attention:zero;batch=2", "batch 2 output_relative_l2", PERF_ONLY),
    Fault("linear:noise=0.1;batch=2", "batch 2 output_relative_l2", PERF_ONLY),
    Fault("linear:nan;batch=2", "batch 2 output_relative_l2", PERF_ONLY),
    Fault("layer_norm:scale=1.02", "relative_l2", ACCURACY_ONLY),
]


def run_chain(forks: Forks, folder: Path, fault: Fault | None, numerics: str) -> tuple[Finished, int]:
    """Both runs and the checker; the verdict, and how often the fault fired inside the model."""
    count = 0
    sizes = fault.sizes if fault else ("1", "2")
    for kind, script in (("accuracy", ACCURACY), ("perf", (*PERF, "--no-cpu-baseline", "--batch-sizes", *sizes))):
        report = folder / f"{kind}.json"
        acts = fault is not None and kind in fault.runs
        acting = {"SIMULATED_NPU_FAULT": fault.text, "SIMULATED_NPU_REPORT": report} if fault and acts else {}
        run = forks.run(*script, *VIT, "--numerics", numerics, cwd=folder, **acting)
        assert run.code in (0, 2), run.stderr
        assert acts or run.code == 0, run.stderr
        count += fired(report)
    return forks.run(*CHECK, cwd=folder), count


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.text}-{'+'.join(fault.runs)}")
def test_a_fault_never_passes_and_the_verdict_names_its_check(fault: Fault, forks: Forks, tmp_path: Path) -> None:
    check, count = run_chain(forks, tmp_path, fault, "fast" if fault.fast else "strict")
    assert count > 0, "the fault did not fire inside the model"
    assert check.code in (1, 2)
    failed = [row for row in check.stdout.splitlines() if row.endswith(("FAIL", "CANNOT JUDGE"))]
    assert any(fault.named in row for row in failed[:-1]), check.stdout


def test_there_are_thirty_faults_of_every_kind() -> None:
    assert len({(fault.text, fault.runs) for fault in FAULTS}) >= 30


@pytest.mark.parametrize("numerics", ["strict", "fast"])
def test_runs_without_a_fault_never_fail(numerics: str, forks: Forks, tmp_path: Path) -> None:
    """Fifteen chains each, with other images and weights every time."""
    for seed in range(15):
        for script in (ACCURACY, (*PERF, *SIZES, "--no-cpu-baseline")):
            run = forks.run(*script, *VIT, "--numerics", numerics, "--seed", seed, cwd=tmp_path)
            assert run.code == 0, run.stderr
        check = forks.run(*CHECK, cwd=tmp_path)
        assert check.code == 0, check.stdout


def test_records_know_the_device_that_computed(forks: Forks, tmp_path: Path) -> None:
    assert forks.run(*PERF, *SIZES, *VIT, cwd=tmp_path).code == 0
    records: Records = read_records(tmp_path / "logs" / "benchmark.log")
    env = find(records, "env")
    assert (env["device"], env["parameters_device"], env["simulated"]) == ("npu:0", "npu:0", True)
    assert env["allow_hf32"] == {"conv": False, "matmul": False}
    assert env["fallback_disabled"] is True
    assert all(row["peak_memory_mb"] > 0 for row in records if row["event"] == "perf")
