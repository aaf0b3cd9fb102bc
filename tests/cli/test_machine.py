"""The machine's state: from files as Linux writes them, from the environment, and without any of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.cli import machine


@pytest.mark.parametrize(
    ("cpu_s", "age_s", "load"),
    [
        (30.0, 60.0, 0.5 * 0.6321205588),  # half a CPU for as long as the average looks back: 1 - 1/e of it
        (6000.0, 6000.0, 1.0),
        (1.0, 1.0, 0.0165285462),  # 1 - exp(-1/60)
        (0.0, 0.0, 0.0),
    ],
)
def test_a_process_is_that_part_of_the_load_average(cpu_s: float, age_s: float, load: float) -> None:
    assert machine.damped_load(cpu_s, age_s) == pytest.approx(load)


def test_the_load_is_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "5.42 3.28 3.23 8/117 31354\n")
    assert machine.load_average() == 5.42


def test_this_process_is_not_all_of_an_hour_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with blanks and brackets; started 1000 s after the machine, which is up for 1060 s; 30 s of CPU time."""
    monkeypatch.setattr(machine, "_read", lambda path: f"7 (a ) b (c) R {' '.join(['0'] * 18)} 100000 0 0\n")
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1060.0)
    monkeypatch.setattr(time, "process_time", lambda: 30.0)
    assert machine.own_load() == pytest.approx(0.3160602794)


def test_what_linux_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: None)
    assert machine.load_average() is machine.own_load() is machine.frequency_policy("scaling_governor") is None


def test_a_governor_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPU_FREQUENCY", tmp_path)
    (tmp_path / "scaling_governor").write_text("performance\n")
    assert machine.frequency_policy("scaling_governor") == "performance"
    assert machine.frequency_policy("scaling_driver") is None


@pytest.mark.parametrize(
    ("preload", "found"),
    [
        ("/usr/lib/libjemalloc.so.2", "libjemalloc.so.2"),
        ("/lib/libgomp.so:/opt/x y/libtcmalloc_minimal.so.4", "libtcmalloc_minimal.so.4"),
        ("/lib/libgomp.so.1 /usr/lib/libmimalloc.so", "libmimalloc.so"),
        ("/jemalloc/libgomp.so.1", None),
        ("", None),
    ],
)
def test_an_allocator_is_known_by_its_file(preload: str, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", preload)
    assert machine.preloaded_allocator() == found


def test_variables_are_those_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CPU_AFFINITY_CONF", "1")
    monkeypatch.setenv("NPU_FP16_MATMUL", "1")
    monkeypatch.setenv("HOME_ALONE", "1")
    assert machine.variables() == {"CPU_AFFINITY_CONF": "1", "NPU_FP16_MATMUL": "1"}
