"""The accuracy run: what is compared with what, and what its log holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import PERF_QUICK, Runner
from helpers.logs import find, read_records
from safetensors.torch import load_file, save_file

import accuracy_run
from common.log import events, formulas


def run(log_dir: Path, model: Path | str, *arguments: str) -> list[dict[str, object]]:
    """The records of an accuracy run in this process, on the CPU."""
    common = ["--model", str(model), "--device", "cpu", "--samples", "2", "--log-dir", str(log_dir)]
    assert accuracy_run.main([*common, *arguments]) == 0
    return read_records(log_dir / "accuracy.log")


@pytest.mark.parametrize(
    ("dtype", "reference"), [("float32", "float64"), ("float16", "float32"), ("bfloat16", "float32")]
)
def test_the_reference_is_of_a_higher_precision(dtype: str, reference: str, tiny_timm: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_timm, "--dtype", dtype)
    for output in events.OUTPUTS:
        accuracy = find(records, "accuracy", output=output)
        assert accuracy["reference"] == reference
        assert accuracy["relative_l2"] > 0
    assert find(records, "sample")["dtype"] == dtype
    assert find(records, "model")["dtype"] == dtype


def test_golden_is_a_second_reference_with_a_noise_floor(tiny_timm: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_timm, "--dtype", "float16", "--golden")
    for output in events.OUTPUTS:
        errors = {}
        for reference in ("float32", "float64"):
            samples = [r for r in records if r["event"] == "sample" and r["output"] == output]
            of_one = [r["relative_l2"] for r in samples if r["reference"] == reference]
            errors[reference] = find(records, "accuracy", output=output, reference=reference)["relative_l2"]
            assert errors[reference] == max(of_one)
            assert len(of_one) == 2
        floor = find(records, "noise_floor", output=output)
        assert 1e-8 < floor["relative_l2"] < 1e-5 < errors["float64"]
        assert 0 < abs(errors["float32"] - errors["float64"]) <= floor["relative_l2"]
    assert "noise floor of embedding: " in (tmp_path / "accuracy.log").read_text()


def test_golden_of_float32_on_the_cpu_is_its_only_reference(tiny_timm: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_timm, "--golden")
    assert {r["reference"] for r in records if r["event"] in ("sample", "accuracy")} == {"float64"}
    assert not [r for r in records if r["event"] == "noise_floor"]


def test_both_outputs_of_every_sample_are_recorded(tiny_vit: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_vit, "--samples", "3")
    samples = [record for record in records if record["event"] == "sample"]
    assert [(s["image"], s["output"]) for s in samples] == [
        (image, output)
        for image in ("grace_hopper.jpg", "grace_hopper.jpg crop 1", "grace_hopper.jpg crop 2")
        for output in events.OUTPUTS
    ]
    assert all(set(formulas.METRICS) <= set(sample) for sample in samples)
    assert len({sample["image_sha256"] for sample in samples}) == 3
    assert find(records, "sample", output="hidden_state")["shape"] == [1, 17, 32]


def test_the_given_images_come_first(coffee: Path, tiny_vit: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_vit, "--image", str(coffee))
    assert [r["image"] for r in records if r["event"] == "sample"][::2] == ["coffee.png", "coffee.png crop 1"]


def test_nan_in_the_weights_is_a_fail_and_not_a_pass(tiny_timm: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_timm, tmp_path / "model")
    state = load_file(tiny_timm / "model.safetensors")
    state["head.bias"] = torch.full_like(state["head.bias"], torch.nan)
    save_file(state, tmp_path / "model" / "model.safetensors")

    records = run(tmp_path, tmp_path / "model")
    golden = run(tmp_path / "golden", tmp_path / "model", "--dtype", "float16", "--golden")
    assert find(golden, "noise_floor", output="embedding")["relative_l2"] is None
    assert find(golden, "noise_floor", output="hidden_state")["relative_l2"] > 0
    embedding = find(records, "accuracy", output="embedding")
    assert (embedding["result"], embedding["relative_error"]) == ("FAIL", None)
    assert embedding["nonfinite"] == 2 * 20  # of ten elements in the reference and the candidate, two samples
    assert find(records, "accuracy", output="hidden_state")["result"] == "PASS"


def test_the_logs_own_threshold_sets_its_result(tiny_timm: Path, tmp_path: Path) -> None:
    assert find(run(tmp_path, tiny_timm, "--threshold", "0.000001"), "accuracy")["result"] == "FAIL"
    assert find(run(tmp_path, tiny_timm, "--threshold", "1"), "accuracy")["result"] == "PASS"


def test_the_chain_passes_and_a_failed_run_takes_its_evidence_away(tmp_path: Path, run_script: Runner) -> None:
    """The reference's sequence on the demo model, as plain processes; then one run that fails in the same folder."""
    accuracy = run_script("accuracy_run.py", "--model", "demo", "--device", "cpu", "--samples", "2", env={})
    perf = run_script("accuracy_run_perf.py", "--model", "demo", "--device", "cpu", *PERF_QUICK, env={})
    assert (accuracy.code, perf.code) == (0, 0), accuracy.stderr + perf.stderr
    for line in ("max_abs_error: ", "mean_abs_error: ", "cosine_similarity: ", "threshold: 1.0%", "result: PASS"):
        assert re.search(f"^(?!@).*{line}", accuracy.stdout, re.MULTILINE)
    for line in ("avg_latency_ms: ", "p50_latency_ms: ", "p95_latency_ms: ", "throughput_ips: "):
        assert re.search(f"^(?!@).*{line}", perf.stdout, re.MULTILINE)

    (tmp_path / "log.txt").write_text(accuracy.stdout + perf.stdout)
    joined = run_script("check_accuracy_run_perf.py", "log.txt")
    assert (joined.code, joined.verdict) == (0, "OVERALL: PASS"), joined.stdout
    assert run_script("check_accuracy_run_perf.py").code == 0

    failed = run_script("accuracy_run.py", "--model", "demo", "--device", "cpu", "--image", "nosuch.jpg")
    assert failed.code == 2
    assert run_script("check_accuracy_run_perf.py").code == 2
    assert run_script("check_accuracy_run_perf.py", "logs/accuracy.prev.log", "logs/benchmark.log").code == 0

    assert run_script("accuracy_run_perf.py", "--batch-sizes", "none").code == 2
    assert not (tmp_path / "logs" / "benchmark.log").exists()
