"""The NPU path, on the simulated NPU: the scripts unmodified, as processes.

A simulated NPU proves what the program does with a device and what its checks can see, nothing about Ascend hardware.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Runner
from helpers.forks import SIMULATED_NPU, Forks, needs_simulated_npu
from helpers.logs import Records, find, read_records
from helpers.npu_runs import ACCURACY, CHECK, ON_NPU, PERF, SIZES, VIT

pytestmark = needs_simulated_npu


# ---------------------------------------------------------------------------------------------- the whole chain
def test_the_chain_as_plain_processes(run_script: Runner, tmp_path: Path) -> None:
    """The reference's commands, with nothing prepared: torch finds torch_npu by itself."""
    env = {"PYTHONPATH": str(SIMULATED_NPU)}
    accuracy = run_script(*ACCURACY, "--model", "demo", env=env)
    perf = run_script(*PERF, "--model", "demo", *SIZES, env=env)
    assert (accuracy.code, perf.code) == (0, 0), accuracy.stderr + perf.stderr
    check = run_script("check_accuracy_run_perf.py", "--require-device", "npu")
    assert (check.code, check.verdict) == (0, "OVERALL: PASS"), check.stdout
    assert "simulated device" in check.stdout
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
    assert "simulated device" in check.stdout
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
        "from common.device import numerics\n"
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


def test_records_know_the_device_that_computed(forks: Forks, tmp_path: Path) -> None:
    assert forks.run(*PERF, *SIZES, *VIT, cwd=tmp_path).code == 0
    records: Records = read_records(tmp_path / "logs" / "benchmark.log")
    env = find(records, "env")
    assert (env["device"], env["parameters_device"], env["simulated"]) == ("npu:0", "npu:0", True)
    assert env["allow_hf32"] == {"conv": False, "matmul": False}
    assert env["fallback_disabled"] is True
    assert all(row["peak_memory_mb"] > 0 for row in records if row["event"] == "perf")
