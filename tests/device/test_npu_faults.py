"""Faults of the simulated NPU: every one is noticed and its check named, and no sound run is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Finished
from helpers.forks import Forks, needs_simulated_npu
from helpers.npu_runs import ACCURACY, CHECK, PERF, SIZES, VIT, fired

pytestmark = needs_simulated_npu


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
    Fault("attention:raise;batch=2", "status 'error'", PERF_ONLY),
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
    """Five chains each, with other images and weights every time."""
    for seed in range(5):
        for script in (ACCURACY, (*PERF, *SIZES, "--no-cpu-baseline")):
            run = forks.run(*script, *VIT, "--numerics", numerics, "--seed", seed, cwd=tmp_path)
            assert run.code == 0, run.stderr
        check = forks.run(*CHECK, cwd=tmp_path)
        assert check.code == 0, check.stdout
