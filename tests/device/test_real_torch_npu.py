"""The NPU path on the real torch_npu and a fake CANN: every script, model, mode and dtype, and whatever goes wrong.

NPU_PYTHON names the interpreter of an environment with torch_npu, which tests/fake_cann/environment.py makes. What runs
here proves how the scripts get along with torch_npu, nothing about Ascend hardware.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY_PREPROCESSING, Finished, Runner
from fake_cann import build
from fake_cann.processes import RealNpu
from helpers.forks import Forks
from helpers.logs import Records, find, read_records
from helpers.npu_runs import ACCURACY, CHECK, ON_NPU, PERF, SIZES, VIT
from PIL import Image

INFERENCE = ("inference.py", *ON_NPU)
CHIP = "Ascend910B4"
REFUSES_FALLBACKS = "TORCH_NPU_FALLBACK_CPU_DISABLE"


@pytest.fixture(scope="module")
def npu() -> Iterator[RealNpu]:
    python = os.environ.get("NPU_PYTHON")
    if not python:
        pytest.skip("NPU_PYTHON names no interpreter with torch_npu: tests/fake_cann/environment.py makes one")
    if build.missing_tools():
        pytest.skip(f"no fake CANN without {', '.join(build.missing_tools())}")
    with RealNpu(Path(python), build.build(Path(python))) as running:
        yield running


OF_TIMM = {
    "timm swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2]},
    ),
    "timm beit": ("beit_base_patch16_224", {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2}),
}
OF_TRANSFORMERS = {
    "transformers vit": ("ViTModel", 32),
    "transformers beit": ("BeitModel", 32),
    "transformers swin": ("SwinModel", 64),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """How each model is named to a script: the smallest of its kind, with weights that make every part count."""
    folder = tmp_path_factory.mktemp("models")
    for name, (architecture, sizes) in OF_TIMM.items():
        save_of_timm(folder / name, architecture, sizes)
    for name, (saved_as, image_size) in OF_TRANSFORMERS.items():
        save_of_transformers(folder / name, saved_as, image_size)
    return {
        "demo": ("--model", "demo"),
        "timm vit": VIT,
        "timm convnext": ("--model", "timm/test_convnext", "--weights", "random"),
        **{name: ("--model", folder / name) for name in (*OF_TIMM, *OF_TRANSFORMERS)},
    }


def save_of_timm(folder: Path, architecture: str, sizes: dict[str, Any]) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    size = sizes["img_size"]
    pretrained = {"input_size": [3, size, size], "fixed_input_size": True, "num_classes": 10}
    config = {"architecture": architecture, "num_classes": 10, "model_args": sizes, "pretrained_cfg": pretrained}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = timm.create_model(f"local-dir:{folder}")
    for name, parameter in model.named_parameters():
        if "bias_table" in name:  # of positions; as large as trained ones
            torch.nn.init.normal_(parameter)
    save_file(model.state_dict(), folder / "model.safetensors")


def save_of_transformers(folder: Path, saved_as: str, image_size: int) -> None:
    from helpers.transformers_families import FAMILIES

    next(family for family in FAMILIES if family.saved_as == saved_as).build().save_pretrained(folder)
    preprocessing = {**TINY_PREPROCESSING, "size": {"height": image_size, "width": image_size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))


def accuracy_records(folder: Path) -> Records:
    return read_records(folder / "logs" / "accuracy.log")


def require_nothing_unsaid(run: Finished) -> None:
    """No operator is missing in the fake, none ran on the CPU, and nobody asked a device for float64."""
    assert "fake CANN" not in run.stderr
    assert "run on the CPU" not in run.stderr
    assert "double dtype" not in run.stderr


# ------------------------------------------------------------------------------------------------------ the chain
def test_the_chain_as_plain_processes(npu: RealNpu, run_script: Runner, tmp_path: Path) -> None:
    """The reference's commands, with nothing prepared: torch finds torch_npu by itself."""
    for script in (INFERENCE, ACCURACY, (*PERF, *SIZES, "--no-cpu-baseline")):
        run = npu.start(ROOT / script[0], *script[1:], "--model", "demo", cwd=tmp_path)
        assert run.code == 0, run.stderr
        require_nothing_unsaid(run)
    check = run_script("check_accuracy_run_perf.py", "--require-device", "npu")
    assert (check.code, check.verdict) == (0, "OVERALL: PASS"), check.stdout
    assert f"simulated device {CHIP}: it says nothing about Ascend hardware." in check.stdout
    env = find(accuracy_records(tmp_path), "env")
    assert (env["cann"], env["simulated"], env["device_name"]) == (build.VERSION, True, CHIP)
    assert build.VERSION in (tmp_path / "logs" / "env_check.log").read_text()


ALL_MODES = [(numerics, dtype) for numerics in ("strict", "fast") for dtype in ("float32", "float16", "bfloat16")]
CHAINS = [
    *(("timm vit", *mode) for mode in ALL_MODES),
    *(("transformers swin", *mode) for mode in ALL_MODES[::2]),
    ("demo", "fast", "float16"),
    ("timm convnext", "strict", "float32"),
    ("timm convnext", "fast", "bfloat16"),
    ("timm swin", "strict", "float32"),
    ("timm swin", "fast", "float16"),
    ("timm beit", "strict", "bfloat16"),
    ("timm beit", "fast", "float32"),
    ("transformers vit", "strict", "float32"),
    ("transformers vit", "fast", "bfloat16"),
    ("transformers beit", "strict", "float32"),
    ("transformers beit", "fast", "float16"),
]


@pytest.mark.parametrize(("model", "numerics", "dtype"), CHAINS)
def test_the_chain_passes(
    model: str,
    numerics: str,
    dtype: str,
    npu: RealNpu,
    models: dict[str, tuple[object, ...]],
    run_script: Runner,
    tmp_path: Path,
) -> None:
    chosen = (*models[model], "--numerics", numerics, "--dtype", dtype)
    for script in (ACCURACY, (*PERF, *SIZES, "--no-cpu-baseline")):
        run = npu.run(*script, *chosen, cwd=tmp_path)
        assert run.code == 0, run.stderr
        require_nothing_unsaid(run)
    check = run_script(*CHECK)
    assert (check.code, check.verdict) == (0, "OVERALL: PASS"), check.stdout
    assert "simulated" in check.stdout.splitlines()[-2]


@pytest.mark.parametrize("model", ["transformers swin", "transformers beit", "transformers vit"])
def test_the_device_and_the_cpu_beside_it_give_what_a_machine_without_npu_gives(
    model: str, npu: RealNpu, models: dict[str, tuple[object, ...]], forks: Forks, tmp_path: Path
) -> None:
    """A Swin's and a BEiT's position biases are kept: transformers drops them where it finds an NPU, on the CPU too."""
    file = ("--samples", 2, "--save-reference", "reference.safetensors")
    saved = forks.run("accuracy_run.py", *models[model], "--device", "cpu", *file, cwd=tmp_path)
    assert saved.code == 0, saved.stderr
    for device in ("npu", "cpu"):
        known = ("--device", device, "--reference", "reference.safetensors", "--samples", 2)
        run = npu.run("accuracy_run.py", *models[model], *known, cwd=tmp_path)
        assert run.code == 0, run.stderr
        for output in ("embedding", "hidden_state"):
            assert find(accuracy_records(tmp_path), "accuracy", output=output)["relative_l2"] <= 1e-6


# ------------------------------------------------------------------------------------------------------- numerics
def traced(path: Path) -> dict[str, set[str]]:
    """The operators that ran on the device, each with the cubeMathTypes of its calls."""
    operators: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        name, _, cube_math_type = line.partition(" cubeMathType=")
        if name.startswith("aclnn"):
            operators.setdefault(name, set()).update(cube_math_type)
    return operators


def test_strict_asks_for_float32_and_the_exact_gelu(npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_TRACE=tmp_path / "trace")
    assert run.code == 0, run.stderr
    operators = traced(tmp_path / "trace")
    assert {"aclnnConvolution", "aclnnAddmm", "aclnnGeluV2", "aclnnLayerNorm"} <= set(operators)
    assert set().union(*operators.values()) == {"0"}
    assert "aclnnFastLayerNorm" not in operators
    found = find(accuracy_records(tmp_path), "numerics")
    assert (found["conv_mantissa_bits"], found["gelu"], found["gelu_by"]) == (23, "erf", "npu_gelu")
    assert find(accuracy_records(tmp_path), "accuracy", output="embedding")["relative_l2"] <= 1e-6


def test_fast_leaves_the_devices_defaults(npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, "--numerics", "fast", cwd=tmp_path, FAKE_CANN_TRACE=tmp_path / "trace")
    assert run.code == 0, run.stderr
    operators = traced(tmp_path / "trace")
    assert (operators["aclnnConvolution"], operators["aclnnAddmm"]) == ({"3"}, {"0"})
    assert "aclnnGelu" in operators
    found = find(accuracy_records(tmp_path), "numerics")
    assert (found["conv_mantissa_bits"], found["matmul_mantissa_bits"], found["gelu"]) == (11, 23, "tanh")


def test_explain_names_the_causes_and_the_device_confirms_them(npu: RealNpu, tmp_path: Path) -> None:
    """Without the tanh GELU and HF32 convolution, which it can do without, the error is gone."""
    run = npu.run(*ACCURACY, *VIT, "--numerics", "fast", "--explain", cwd=tmp_path)
    assert run.code == 0, run.stderr
    cause = find(accuracy_records(tmp_path), "cause", best=True)
    assert cause["cause"] == "conv_hf32+gelu_tanh"
    assert abs(cause["confirmed"] - cause["explained"]) <= 0.02
    assert "--numerics strict" in run.stdout


def test_the_formula_is_the_last_resort_for_an_exact_gelu(npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_LACKS="aclnnGeluV2")
    assert run.code == 0, run.stderr
    found = find(accuracy_records(tmp_path), "numerics")
    assert (found["gelu"], found["gelu_by"]) == ("erf", "formula")


def test_the_users_own_compatible_operators_are_left_to_him_and_recorded(npu: RealNpu, tmp_path: Path) -> None:
    own = {"TORCH_NPU_USE_COMPATIBLE_IMPL": 1}
    assert npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_TRACE=tmp_path / "trace", **own).code == 0
    assert "aclnnFastLayerNorm" in traced(tmp_path / "trace")
    assert find(accuracy_records(tmp_path), "env")["compatible_impl"] == "1"


@pytest.mark.parametrize("numerics", ["strict", "fast"])
def test_an_old_cann_without_the_fast_layer_norm_suffices(numerics: str, npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(
        *ACCURACY, *VIT, "--numerics", numerics, cwd=tmp_path, FAKE_CANN_LACKS="aclnnFastLayerNorm,aclnnInplaceGelu"
    )
    assert run.code == 0, run.stderr


def test_attention_that_is_an_ulp_off_is_float32(npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_ATTENTION_ULPS=1)
    assert run.code == 0, run.stderr
    assert find(accuracy_records(tmp_path), "numerics")["attention_mantissa_bits"] == 22


def test_attention_that_is_no_float32_is_refused(npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_ATTENTION_ULPS=4096)
    assert run.code == 2
    assert "attention_mantissa_bits is 1" in run.stderr  # some ten


@pytest.mark.parametrize("chip", ["Ascend310P3", "Ascend910A"])
def test_a_chip_without_float32_products_is_named_before_the_weights_load(
    chip: str, npu: RealNpu, tmp_path: Path
) -> None:
    """No model runs on it here: its convolutions are compiled just in time, which the fake can't."""
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, FAKE_CANN_SOC=chip, FAKE_CANN_JIT_COMPILE="enable")
    assert run.code == 2
    assert f"{chip} " in run.stdout
    assert "float16" in run.stdout
    assert "compiles operators" in run.stdout
    assert "Model: " not in run.stdout


# ------------------------------------------------------------------------------------------------------- failures
AT_ONCE = [
    ("FAIL_INIT", 500003, "500003"),
    ("FAIL_SET_DEVICE", 507033, "507033"),
    ("FAIL_DEVICE_COUNT", 507899, "finds 0 NPU devices"),
    ("DEVICES", 0, "finds 0 NPU devices"),
    ("SOC", "Ascend999", "Ascend999"),
]
ON_THE_WAY = [
    ("MEMORY_MB", 1, "out of memory"),
    ("FAIL", "any", "aclnn"),
    ("FAIL", "aclnnAddmm@3", "aclnnAddmm"),
    ("FAIL_LATER", "any", "507015"),
    ("FAIL_LATER", "aclnnAddmm@3", "507015"),
]
LOGS = {"inference.py": "inference.log", "accuracy_run.py": "accuracy.log", "accuracy_run_perf.py": "benchmark.log"}
FAILURES = [
    *((ACCURACY, *failure) for failure in (*AT_ONCE, *ON_THE_WAY)),
    *((script, *failure) for script in (INFERENCE, (*PERF, *SIZES)) for failure in ON_THE_WAY),
]


@pytest.mark.parametrize(("script", "knob", "value", "said"), FAILURES)
def test_a_devices_failure_is_one_line_and_not_a_verdict(
    script: tuple[str, ...], knob: str, value: object, said: str, npu: RealNpu, tmp_path: Path
) -> None:
    run = npu.run(*script, *VIT, cwd=tmp_path, **{f"FAKE_CANN_{knob}": value})
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert (run.code, len(errors)) == (2, 1), run.stderr
    assert said in errors[0]
    assert "Traceback" not in run.stderr
    assert read_records(tmp_path / "logs" / LOGS[script[0]])[-1]["status"] == "error"


def test_a_batch_that_the_memory_does_not_hold_is_a_result(npu: RealNpu, tmp_path: Path) -> None:
    sizes = ("--batch-sizes", 1, 64, "--no-cpu-baseline")
    run = npu.run(*PERF, *VIT, *sizes, cwd=tmp_path, FAKE_CANN_MEMORY_MB=40)
    assert run.code == 0, run.stderr
    records = read_records(tmp_path / "logs" / "benchmark.log")
    assert [find(records, "perf", batch_size=size)["status"] for size in (1, 64)] == ["ok", "oom"]


def test_an_operator_that_fails_in_the_sweep_ends_it(npu: RealNpu, tmp_path: Path) -> None:
    """From then on torch_npu computes nothing, at once and without a word: other batch sizes would be measured so."""
    run = npu.run(*PERF, *VIT, *SIZES, "--no-cpu-baseline", cwd=tmp_path, FAKE_CANN_FAIL="aclnnLayerNorm@150")
    assert run.code == 2
    assert "aclnnLayerNorm" in run.stderr.splitlines()[-1]
    records = read_records(tmp_path / "logs" / "benchmark.log")
    assert not [record for record in records if record["event"] == "perf" and record["status"] == "ok"]


def test_a_backend_that_the_driver_refuses_is_a_row_and_eager_stands(npu: RealNpu, tmp_path: Path) -> None:
    """The fake has no graphs to capture: torch_npu says so as it says that an operator failed."""
    few = ("--batch-sizes", 1, "--no-cpu-baseline", "--iterations", 5, "--max-seconds", 60)
    run = npu.run(*PERF, *VIT, *few, "--compile", "npugraphs", cwd=tmp_path)
    assert run.code == 0, run.stderr
    records = read_records(tmp_path / "logs" / "benchmark.log")
    assert find(records, "perf", mode="eager")["status"] == "ok"
    row = find(records, "perf", mode="compile:npugraphs")
    assert (row["status"], "aclmdlRICaptureBegin" in row["reason"]) == ("error", True)


# ------------------------------------------------------------------------------------- devices, ranks and workers
def test_one_of_two_devices(npu: RealNpu, tmp_path: Path) -> None:
    """npu:1 of two; with one visible, it is npu:0, and npu:1 is not there; a list that does not ascend leaves none."""
    two = {"FAKE_CANN_DEVICES": 2}
    assert npu.run("inference.py", *VIT, "--device", "npu:1", cwd=tmp_path, **two).code == 0
    assert find(read_records(tmp_path / "logs" / "inference.log"), "env")["device"] == "npu:1"
    assert npu.run(*INFERENCE, *VIT, cwd=tmp_path, **two, ASCEND_RT_VISIBLE_DEVICES=1).code == 0
    absent = npu.run("inference.py", *VIT, "--device", "npu:1", cwd=tmp_path, **two, ASCEND_RT_VISIBLE_DEVICES=1)
    assert absent.code == 2
    assert "finds 1 NPU device with ASCEND_RT_VISIBLE_DEVICES=1" in absent.stderr
    none = npu.run(*INFERENCE, *VIT, cwd=tmp_path, **two, ASCEND_RT_VISIBLE_DEVICES="1,0")
    assert none.code == 2
    assert "finds 0 NPU devices with ASCEND_RT_VISIBLE_DEVICES=1,0" in none.stderr
    assert "ascend" in none.stderr.partition("1,0")[2]  # what is wrong with it


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 small photos, each another crop of a real one."""
    import skimage

    folder = tmp_path_factory.mktemp("photos")
    coffee = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    for number in range(21):
        coffee.crop((number, number, number + 200, number + 150)).save(folder / f"{number:03}.png")
    return folder


def test_two_ranks_with_a_device_each_give_what_one_process_with_workers_gives(
    npu: RealNpu, photos: Path, tmp_path: Path
) -> None:
    folder = (*VIT, "--image", photos, "--batch-size", 4, "--workers", 2)
    alone = npu.start(ROOT / INFERENCE[0], *ON_NPU, *folder, "--output", "1.npy", cwd=tmp_path)
    assert alone.code == 0, alone.stderr
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    both = npu.start(
        *torchrun, ROOT / INFERENCE[0], *ON_NPU, *folder, "--output", "2.npy", cwd=tmp_path, FAKE_CANN_DEVICES=2
    )
    assert both.code == 0, both.stderr
    features = np.load(tmp_path / "1.npy")
    assert len(features) == 21
    assert np.abs(np.load(tmp_path / "2.npy") - features).max() <= 1e-5 * np.abs(features).max()


def test_two_ranks_are_measured(npu: RealNpu, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    quick = (*PERF[1:], *SIZES, *VIT, "--no-cpu-baseline")
    run = npu.start(*torchrun, ROOT / PERF[0], *quick, cwd=tmp_path, FAKE_CANN_DEVICES=2)
    assert run.code == 0, run.stderr
    shares = find(read_records(tmp_path / "logs" / "benchmark.log"), "ranks", batch_size=2)["shares"]
    assert [share["device"] for share in shares] == ["npu:0", "npu:1"]


# ------------------------------------------------------------------------------------------------------ fallbacks
@pytest.mark.parametrize("refuses", [True, False])
def test_whether_fallbacks_are_refused_is_measured(refuses: bool, npu: RealNpu, tmp_path: Path) -> None:
    run = npu.run(*ACCURACY, *VIT, cwd=tmp_path, **({} if refuses else {REFUSES_FALLBACKS: 0}))
    assert run.code == 0, run.stderr
    assert find(accuracy_records(tmp_path), "env")["fallback_disabled"] is refuses
    assert not [record for record in accuracy_records(tmp_path) if record["event"] == "fallback"]


FALLS_BACK = """
import sys, torch, torch_npu
sys.path.insert(0, sys.argv[1])
from common.device import fallback
attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval().to("npu")
tokens = torch.randn(1, 4, 16).to("npu")
with fallback.noticed("npu") as operators, torch.inference_mode():
    attention(tokens, tokens, tokens)
print(sorted(operators))
"""


def test_a_fallback_that_torch_npu_makes_in_spite_of_it_is_noticed(npu: RealNpu, tmp_path: Path) -> None:
    """torch_npu hands the fast path of self-attention to the CPU whatever it is told, and says so in other words."""
    run = npu.start("-c", FALLS_BACK, ROOT, cwd=tmp_path, **{REFUSES_FALLBACKS: 1})
    assert run.code == 0, run.stderr
    assert run.stdout.strip() == "['aten::_transform_bias_rescale_qkv']", run.stderr


# -------------------------------------------------------------------------------------- torch_npu that can't start
@pytest.fixture
def another_cann(npu: RealNpu, tmp_path: Path) -> Path:
    """Libraries with the right names and nothing in them, as of a CANN that is far too old for torch_npu."""
    folder = tmp_path / "another"
    folder.mkdir()
    for library in (npu.cann / "lib64").iterdir():
        named = ("-o", folder / library.name, f"-Wl,-soname,{library.name}")
        subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", *map(str, named)], check=True)
    return folder


@pytest.mark.parametrize("broken", ["no CANN", "another CANN", "half a CANN", "half a CANN, loaded by the script"])
def test_the_cause_is_shown_where_torch_npu_cant_start(
    broken: str, npu: RealNpu, another_cann: Path, models: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    """And the CPU, which the line advises, runs without it: a transformers model too."""
    variables, said = {
        "no CANN": ({"ASCEND_HOME_PATH": None, "LD_LIBRARY_PATH": None}, "libhccl.so"),
        "another CANN": ({"LD_LIBRARY_PATH": another_cann}, "undefined symbol"),
        "half a CANN": ({"ASCEND_OPP_PATH": None}, "ASCEND_OPP_PATH"),
        "half a CANN, loaded by the script": (
            {"ASCEND_OPP_PATH": None, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
            "ASCEND_OPP_PATH",
        ),
    }[broken]
    run = npu.start(ROOT / INFERENCE[0], *ON_NPU, *models["transformers vit"], cwd=tmp_path, **variables)
    assert run.code == 2, (run.code, run.stdout, run.stderr)
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert ("set_env.sh" in line) == (broken != "another CANN")
    cpu = npu.start(ROOT / INFERENCE[0], "--device", "cpu", *models["transformers vit"], cwd=tmp_path, **variables)
    assert cpu.code == 0, cpu.stderr


# -------------------------------------------------------------------------------------------- the fake CANN itself
OF_THE_FAKE = """
import torch, torch_npu
from torch_npu.npu import utils
x = torch.full((1, 8), 1 + 2**-12, device="npu")
w = torch.eye(8, device="npu")
print(utils.get_cann_version(), torch.npu.get_device_name(0))
print(x.double().dtype, torch.empty(2**20, device="npu").isnan().all().item())
torch.npu.matmul.allow_hf32 = True
print((x @ w)[0, 0].item())
"""


@pytest.mark.parametrize(("chip", "product"), [(CHIP, 1 + 2**-11), ("Ascend310P3", 1.0)])
def test_the_fake_says_what_it_is_and_rounds_as_the_chip_does(
    chip: str, product: float, npu: RealNpu, tmp_path: Path
) -> None:
    run = npu.start("-c", OF_THE_FAKE, cwd=tmp_path, FAKE_CANN_SOC=chip)
    assert run.code == 0, run.stderr
    said = run.stdout.split()
    assert said == [build.VERSION, chip, "torch.float32", "True", str(product)], run.stderr
