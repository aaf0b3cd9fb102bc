"""Repeatability: a device that gives another result for the same image is told of, and beyond rounding it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import find, read_records
from helpers.npu_runs import ACCURACY, VIT

from common.accuracy.repeatability import same_bits
from common.log import formulas

CHECK = ("check_accuracy_run_perf.py", "--only", "accuracy", "--allow-random-weights")
# The forwards on the device of two samples: the first, the second, the first alone again, and both in a batch.
ALONE, BATCH = 2, 3


@needs_simulated_npu
def test_an_exact_device_gives_the_same_to_the_bit(forks: Forks, tmp_path: Path) -> None:
    run = forks.run(*ACCURACY, *VIT, cwd=tmp_path, SIMULATED_NPU_GELU="exact")
    assert "grace_hopper.jpg again, alone: embedding equal to the bit, hidden_state equal to the bit" in run.stdout
    assert "grace_hopper.jpg again, behind another image: embedding " in run.stdout
    records = read_records(tmp_path / "logs" / "accuracy.log")
    found = [record for record in records if record["event"] == "repeat"]
    assert [(each["way"], each["output"]) for each in found] == [
        (way, output) for way in ("alone", "batch") for output in ("embedding", "hidden_state")
    ]
    assert {each["image_sha256"] for each in found} == {find(records, "sample")["image_sha256"]}
    assert all(each["relative_l2"] <= 1e-6 for each in found)
    assert "not the same twice" not in forks.run(*CHECK, cwd=tmp_path).stdout


@needs_simulated_npu
@pytest.mark.parametrize(("forward", "way"), [(ALONE, "alone"), (BATCH, "batch")])
@pytest.mark.parametrize(("noise", "fails"), [(1e-6, False), (1e-2, True)])
def test_a_result_that_changes_is_told_and_beyond_rounding_fails(
    forward: int, way: str, noise: float, fails: bool, forks: Forks, tmp_path: Path
) -> None:
    fault = f"layer_norm:noise={noise};forward={forward}"
    run = forks.run(*ACCURACY, *VIT, cwd=tmp_path, SIMULATED_NPU_GELU="exact", SIMULATED_NPU_FAULT=fault)
    assert run.code == 0, run.stderr
    record = find(read_records(tmp_path / "logs" / "accuracy.log"), "repeat", way=way, output="embedding")
    assert record["equal"] is False
    assert (record["relative_l2"] > formulas.rounding_of("float32")) is fails
    place = "alone" if way == "alone" else "behind another image"
    (line,) = [line for line in run.stdout.splitlines() if f"again, {place}: " in line]
    assert "not equal to the bit, relative_l2 " in line
    assert ("(FAIL)" in line) is fails
    assert ("accuracy: FAIL, worst" in run.stdout and "not repeatable" in run.stdout) is fails
    check = forks.run(*CHECK, cwd=tmp_path)
    assert check.code == fails
    assert (f"FAIL: embedding repeat {way} is " in check.stdout) is fails
    told = "warning: the same image is not the same twice: " in " ".join(check.stdout.split())
    assert told is (way == "alone")


def test_bits_are_compared_and_not_values() -> None:
    one = torch.tensor([[1.0, 0.0, torch.nan]])
    assert same_bits(one, one.clone())
    assert not same_bits(one, torch.tensor([[1.0, -0.0, torch.nan]]))
    assert not same_bits(one.half(), torch.nextafter(one.half(), torch.tensor(2.0).half()))
    assert same_bits(one.T, one.clone().T)


@pytest.mark.parametrize(
    ("dtype", "numerics", "expected", "bound"),
    [
        ("float32", "strict", None, 1e-5),
        ("float32", "strict", 0.5, 1e-5),  # of 16 bits alone
        ("float32", "fast", None, 1e-5 + 2 * 2**-10),
        ("float16", "strict", 1.5e-3, 3e-3),
        ("float16", "strict", None, 1e-5 + 2 * 2**-10),
        ("bfloat16", "strict", 0.045, 0.09),
        ("bfloat16", "strict", 0.5, 0.1),  # no expectation counts for more
        ("bfloat16", "strict", 1e-3, 1e-5 + 2 * 2**-7),
    ],
)
def test_the_bound_is_the_rounding_of_what_is_computed(
    dtype: str, numerics: str, expected: float | None, bound: float
) -> None:
    assert formulas.repeat_bound(dtype, numerics, expected) == pytest.approx(bound)
