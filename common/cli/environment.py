"""What this machine and its packages are. Standard library only: it answers even when torch can't be imported."""

from __future__ import annotations

import datetime
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.cli.options import DEVICE_KINDS
from common.errors import UserError
from common.log import schema
from common.log.events import PACKAGES, Host, Packages

ASCEND_HOME = Path("/usr/local/Ascend")


def describe_host() -> Host:
    """The versions and the host side of an `env` event."""
    return Host(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=Packages(**{package: package_version(package) for package in PACKAGES}),
        cann=cann_version(),
        npu_driver=npu_driver_version(),
        cpu_model=cpu_model(),
        cpu_count=os.cpu_count(),
        cpu_quota=cpu_quota(),
        task_queue_enable=os.environ.get("TASK_QUEUE_ENABLE"),
        visible_devices=visible_devices(),
    )


def visible_devices() -> str | None:
    """The variable that restricts the devices of this process, as NAME=VALUE; None where there is none."""
    names = [kind.visible_devices for kind in DEVICE_KINDS.values()]
    return next((f"{name}={os.environ[name]}" for name in names if name and name in os.environ), None)


def descends(visible: str | None) -> bool:
    """Whether a variable NAME=1,0 lists devices in another order than the ascending one, in which CANN wants them."""
    numbers = [int(number) for number in (visible or "").partition("=")[2].split(",") if number.strip().isdecimal()]
    return numbers != sorted(numbers)


def write_check(log_dir: Path, **device: str) -> None:
    """Write env_check.log, the environment table that comes first of all; `device` adds what torch said of it."""
    checked = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"checked": checked, **schema.encode(describe_host()), **device}
    width = max(map(len, facts))
    missing = dict.fromkeys(("cpu_quota", "task_queue_enable", "visible_devices"), "not set")
    lines = [
        f"{name:<{width}}  {missing.get(name, 'not found') if value is None else value}"
        for name, value in facts.items()
    ]
    path = log_dir / "env_check.log"
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, "", npu_smi(), ""]), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}; --log-dir names another folder") from error


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_folder(package: str) -> Path | None:
    """Where a package's files are, without an import of it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def cann_version() -> str | None:
    """The CANN toolkit's version from its install record (Ascend documents `ascend_toolkit_install.info`)."""
    set_one = os.environ.get("ASCEND_HOME_PATH")
    usual = [ASCEND_HOME / "ascend-toolkit" / "latest", ASCEND_HOME / "cann", *sorted(ASCEND_HOME.glob("cann-*"))]
    name = "ascend_toolkit_install.info"
    toolkits = [Path(set_one)] if set_one else usual
    # */: one folder an architecture
    return _first_version(
        [path for toolkit in toolkits for path in (toolkit / name, *sorted(toolkit.glob(f"*/{name}")))]
    )


def npu_driver_version() -> str | None:
    return _first_version([ASCEND_HOME / "driver" / "version.info"])


def _first_version(paths: Iterable[Path]) -> str | None:
    """The value of the first `version=` or `Version=` line in the first of `paths` that has one."""
    for path in paths:
        try:
            found = re.search(r"^version\s*=\s*(\S+)", path.read_text(errors="replace"), re.MULTILINE | re.IGNORECASE)
        except OSError:
            continue
        if found:
            return found[1]
    return None


def cpu_model() -> str | None:
    """The processor's name as Linux gives it (aarch64 kernels give none: then the architecture)."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def cpu_quota() -> float | None:
    """How many CPUs the container may use at once (cgroup v2 `cpu.max`, v1 `cpu.cfs_*`); None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else int(quota) / int(period)


@functools.cache
def npu_smi() -> str:
    """What `npu-smi info` prints, word for word: its layout changes between drivers, so it is recorded, not parsed."""
    command = shutil.which("npu-smi")
    if command is None:
        return "npu-smi: not found"
    try:
        done = subprocess.run([command, "info"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npu-smi: {error}"
    return done.stdout.rstrip() or f"npu-smi: exit {done.returncode}, {done.stderr.strip()}"
