"""Timing on the simulated NPU, whose kernels and synchronisations take as long as a test asks: none can be lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Runner
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import Records, change, edited, find, read_records
from helpers.npu_runs import CHECK, ON_NPU, PERF, VIT

pytestmark = needs_simulated_npu

MEMORY_MB = 13  # holds the ViT and a batch of 8, but none of 16
KERNEL_MS, SYNC_MS = 3.0, 6.0
LONG_KERNEL_MS = 15.0


def time_slow_kernels(
    forks: Forks,
    folder: Path,
    script: Path | str = PERF[0],
    *options: object,
    kernel_ms: float = KERNEL_MS,
    sync_ms: float = 0.0,
) -> Records:
    """The records of a perf run at batch size 1 on a device whose kernels and synchronisations take this long."""
    slow = {"SIMULATED_NPU_KERNEL_US": int(kernel_ms * 1000), "SIMULATED_NPU_SYNC_US": int(sync_ms * 1000)}
    arguments = (*PERF[1:], *VIT, "--batch-sizes", 1, "--no-cpu-baseline", "--max-seconds", 0.2, *options)
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
    shutil.copytree(ROOT / "common", folder / "common")
    timing = folder / "common" / "performance" / "timing.py"
    timer = timing.read_text()
    assert timer.count(what) == 1
    timing.write_text(timer.replace(what, ""))
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


@pytest.mark.parametrize(("kernel_ms", "bound", "other"), [(0.0, "host", "device"), (2 * KERNEL_MS, "device", "host")])
def test_what_the_latency_is_spent_on(
    kernel_ms: float, bound: str, other: str, forks: Forks, run_script: Runner, tmp_path: Path
) -> None:
    """Kernels without a delay are done when they are issued; of slow ones the host is long gone."""
    records = time_slow_kernels(forks, tmp_path, PERF[0], "--iterations", 5, "--max-seconds", 60, kernel_ms=kernel_ms)
    row = find(records, "perf", batch_size=1)
    issued, whole = (find(records, "latencies", **{"pass": name})["samples_ms"] for name in ("issue", "latency"))
    assert row["bound"] == bound
    assert row["issue_ms"] == sorted(issued)[2]
    assert (row["issue_ms"] >= 0.9 * sorted(whole)[2]) == (bound == "host")

    log = tmp_path / "logs" / "benchmark.log"
    said = f"batch 1 bound: {bound} (issued in {row['issue_ms']:.3f} of {row['p50_latency_ms']:.3f} ms: the {bound} is"
    assert said in log.read_text()
    judge = ("check_accuracy_run_perf.py", "--only", "perf", "--allow-random-weights")
    assert run_script(*judge, log).code == 0
    edited(log, tmp_path / "other.log", change("perf", "bound", other))
    check = run_script(*judge, tmp_path / "other.log", "--verbose")
    assert check.code == 1
    assert "bound contradicts its samples" in check.stdout


def test_queued_calls_take_less_than_the_sum_of_their_latencies(forks: Forks, tmp_path: Path) -> None:
    """Five calls share the cost of a synchronisation, which is most of the time of a call alone."""
    arguments = ("--batch-sizes", 1, "--no-cpu-baseline", "--iterations", 25, "--max-seconds", 600, "--warmup", 1)
    slow = {"SIMULATED_NPU_KERNEL_US": 0, "SIMULATED_NPU_SYNC_US": 30_000}
    assert forks.run(PERF[0], *ON_NPU, *VIT, *arguments, cwd=tmp_path, **slow).code == 0
    row = find(read_records(tmp_path / "logs" / "benchmark.log"), "perf", batch_size=1)
    window = find(read_records(tmp_path / "logs" / "benchmark.log"), "latencies", **{"pass": "throughput"})
    assert window["calls"] == 5
    assert min(window["samples_ms"]) < window["calls"] * row["min_latency_ms"]
    assert row["throughput_ips"] > 1000 / row["avg_latency_ms"]


def test_a_lost_synchronisation_is_more_than_the_device_can(forks: Forks, tmp_path: Path) -> None:
    """A timer that does not finish measures less than its kernels take. The rule of 105 %: the run is flagged, and the
    checker fails it. Kernels are long, so that launching them takes a fraction of that on a busy machine too.
    """
    script = without_synchronisation(tmp_path, "        finish(made[turn])\n")
    records = time_slow_kernels(forks, tmp_path, script, "--iterations", 1, kernel_ms=LONG_KERNEL_MS)
    row = find(records, "perf", batch_size=1)
    assert row["min_latency_ms"] < kernels_of_a_forward(tmp_path) * LONG_KERNEL_MS
    assert row["percent_of_limit"] > 1.05
    assert "faster than the device can be" in (tmp_path / "logs" / "benchmark.log").read_text()
    check = forks.run(*CHECK, "logs/benchmark.log", cwd=tmp_path)
    rows = check.stdout.splitlines()
    assert any("fastest_of_limit" in row and row.endswith("FAIL") for row in rows), check.stdout


def test_reading_an_element_stands_in_for_a_lost_synchronisation(forks: Forks, tmp_path: Path) -> None:
    script = without_synchronisation(tmp_path, "    devices.synchronize(embedding.device)\n")
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
