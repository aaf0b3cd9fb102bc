"""The environment's facts: from files as Linux and CANN write them, from npu-smi, and without any of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import environment
from common.errors import UserError

Files = Callable[[dict[str, str]], None]
QUOTA_V2 = "/sys/fs/cgroup/cpu.max"
QUOTA_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
PERIOD_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Let these files, and no others, be there to read."""

    def lay(contents: dict[str, str]) -> None:
        def read_text(path: Path, *_: object, **__: object) -> str:
            if str(path) not in contents:
                raise FileNotFoundError(path)
            return contents[str(path)]

        monkeypatch.setattr(Path, "read_text", read_text)

    return lay


@pytest.mark.parametrize(
    ("contents", "quota"),
    [
        ({QUOTA_V2: "150000 100000\n"}, 1.5),
        ({QUOTA_V2: "max 100000\n"}, None),
        ({QUOTA_V1: "400000\n", PERIOD_V1: "100000\n"}, 4.0),
        ({QUOTA_V1: "-1\n", PERIOD_V1: "100000\n"}, None),
        ({QUOTA_V1: "400000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_is_that_of_either_cgroup(contents: dict[str, str], quota: float | None, files: Files) -> None:
    files(contents)
    assert environment.cpu_quota() == quota


@pytest.mark.parametrize(
    ("contents", "model"),
    [
        ({"/proc/cpuinfo": "processor\t: 0\nmodel name\t: Kunpeng 920\nflags\t: fp\n"}, "Kunpeng 920"),
        ({"/proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd01\n"}, "aarch64"),
        ({}, "aarch64"),
    ],
)
def test_a_processor_without_a_name_is_its_architecture(
    contents: dict[str, str], model: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(contents)
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    assert environment.cpu_model() == model


@pytest.mark.parametrize("folder", [".", "aarch64-linux"])
def test_cann_is_read_from_its_install_record(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert environment.cann_version() is None
    record = tmp_path / folder / "ascend_toolkit_install.info"
    record.parent.mkdir(exist_ok=True)
    record.write_text("package_name=Ascend-cann-toolkit\nversion=8.5.1\ninnerversion=V100R001C23\n")
    assert environment.cann_version() == "8.5.1"


def test_the_driver_has_a_version_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ASCEND_HOME", tmp_path)
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    assert environment.npu_driver_version() == "25.2.0"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ('#!/bin/sh\necho "npu-smi $1: two cards"\n', "npu-smi info: two cards"),
        ("#!/bin/sh\necho no driver >&2\nexit 3\n", "npu-smi: exit 3, no driver"),
        ("#!/no/such/shell\n", "npu-smi: [Errno 2] No such file or directory"),
        (None, "npu-smi: not found"),
    ],
)
def test_npu_smi_is_recorded_word_for_word_or_why_not(
    script: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "npu-smi").write_text(script)
        (tmp_path / "npu-smi").chmod(0o755)
    environment.npu_smi.cache_clear()
    try:
        assert environment.npu_smi().startswith(told)
    finally:
        environment.npu_smi.cache_clear()


def test_a_table_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"env_check\.log can't be written: .*; --log-dir names another folder"):
        environment.write_check(tmp_path / "file")


def test_what_is_unset_is_not_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package can be not found; a variable or a quota is not set."""
    host = replace(environment.describe_host(), cann=None, cpu_quota=None, visible_devices=None)
    monkeypatch.setattr(environment, "describe_host", lambda: host)
    environment.write_check(tmp_path)
    lines = dict(
        re.split(r" {2,}", line) for line in (tmp_path / "env_check.log").read_text().splitlines() if "  " in line
    )
    assert (lines["cann"], lines["cpu_quota"], lines["visible_devices"]) == ("not found", "not set", "not set")
